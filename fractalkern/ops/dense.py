"""`dense_outputs` and `dense_gradients`: public functions and fake kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the ops that the fake kernels belong to


def dense_outputs(x: Tensor, parameters: Tensor, layout: Sequence[int]) -> Tensor:
    """Outputs `[R, N, outputs]` of R ReLU networks; `fractalkern.reference.dense` says of what.

    All float32 on the CPU, `parameters` contiguous. A network's bits depend on it alone.

    >>> import torch
    >>> from fractalkern.ops.dense import dense_outputs
    >>> dense_outputs(torch.ones(1, 2), torch.tensor([[3.0, 4.0, 1.0]]), [2, 1, 0, 2]).tolist()
    [[[8.0]]]
    """
    outputs: Tensor = torch.ops.fractalkern.dense_outputs(x.contiguous(), parameters, layout)
    return outputs


def dense_gradients(
    x: Tensor, y: Tensor, parameters: Tensor, gradients: Tensor, layout: Sequence[int], loss: int
) -> Tensor:
    """Losses `[R]`; writes their gradients `[R, P]` into `gradients`, where layers are.

    >>> import torch
    >>> from fractalkern.ops.dense import dense_gradients
    >>> x, y, into = torch.ones(1, 1), torch.zeros(1), torch.zeros(1, 2)
    >>> dense_gradients(x, y, torch.tensor([[3.0, 1.0]]), into, [1, 1, 0, 1], 1).tolist()
    [16.0]
    >>> into.tolist()
    [[8.0, 8.0]]
    """
    losses: Tensor = torch.ops.fractalkern.dense_gradients(
        x.contiguous(), y.contiguous(), parameters, gradients, layout, loss
    )
    return losses


@torch.library.register_fake("fractalkern::dense_outputs")
def _outputs_fake(x: Tensor, parameters: Tensor, layout: list[int]) -> Tensor:
    return parameters.new_empty(parameters.shape[0], x.shape[-2], layout[-3])


@torch.library.register_fake("fractalkern::dense_gradients")
def _gradients_fake(
    x: Tensor, y: Tensor, parameters: Tensor, gradients: Tensor, layout: list[int], loss: int
) -> Tensor:
    return parameters.new_empty(parameters.shape[0])
