"""The oracle of `box_count`: pad, fold every axis into boxes, ask each box, add up."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad


def axis_origins(size: int, offsets: int) -> list[int]:
    """Distinct values of floor(j * size / offsets), ascending; `offsets` 0 means every origin."""
    count = min(offsets, size) if offsets else size
    return [j * size // count for j in range(count)]


def _touched(cells: Tensor, size: int, grid: Sequence[int], crop: bool) -> Tensor:
    """Boxes of one grid that hold a True cell: bool [B, *spatial] -> bool [B, *boxes]."""
    for origin in grid:
        cells = cells.movedim(1, -1)  # each spatial axis comes last once: the order is restored
        if crop:
            cells = cells[..., -origin % size :]
            cells = cells[..., : cells.shape[-1] // size * size]
        else:
            cells = pad(cells, (origin, -(cells.shape[-1] + origin) % size))
        cells = torch.unflatten(cells, -1, (cells.shape[-1] // size, size)).any(-1)
    return cells


def box_count(
    mask: Tensor, spatial_dims: int, sizes: Sequence[int], offsets: int, mixed: bool, crop: bool
) -> Tensor:
    """Boxes that touch a set, for every size and every grid of that size.

    Args:
        mask: bool [*batch, *spatial]; nonzero cells are in the set. B is the product of *batch.
        spatial_dims: how many trailing axes are spatial.
        sizes: box sides in cells.
        offsets: k >= 1 origins per axis, see `axis_origins`; 0 means all. An origin o starts the
            boxes at -o, -o + size, ...; the grids of a size are the Cartesian product of its
            axes' origins, the last axis changing fastest.
        mixed: count boxes with a nonzero and a zero cell, instead of boxes with a nonzero cell.
            Cells outside the array are neither.
        crop: count only boxes that lie wholly inside the array.

    Returns:
        int64 [B, G], G the number of grids of all sizes, in the order of `sizes`.
    """
    inside = (mask != 0)[None].flatten(0, -spatial_dims - 1)
    columns = []
    for size in sizes:
        for grid in product(axis_origins(size, offsets), repeat=spatial_dims):
            boxes = _touched(inside, size, grid, crop)
            if mixed:
                boxes = boxes & _touched(~inside, size, grid, crop)
            columns.append(boxes.flatten(1).sum(1))
    return torch.stack(columns, 1)
