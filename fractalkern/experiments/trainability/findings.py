"""The boundary's dimension in a finished grid, beside that of straight lines."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.dimension import DimensionResult, estimate_dimension
from fractalkern.edges import boundary
from fractalkern.errors import DegenerateBoundaryError
from fractalkern.random import uniform

CONTROL_LINES = 32
_CONTROL_STREAM = 5


@dataclass(frozen=True)
class Findings:
    """What a grid says; `dimension` is None where its boundary allows no fit, and `reason` why."""

    converged_fraction: float
    boundary_cells: int
    dimension: DimensionResult | None
    reason: str | None
    control: tuple[DimensionResult, ...]

    @property
    def control_dimension(self) -> float:
        """Mean over the control lines."""
        return math.fsum(float(line) for line in self.control) / len(self.control)


def find(value: Tensor, converged: Tensor, seed: int) -> Findings:
    """Measures a grid `[N, N]` of signed convergence values."""
    # Only signs matter to the boundary, and a loss of exactly zero makes an infinite value.
    signs = value.sign().to(torch.int8)
    fraction, cells = converged.double().mean().item(), int(boundary(signs).sum())
    dimension, reason = None, None
    try:
        dimension = estimate_dimension(signs)
    except DegenerateBoundaryError:
        reason = _reason(fraction, cells)
    lines = tuple(estimate_dimension(mask, null=None) for mask in half_planes(len(value), seed))
    return Findings(fraction, cells, dimension, reason, lines)


def _reason(converged_fraction: float, boundary_cells: int) -> str:
    if boundary_cells:
        return f"the boundary has only {boundary_cells} cells, too few for a fit"
    which = "all" if converged_fraction == 1 else "none"
    return f"{which} of the networks converged, so there is no boundary"


def half_planes(side: int, seed: int) -> list[Tensor]:
    """Masks bounded by a line of random angle through a random point of the middle half.

    The middle half, because a line across a mere corner has too few cells for a fit.
    """
    rows = torch.arange(side, dtype=torch.float64)
    masks = []
    for turn, *place in uniform((CONTROL_LINES, 3), seed=seed, stream=_CONTROL_STREAM).tolist():
        row, column = ((0.25 + 0.5 * u) * (side - 1) for u in place)
        angle = 2.0 * math.pi * turn
        across = math.cos(angle) * (rows - row)
        masks.append(across[:, None] + math.sin(angle) * (rows - column) > 0)
    return masks
