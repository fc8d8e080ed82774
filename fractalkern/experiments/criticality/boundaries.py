"""The decision boundaries of many networks on the grid of a window, and their dimensions."""

import math

import torch
from torch import Tensor

from fractalkern.box_dimension import box_dimension
from fractalkern.dimension import DimensionResult, estimate_dimension
from fractalkern.edges import sign_edges
from fractalkern.errors import DegenerateBoundaryError
from fractalkern.experiments.criticality.tasks import Window
from fractalkern.ops.box_count import box_count

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_PERCENTILE = 0.99


def grid_points(window: Window, side: int) -> Tensor:
    """Points `[side * side, 2]`, x along the last axis of the grid."""
    x = torch.linspace(window[0], window[1], side)
    y = torch.linspace(window[2], window[3], side)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def published_dimension(logits: Tensor) -> Tensor:
    """`estimate_dimension(..., estimator="asisr")` of the probabilities, for `[R, H, W]` at once.

    A count of zero, of a network that says the same everywhere, becomes 1 as in the original.
    """
    steep = _steepest(logits.sigmoid().double())
    counts = box_count(steep, list(_SIZES), spatial_dims=2).counts
    return box_dimension((_SIZES, counts.clamp(min=1))).dimension


def _steepest(values: Tensor) -> Tensor:
    """Cells above the 99th percentile of the central-difference gradient, cell units."""
    squared = _slope(values).square_().add_(_slope(values.mT).mT.square_()).flatten(1)
    # numpy.percentile's: between the two order statistics about the place. The root is monotone,
    # but what lies between is not the same of squares.
    place = _PERCENTILE * (squared.shape[1] - 1)
    above = squared.shape[1] - math.floor(place)
    top = squared.topk(above, dim=1).values.sqrt()
    low, high = top[:, -1], top[:, -2]
    threshold = low + (high - low) * (place - math.floor(place))
    return (squared > threshold.square()[:, None]).view(values.shape)


def _slope(values: Tensor) -> Tensor:
    """torch.gradient along the second axis of `[R, H, W]`, in a third of its passes."""
    slope = torch.empty_like(values)
    torch.sub(values[:, 2:], values[:, :-2], out=slope[:, 1:-1]).mul_(0.5)
    torch.sub(values[:, 1], values[:, 0], out=slope[:, 0])
    torch.sub(values[:, -1], values[:, -2], out=slope[:, -1])
    return slope


def edge_dimension(logits: Tensor) -> Tensor:
    """Slope of the sign-change edges of `[R, H, W]`; NaN where the boundary is too short to fit."""
    edges = sign_edges(logits, 2)
    counted = box_count(edges, spatial_dims=2)
    chosen = counted.sizes <= min(edges.shape[1:]) / 4
    counts = counted.counts[:, chosen]
    enough = counts[:, 0] >= min(edges.shape[1:]) / 4
    slopes = box_dimension((counted.sizes[chosen], counts.clamp(min=1))).dimension
    return slopes.masked_fill(~enough, math.nan)


def last_dimension(logits: Tensor, null_draws: int) -> DimensionResult | None:
    """Estimate, interval and null of one boundary `[H, W]`; None where there is none.

    A run that turned non-finite has none either.
    """
    if not logits.isfinite().all():
        return None
    try:
        return estimate_dimension(logits, null="smooth", null_draws=null_draws)
    except DegenerateBoundaryError:
        return None
