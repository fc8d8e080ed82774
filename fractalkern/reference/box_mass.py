"""The oracles of `box_mass` and `gliding_mass`: fold every axis into boxes, or slide along it."""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from fractalkern.reference.box_count import axis_origins


def _grid_sums(cells: Tensor, size: int, grid: Sequence[int]) -> Tensor:
    """[B, *spatial] -> sums of the boxes of one grid [B, *boxes]."""
    for origin in grid:
        cells = cells.movedim(1, -1)  # each spatial axis comes last once: the order is restored
        cells = pad(cells, (origin, -(cells.shape[-1] + origin) % size))
        cells = torch.unflatten(cells, -1, (cells.shape[-1] // size, size)).sum(-1)
    return cells


def _with_batch(weights: Tensor, spatial_dims: int) -> Tensor:
    """[B, *spatial], int64 or float64."""
    dtype = torch.float64 if weights.is_floating_point() else torch.int64
    return weights.to(dtype)[None].flatten(0, -spatial_dims - 1)


def box_mass(weights: Tensor, spatial_dims: int, sizes: Sequence[int], offsets: int) -> Tensor:
    """Sums of weights over every box of every grid of every size.

    Args:
        weights: [*batch, *spatial]; bool counts cells. B is the product of *batch.
        spatial_dims: how many trailing axes are spatial.
        sizes: box sides in cells.
        offsets: k >= 1 origins per axis, see `axis_origins`; 0 means all. An origin o starts the
            boxes at -o, -o + size, ...; the grids of a size are the Cartesian product of its
            axes' origins, the last axis changing fastest.

    Returns:
        [B, T], int64 or, for floating point, float64: the boxes of each grid in row-major order,
        grid after grid, in the order of `sizes`. Integers are added modulo 2^64.
    """
    cells = _with_batch(weights, spatial_dims)
    columns = [
        _grid_sums(cells, size, grid).flatten(1)
        for size in sizes
        for grid in product(axis_origins(size, offsets), repeat=spatial_dims)
    ]
    return torch.cat(columns, 1)


def gliding_mass(weights: Tensor, spatial_dims: int, sizes: Sequence[int]) -> Tensor:
    """Moments of the mass M of a box over all positions wholly inside the array.

    Args:
        weights: [*batch, *spatial], bool or integer. B is the product of *batch.
        spatial_dims: how many trailing axes are spatial.
        sizes: box sides in cells.

    Returns:
        int64 [B, S, 4]: number of positions, sum of M modulo 2^64, and the sum of M², exact, in two
        words: div 2^62 and mod 2^62.
    """
    cells = _with_batch(weights, spatial_dims)
    moments = torch.empty(len(cells), len(sizes), 4, dtype=torch.int64, device=cells.device)
    for column, size in enumerate(sizes):
        boxes = cells
        for axis in range(1, spatial_dims + 1):
            boxes = boxes.unfold(axis, size, 1).sum(-1)
        for row, masses in enumerate(boxes.flatten(1)):
            values, counts = masses.unique(return_counts=True)  # few: squares as Python integers
            pairs = zip(values.tolist(), counts.tolist(), strict=True)
            square = sum(count * mass * mass for mass, count in pairs)
            total = masses.sum()
            moments[row, column, 0] = math.prod(boxes.shape[1:])
            moments[row, column, 1] = total
            moments[row, column, 2] = square >> 62
            moments[row, column, 3] = square & (2**62 - 1)
    return moments
