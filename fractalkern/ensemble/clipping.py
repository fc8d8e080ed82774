"""Gradient clipping, a norm a run."""

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_norms(grads: Sequence[Tensor], largest: Tensor) -> None:
    """Scales the rows of the flat stacks, taken together, to norms of at most `largest` `[rows]`.

    As `torch.nn.utils.clip_grad_norm_`, in place: by min(1, largest / (norm + 1e-6)).

    >>> import torch
    >>> from fractalkern.ensemble.clipping import clip_norms
    >>> grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> clip_norms([grad], torch.tensor([1.0, 1.0]))
    >>> grad.norm(dim=1).round(decimals=4).tolist()
    [1.0, 0.5]
    """
    norms = torch.stack([torch.linalg.vector_norm(grad, dim=1) for grad in grads]).norm(dim=0)
    factors = (largest.to(norms.dtype) / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factors[:, None])
