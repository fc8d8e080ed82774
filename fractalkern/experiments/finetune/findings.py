"""What the grid says: labels, the boundary's dimension, and how much of it is the order of data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.dimension import DimensionResult, estimate_dimension
from fractalkern.edges import boundary, dilation_xor_erosion
from fractalkern.errors import DegenerateBoundaryError
from fractalkern.experiments.finetune.config import FinetuneConfig
from fractalkern.experiments.finetune.training import Cell
from fractalkern.experiments.study import Series
from fractalkern.nulls import NullName

NULLS: tuple[NullName, ...] = ("smooth", "smooth+noise", "marginal")


@dataclass(frozen=True, eq=False)
class Boundary:
    """The boundary of one seed's labels.

    Attributes:
        published: by the rule of the original; None where the boundary allows none.
        results: beside each null, by its name; empty where the boundary allows no fit.
        reason: why something is missing, or empty.
        published_pixels: cells that the original counts as boundary.
    """

    published: DimensionResult | None
    results: dict[NullName, DimensionResult]
    reason: str
    published_pixels: int


@dataclass(frozen=True, eq=False)
class Findings:
    """Grids `[seeds, N, N]`, the matrices' rate along the first axis of a grid.

    Attributes:
        scalars: by name, NaN where a loss was not finite.
        converged: bool, by the criterion of the protocol.
        stable: bool, whether all losses were finite.
        boundaries: of each seed.
        line: least and largest dimension that the original's rule gives to straight edges along a
            row of the middle half of a mask of this size.
        disagreeing: share of the cells whose label depends on the seed; None for one seed.
        band: those cells over the cells of the boundary, the mean over the seeds: about how many
            cells wide the band is in which labels depend on the seed; None without a boundary.
    """

    scalars: dict[str, Tensor]
    converged: Tensor
    stable: Tensor
    boundaries: list[Boundary]
    line: tuple[float, float]
    disagreeing: float | None
    band: float | None

    @property
    def ratio(self) -> Tensor:
        """Of the losses that the criterion compares `[seeds, N, N]`, NaN where one is missing."""
        return self.scalars["ratio"]


def find(config: FinetuneConfig, series: Series, cells: list[Cell]) -> Findings:
    """Measures the grids of all seeds; row r of `series` is of cell r."""
    n = config.resolution
    assert len(cells) == config.seeds * n * n
    scalars = {name: one.double().view(config.seeds, n, n) for name, one in series.scalars.items()}
    names = ("probe_after", "probe_before")
    if config.protocol == "published":
        names = ("last_loss", "first_loss")
    scalars["ratio"] = scalars[names[0]] / scalars[names[1]]
    converged = scalars["ratio"] < 1  # no NaN is
    stable = (scalars["last_loss"] + scalars["probe_after"]).isfinite()
    disagreeing = band = None
    if config.seeds > 1:
        differ = converged.any(dim=0) & ~converged.all(dim=0)
        disagreeing = float(differ.double().mean())
        cells_of_boundary = int(boundary(converged, spatial_dims=2).sum()) / config.seeds
        band = int(differ.sum()) / cells_of_boundary if cells_of_boundary else None
    boundaries = [_boundary(mask) for mask in converged]
    return Findings(scalars, converged, stable, boundaries, _line(n), disagreeing, band)


def _boundary(mask: Tensor) -> Boundary:
    pixels = int(dilation_xor_erosion(mask).sum())
    try:
        published = estimate_dimension(mask, estimator="fllm")
    except DegenerateBoundaryError:
        return Boundary(None, {}, _why_no_fit(mask), pixels)
    try:
        results = {null: estimate_dimension(mask, null=null) for null in NULLS}
    except DegenerateBoundaryError:
        return Boundary(published, {}, _why_no_fit(mask), pixels)
    return Boundary(published, results, "", pixels)


def _why_no_fit(mask: Tensor) -> str:
    if mask.all() or not mask.any():
        return f"{'all' if mask.all() else 'none'} of the runs converged"
    return "the boundary has too few cells for a fit"


def _line(n: int) -> tuple[float, float]:
    rows = torch.arange(n)[:, None].expand(n, n)
    lines = [
        float(estimate_dimension(rows < row, estimator="fllm")) for row in range(n // 4, 3 * n // 4)
    ]
    return min(lines), max(lines)
