"""Statistics of many synthetic boundaries, computed on all cores: what both studies start from."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern import synthetic
from fractalkern.boundary_statistics import OF_EACH, BoundaryStatistics, boundary_statistics

SMOOTH: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "line": synthetic.straight_lines,
    "circle": synthetic.circles,
    "contour": synthetic.smooth_contours,
}


@dataclass(frozen=True)
class Batch:
    """`count` boundaries of one kind; their seed is all that is random."""

    kind: str
    side: int
    count: int
    seed: int


def fields(batch: Batch) -> tuple[Tensor, float]:
    """The fields of a batch and their true dimension; "brownian" draws that, 1 to 2, first."""
    generator = torch.Generator().manual_seed(batch.seed)
    if batch.kind in SMOOTH:
        return SMOOTH[batch.kind](batch.count, batch.side, generator), 1.0
    dimension = 1 + float(torch.rand((), generator=generator))
    dimension = min(max(dimension, 1.005), 1.995)
    return synthetic.brownian_level_sets(batch.count, batch.side, dimension, generator), dimension


def statistics_of(batch: Batch) -> tuple[BoundaryStatistics, float]:
    """Statistics of a batch on one thread, and its true dimension."""
    torch.set_num_threads(1)
    values, dimension = fields(batch)
    return boundary_statistics(values < 0), dimension


def simulate(
    kind: str, side: int, count: int, *, seed: int, batch: int
) -> tuple[BoundaryStatistics, Tensor]:
    """Statistics of `count` boundaries and their dimensions `[count]`."""
    batches = [Batch(kind, side, batch, seed + i * 1_000_003) for i in range(-(-count // batch))]
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(statistics_of, batches))
    parts, dimensions = zip(*results, strict=True)
    joined = BoundaryStatistics(
        sizes=parts[0].sizes,
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in OF_EACH},
    )
    return joined, torch.tensor(dimensions, dtype=torch.float64).repeat_interleave(batch)
