"""The published ways from a field or a mask to a slope, their biases included, and our own.

Each takes one array `[*spatial]` that has been checked and returns `SlopeFit`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fractalkern.box_dimension import BoxDimension, box_dimension
from fractalkern.edges import MASK_DTYPES, both_sides, dilation_xor_erosion, sign_edges, steep_cells
from fractalkern.errors import DegenerateBoundaryError, InputError
from fractalkern.ops._inputs import FLOAT_DTYPES
from fractalkern.ops.box_count import box_count

OP = "estimate_dimension"

_MIN_CELLS_OF_A_LINE = 3
_LARGEST_OF_THREE = 4  # powers of two: 1, 2, 4


@dataclass(frozen=True, eq=False)
class SlopeFit:
    """A fitted slope, float64: scalars, and `[S]` for what is per size."""

    slope: Tensor
    stderr: Tensor
    r2: Tensor
    sizes: Tensor
    counts: Tensor
    local_slopes: Tensor
    boundary_cells: int


def sign_edges_slope(
    values: Tensor, sizes: list[int] | None = None, origins: int | Literal["all"] = 1
) -> SlopeFit:
    """Sign-change edges, counts averaged over grid origins, powers of two up to N / 4."""
    edges = _checked_sign_edges(values)
    if sizes is None and min(edges.shape) < 4 * _LARGEST_OF_THREE:
        raise InputError(
            f"{OP}: values_or_mask must have at least {4 * _LARGEST_OF_THREE + 1} cells along each "
            f"axis to fit 3 box sizes up to a quarter of the side, got shape {tuple(values.shape)}"
        )
    counted = box_count(edges, sizes, offsets=origins)
    chosen = counted.sizes <= min(edges.shape) / 4 if sizes is None else counted.sizes > 0
    fit = box_dimension((counted.sizes[chosen], counted.mean[chosen]))
    return _result(edges, fit)


def fllm(values: Tensor, *, added: int = 1) -> SlopeFit:
    """Dilation XOR erosion; sizes 2 to 64 below N; least squares of log(count + 1)."""
    converged = values != 0 if values.dtype in MASK_DTYPES else values < 0
    # The frame of a full mask would pass for its boundary.
    _check_two_sided(converged, ~converged, values.dtype)
    edges = _checked_boundary(dilation_xor_erosion(converged))
    sizes = [size for size in (2, 4, 8, 16, 32, 64) if size < min(edges.shape)]
    counts = box_count(edges, sizes).counts
    return _result(edges, box_dimension((sizes, counts + added)), counts=counts.double())


def fllm_viz(values: Tensor) -> SlopeFit:
    """The same without the + 1."""
    return fllm(values, added=0)


def sohl_dickstein(values: Tensor) -> SlopeFit:
    """Boxes that hold edge and other cells, ten sizes from 10 to N; the median local slope."""
    edges = _checked_sign_edges(values)
    side = min(edges.shape)
    if side < 10:
        raise InputError(
            f"{OP}: values_or_mask must have at least 11 cells along each axis for estimator "
            f"'sohl-dickstein', got {side + 1}"
        )
    sizes = np.unique(np.logspace(1, np.log10(side), 10).astype(np.int64)).tolist()
    fit = box_dimension((sizes, box_count(edges, sizes, rule="mixed").counts))
    slopes = fit.local_slopes
    # torch.median takes the lower of the two middle values, NumPy's and the original's their mean.
    median = slopes.quantile(0.5)
    stderr = math.sqrt(math.pi / 2) * slopes.std() / math.sqrt(len(slopes))
    return _result(edges, fit, slope=median, stderr=stderr)


def asisr(values: Tensor) -> SlopeFit:
    """Cells steeper than 99 % of all; sizes 1 to 64."""
    if values.dtype not in FLOAT_DTYPES or values.ndim != 2:
        raise InputError(
            f"{OP}: values_or_mask must be a [H, W] grid of float probabilities for estimator "
            f"'asisr', got {values.dtype} of shape {tuple(values.shape)}"
        )
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"{OP}: values_or_mask must lie in [0, 1] for estimator 'asisr', got values from "
            f"{values.min():g} to {values.max():g}"
        )
    edges = _checked_boundary(steep_cells(values, percentile=99))
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= min(edges.shape)]
    return _result(edges, box_dimension((sizes, box_count(edges, sizes).counts)))


PUBLISHED: dict[str, Callable[[Tensor], SlopeFit]] = {
    "fllm": fllm,
    "fllm-viz": fllm_viz,
    "sohl-dickstein": sohl_dickstein,
    "asisr": asisr,
}


def _result(
    edges: Tensor,
    fit: BoxDimension,
    *,
    slope: Tensor | None = None,
    stderr: Tensor | None = None,
    counts: Tensor | None = None,
) -> SlopeFit:
    return SlopeFit(
        slope=fit.dimension if slope is None else slope,
        stderr=fit.stderr if stderr is None else stderr,
        r2=fit.r2,
        sizes=fit.sizes,
        counts=fit.counts if counts is None else counts,
        local_slopes=fit.local_slopes,
        boundary_cells=int(edges.sum()),
    )


def _check_two_sided(high: Tensor, low: Tensor, dtype: torch.dtype) -> None:
    if not (high.any() and low.any()):
        kind = "values, got a mask that is all 0 or all 1"
        if dtype not in MASK_DTYPES:
            kind = "signs, got values of one sign (pass a mask as bool)"
        raise DegenerateBoundaryError(
            f"{OP}: values_or_mask must hold both {kind}: it has no boundary"
        )


def _checked_sign_edges(values: Tensor) -> Tensor:
    edges = sign_edges(values, values.ndim)
    if not edges.any():
        _check_two_sided(*both_sides(values), values.dtype)
    return _checked_boundary(edges)


def _checked_boundary(edges: Tensor) -> Tensor:
    # A curve or surface needs the length of the largest box; the points of a line only a count.
    least = _MIN_CELLS_OF_A_LINE if edges.ndim == 1 else math.ceil(min(edges.shape) / 4)
    cells = int(edges.sum())
    if cells < least:
        raise DegenerateBoundaryError(
            f"{OP}: values_or_mask must have at least {least} boundary cells to fit a dimension to "
            f"an array of shape {tuple(edges.shape)}, got {cells}"
        )
    return edges
