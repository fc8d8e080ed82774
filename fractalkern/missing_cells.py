"""Cells of a grid that were never run: how they are filled, and what they could change."""

import torch
from torch import Tensor

from fractalkern.edges import both_sides, sign_edges


def filled(values: Tensor, missing: Tensor) -> Tensor:
    """Signs int8 `[H, W, ...]`, missing cells taking that of most direct neighbours already known.

    Layer by layer from the known cells inwards; a tie is positive.
    """
    high, low = both_sides(values)
    signs = (high.to(torch.int8) - low.to(torch.int8)) * ~missing
    unknown = missing.clone()
    while unknown.any():
        votes = torch.zeros_like(signs)
        known = torch.zeros_like(unknown)
        for axis in range(signs.ndim):
            count = signs.shape[axis] - 1
            for start, other in ((0, 1), (1, 0)):
                votes.narrow(axis, start, count).add_(signs.narrow(axis, other, count))
                known.narrow(axis, start, count).logical_or_(~unknown.narrow(axis, other, count))
        reached = unknown & known
        signs = torch.where(reached, torch.where(votes < 0, -1, 1).to(torch.int8), signs)
        unknown &= ~reached
    return signs


def edge_bounds(values: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Edges that are there whatever the missing cells are, and all that could be, bool."""
    high, low = both_sides(values)
    sure = sign_edges(
        (high & ~missing).to(torch.int8) - (low & ~missing).to(torch.int8), values.ndim
    )
    touched = missing
    for axis in range(missing.ndim):
        count = touched.shape[axis] - 1
        touched = touched.narrow(axis, 0, count) | touched.narrow(axis, 1, count)
    return sure, sure | touched
