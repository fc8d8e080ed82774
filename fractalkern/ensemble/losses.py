"""The usual losses as objects, so that the engine can tell what they are; any function serves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """F.binary_cross_entropy_with_logits of model(x), in y's shape, and y from 0 to 1.

    >>> import torch
    >>> from fractalkern.ensemble import BinaryCrossEntropy
    >>> round(float(BinaryCrossEntropy()(lambda x: x, torch.zeros(3, 1), torch.ones(3))), 4)
    0.6931
    """

    code: ClassVar[int] = 0
    dtype: ClassVar[torch.dtype] = torch.float32

    def __call__(self, model: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
        """The mean over all elements."""
        return F.binary_cross_entropy_with_logits(model(x).reshape(y.shape), y)


@dataclass(frozen=True)
class MeanSquaredError:
    """F.mse_loss of model(x), in y's shape, and y."""

    code: ClassVar[int] = 1
    dtype: ClassVar[torch.dtype] = torch.float32

    def __call__(self, model: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
        """The mean over all elements."""
        return F.mse_loss(model(x).reshape(y.shape), y)


@dataclass(frozen=True)
class CrossEntropy:
    """F.cross_entropy of model(x) [N, classes] and the labels y [N]."""

    code: ClassVar[int] = 2
    dtype: ClassVar[torch.dtype] = torch.int64

    def __call__(self, model: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
        """The mean over the examples."""
        return F.cross_entropy(model(x), y)
