"""What a dimension is inferred from: box counts of a boundary, and how often its sides change."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fractalkern.edges import sign_edges
from fractalkern.ops.box_count import box_count

Cells = npt.NDArray[np.bool_]

ORIGINS = 4  # grids per axis over which box counts are averaged


@dataclass(frozen=True, eq=False)
class BoundaryStatistics:
    """Counts over S scales of B masks `[H, W]`, float64.

    Attributes:
        sizes: scales in cells, ascending `[S]`.
        counts: boxes of each size that hold an edge, the mean over grid origins, `[B, S]`.
        ends: times the boundary leaves through the frame, `[B]`.
        flips: share of pairs of cells at this distance along an axis on different sides, `[B, S]`.
        returns: share of such pairs, twice in line, that flip and flip back, of all that flip,
            `[B, S]`: 0 where a boundary crosses once, more the rougher it is.
        lone: cells unlike all four neighbours, `[B]`: islands and holes of one cell.
        inside: share of the cells inside, `[B]`.
    """

    sizes: Tensor
    counts: Tensor
    ends: Tensor
    flips: Tensor
    returns: Tensor
    lone: Tensor
    inside: Tensor


# The fields with an entry for each mask.
OF_EACH = tuple(field.name for field in fields(BoundaryStatistics) if field.name != "sizes")


def scales(side: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, ... up to side / 8: powers of two and three times them."""
    powers = [2**i for i in range(side.bit_length())]
    return tuple(sorted(s for s in (*powers, *(3 * p for p in powers)) if 8 * s <= side))


def boundary_statistics(inside: Tensor) -> BoundaryStatistics:
    """The statistics of masks bool `[B, H, W]` on the CPU, at `scales(min(H, W))`."""
    sizes = scales(min(inside.shape[-2:]))
    cells = inside.numpy()
    pairs = [[_pairs(mask, lag) for lag in sizes] for mask in cells]
    flips, returns = torch.tensor(pairs, dtype=torch.float64).reshape(-1, len(sizes), 2).unbind(-1)
    return BoundaryStatistics(
        sizes=torch.tensor(sizes, dtype=torch.float64),
        counts=mean_counts(inside, sizes),
        ends=torch.tensor([_ends(mask) for mask in cells], dtype=torch.float64),
        flips=flips,
        returns=returns,
        lone=torch.tensor([_lone(mask) for mask in cells], dtype=torch.float64),
        inside=inside.flatten(1).double().mean(1),
    )


def mean_counts(inside: Tensor, sizes: tuple[int, ...], origins: int = ORIGINS) -> Tensor:
    """Boxes that hold an edge, averaged over up to `origins` grid origins an axis, `[B, S]`."""
    return box_count(sign_edges(inside, 2), sizes, spatial_dims=2, offsets=origins).mean


def without_ends(counts: Tensor, ends: Tensor, sizes: Tensor) -> Tensor:
    """Counts less the part of boxes at the frame that comes from beyond a boundary's ends.

    A segment of l cells along an axis meets 1 + (l - 1) / s boxes of side s on average over all
    origins, (s - 1) / 2s more for each end than l / s; where the boundary is closed in itself
    nothing is taken off. A straight line then has the dimension 1 at every scale.
    """
    return counts - ends[:, None] * (sizes - 1) / (2 * sizes)


def _pairs(mask: Cells, lag: int) -> tuple[float, float]:
    """Share of flips at a distance of `lag` cells, and share of those that flip back."""
    flips = returns = both = total = 0
    for cells in (mask, np.ascontiguousarray(mask.T)):
        flipped = cells[lag:] ^ cells[:-lag]
        total += flipped.size
        flips += int(np.count_nonzero(flipped))
        before, after = flipped[:-lag], flipped[lag:]
        both += int(np.count_nonzero(before)) + int(np.count_nonzero(after))
        returns += 2 * int(np.count_nonzero(before & after))
    return flips / total, returns / max(both, 1)


def _lone(mask: Cells) -> int:
    inner = mask[1:-1, 1:-1]
    neighbours = (mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:])
    return int(np.count_nonzero(np.logical_and.reduce([inner ^ other for other in neighbours])))


def _ends(mask: Cells) -> int:
    frame = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return sum(int(np.count_nonzero(line[1:] != line[:-1])) for line in frame)
