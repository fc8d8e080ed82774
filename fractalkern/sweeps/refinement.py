"""A grid's picture from a part of its cells: a coarse lattice first, then only where labels change.

On a lattice of every `stride`-th row and column (and the last of each) a block is the cells
between four neighbouring points. A block is active if its corners differ or a block within `reach`
of it has corners that differ. Corners of active blocks are computed until no block becomes active
any more, so that a boundary is followed as far as it is connected; then the stride is halved inside
the active blocks, down to 1. A cell that no active block holds is skipped: it takes the label of a
corner of its block. What that can miss is an island of the other label between lattice points, so
a random share of the skipped cells is computed too. A miss found there is repaired by going on from
it as from any other change of label, and the share of misses bounds the share missed in all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fractalkern import random
from fractalkern.confidence import clopper_pearson_upper
from fractalkern.errors import InputError

Cells = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Flat numbers of cells, row by row and ascending -> their values and labels.
Evaluate = Callable[[Cells], tuple[NDArray[np.float64], Mask]]

CONFIDENCE = 0.95
_SAMPLE_STREAM = 6


@dataclass(frozen=True, eq=False)
class Refinement:
    """A grid `[H, W]` of which some cells were computed and the others hold a neighbour's label.

    Attributes:
        value: NaN where skipped.
        label: computed, or held.
        computed: which cells were.
        source: flat number of the computed cell whose label each cell holds; its own if computed.
        sampled: skipped cells that were drawn at random and computed.
        missed: how many of them had the other label.
        repaired: cells that were computed because of these misses.
        missed_bound: upper 95 % Clopper-Pearson limit of the share of skipped cells, counted before
            the repair, that had the other label. After it no more do.
    """

    value: NDArray[np.float64]
    label: Mask
    computed: Mask
    source: Cells
    sampled: int
    missed: int
    repaired: int
    missed_bound: float

    @property
    def computed_fraction(self) -> float:
        """Share of the grid that was computed, sample and repair included."""
        return float(self.computed.mean())

    @property
    def skipped_before_repair(self) -> int:
        """The cells that `missed_bound` is a share of."""
        return int((~self.computed).sum()) + self.sampled + self.repaired

    @property
    def missed_bound_of_grid(self) -> float:
        """The same limit as a share of all cells."""
        return self.missed_bound * self.skipped_before_repair / self.computed.size

    def shown(self) -> NDArray[np.float64]:
        """The values, with that of its source in each skipped cell: for pictures alone."""
        return self.value.ravel()[self.source]


def refine(
    evaluate: Evaluate,
    shape: tuple[int, int],
    *,
    seed: int,
    stride: int = 8,
    reach: int = 2,
    sample: float = 0.01,
) -> Refinement:
    """Computes the cells near a change of label, and a sample of the others.

    Args:
        evaluate: values and labels of cells; called once for each cell at most.
        shape: rows and columns, at least 2 each.
        seed: of the sample, by Philox4x32-10.
        stride: of the first lattice, a power of two.
        reach: blocks about a change that are active with it, at least 0.
        sample: share of the skipped cells to compute, in (0, 1]; rounded up to whole cells.

    Returns:
        Refinement. Deterministic.

    Raises:
        InputError: an argument out of its range.

    >>> from fractalkern.sweeps.refinement import refine
    >>> result = refine(lambda c: (c / 64 - 20.2, c % 64 < 30), (64, 64), seed=0)
    >>> (result.label[5, 29:31].tolist(), result.missed, result.computed_fraction < 0.5)
    ([True, False], 0, True)
    """
    _check(shape, stride, reach, sample)
    grid = _Grid(evaluate, shape, reach)
    grid.compute(grid.lattice_cells(stride))
    while True:
        active = grid.follow(stride)
        if stride == 1:
            break
        stride //= 2
        grid.compute(grid.inside(active, stride))
    skipped = np.flatnonzero(~grid.computed)
    drawn = _draw(skipped, -int(-sample * len(skipped) // 1), seed)
    missed = grid.compute(drawn)
    before = int(grid.computed.sum())
    if missed:
        grid.follow(1)
    bound = clopper_pearson_upper(missed, len(drawn), CONFIDENCE) if len(drawn) else 0.0
    return Refinement(
        value=grid.value.reshape(shape),
        label=grid.label[grid.source].reshape(shape),
        computed=grid.computed.reshape(shape),
        source=grid.source.reshape(shape),
        sampled=len(drawn),
        missed=missed,
        repaired=int(grid.computed.sum()) - before,
        missed_bound=bound,
    )


class _Grid:
    """What is known so far; all arrays are flat."""

    def __init__(self, evaluate: Evaluate, shape: tuple[int, int], reach: int) -> None:
        self._evaluate, self._shape, self._reach = evaluate, shape, reach
        cells = shape[0] * shape[1]
        self.value = np.full(cells, np.nan)
        self.label = np.zeros(cells, dtype=np.bool_)
        self.computed = np.zeros(cells, dtype=np.bool_)
        self.source = np.zeros(cells, dtype=np.int64)

    def compute(self, cells: Cells) -> int:
        """Computes these cells, none of which was; returns how many had held the other label."""
        if not len(cells):
            return 0
        held = self.label[self.source[cells]]
        self.value[cells], self.label[cells] = self._evaluate(cells)
        self.computed[cells] = True
        self.source[cells] = cells
        return int((self.label[cells] != held).sum())

    def lattice_cells(self, stride: int) -> Cells:
        """All points of a lattice."""
        return self._points(stride).ravel()

    def follow(self, stride: int) -> Mask:
        """Computes the corners of active blocks until there is none left; returns the active."""
        points = self._points(stride)
        while True:
            labels = self.label[self.source[points]]
            active = _dilated(_mixed(labels), self._reach)
            corners = points[_corners(active)]
            corners = corners[~self.computed[corners]]
            if not len(corners):
                break
            self.compute(corners)
        self._hold(stride)
        return active

    def inside(self, active: Mask, stride: int) -> Cells:
        """The points of a lattice that are not computed in blocks of twice its stride."""
        spans = []
        for side in self._shape:
            fine, coarse = _lattice(side, stride), _lattice(side, 2 * stride)
            last = len(coarse) - 2
            # A point on the line between two blocks is in both.
            before = np.clip(np.searchsorted(coarse, fine, "left") - 1, 0, last)
            after = np.clip(np.searchsorted(coarse, fine, "right") - 1, 0, last)
            spans.append((before, after))
        rows, columns = spans
        inside = np.logical_or.reduce([active[np.ix_(r, c)] for r in rows for c in columns])
        points = self._points(stride)[inside]
        return points[~self.computed[points]]

    def _points(self, stride: int) -> Cells:
        rows, columns = (_lattice(side, stride) for side in self._shape)
        return rows[:, None] * self._shape[1] + columns

    def _hold(self, stride: int) -> None:
        """Gives every cell that is not computed the label of its block's first corner."""
        rows, columns = (
            lattice[np.searchsorted(lattice, np.arange(side), "right") - 1]
            for lattice, side in ((_lattice(side, stride), side) for side in self._shape)
        )
        corner = (rows[:, None] * self._shape[1] + columns).ravel()
        self.source = np.where(self.computed, self.source, self.source[corner])


def _lattice(side: int, stride: int) -> Cells:
    """Every `stride`-th of `side` rows, and the last."""
    points = np.arange(0, side, stride)
    return points if points[-1] == side - 1 else np.append(points, side - 1)


def _mixed(labels: Mask) -> Mask:
    """Blocks `[H - 1, W - 1]` whose four corners differ."""
    corners = labels[:-1, :-1], labels[:-1, 1:], labels[1:, :-1], labels[1:, 1:]
    mixed: Mask = np.logical_or.reduce(corners) & ~np.logical_and.reduce(corners)
    return mixed


def _dilated(blocks: Mask, reach: int) -> Mask:
    """Blocks within `reach` of a set one, diagonals included."""
    for axis in (0, 1):
        grown = blocks.copy()
        for shift in range(1, reach + 1):
            ahead = [slice(None), slice(None)]
            behind = [slice(None), slice(None)]
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= blocks[tuple(behind)]
            grown[tuple(behind)] |= blocks[tuple(ahead)]
        blocks = grown
    return blocks


def _corners(blocks: Mask) -> Mask:
    """Points `[H, W]` that are a corner of a set block `[H - 1, W - 1]`."""
    points = np.zeros((blocks.shape[0] + 1, blocks.shape[1] + 1), dtype=np.bool_)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            points[rows, columns] |= blocks
    return points


def _draw(cells: Cells, count: int, seed: int) -> Cells:
    """`count` different ones of the cells, all choices equally likely, ascending."""
    if not count:
        return cells[:0]
    draws = 2 * count
    while True:
        numbers = random.integers((draws,), len(cells), seed=seed, stream=_SAMPLE_STREAM).numpy()
        _, first = np.unique(numbers, return_index=True)
        if len(first) >= count:
            return np.sort(cells[numbers[np.sort(first)[:count]]])
        draws *= 2


def _check(shape: tuple[int, int], stride: int, reach: int, sample: float) -> None:
    if min(shape) < 2:
        raise InputError(f"refine: shape must have at least 2 rows and columns, got {shape}")
    if stride < 1 or stride & (stride - 1):
        raise InputError(f"refine: stride must be a power of two, got {stride}")
    if reach < 0:
        raise InputError(f"refine: reach must be at least 0, got {reach}")
    if not 0 < sample <= 1:
        raise InputError(f"refine: sample must lie in (0, 1], got {sample}")
