"""Gradient clipping, a norm a run."""

from collections.abc import Sequence

import torch
from torch import Tensor


def row_norms(stacks: Sequence[Tensor]) -> Tensor:
    """Norms `[rows]` of the rows of flat stacks, taken together."""
    parts = torch.stack([torch.linalg.vector_norm(stack, dim=1) for stack in stacks])
    norms: Tensor = torch.linalg.vector_norm(parts, dim=0)
    return norms


def clip_factors(norms: Tensor, largest: Tensor) -> Tensor:
    """What scales gradients of `norms` `[rows]` to norms of at most `largest` `[rows]`.

    As `torch.nn.utils.clip_grad_norm_`: min(1, largest / (norm + 1e-6)).

    >>> import torch
    >>> from fractalkern.ensemble.clipping import clip_factors
    >>> clip_factors(torch.tensor([5.0, 0.5]), torch.tensor([1.0, 1.0])).tolist()
    [0.19999995827674866, 1.0]
    """
    factors = largest.to(norms.dtype) / (norms + 1e-6)
    return factors.nan_to_num(nan=1.0).clamp(max=1.0)  # inf / inf: no limit, and a norm too large


def clipped(grad: Tensor, factors: Tensor | None) -> Tensor:
    """`grad` `[rows, P]` times `factors` `[rows]`, if any, in place."""
    return grad if factors is None else grad.mul_(factors[:, None])
