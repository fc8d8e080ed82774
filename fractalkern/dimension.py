"""From a field or a mask to the box-counting dimension of its boundary: edges, counts, fit."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fractalkern.edges import (
    MASK_DTYPES,
    both_sides,
    checked_values,
    dilation_xor_erosion,
    sign_edges,
    steep_cells,
)
from fractalkern.errors import DegenerateBoundaryError, InputError, InputTypeError
from fractalkern.ops._inputs import FLOAT_DTYPES, as_tensor
from fractalkern.ops.box_count import BoxCounts, box_count

Estimator = Literal["sign-edges", "fllm", "fllm-viz", "sohl-dickstein", "asisr"]

_MIN_SIZES = 3  # two points leave no degree of freedom for the standard error


@dataclass(frozen=True, eq=False)
class BoxDimension:
    """A least-squares line through log count against log size, one a mask; `float()` for one mask.

    Attributes:
        dimension: minus the slope, float64 [*batch].
        stderr: its standard error from the residuals, float64 [*batch]. Counts of one set at
            several sizes are correlated, so this understates the error: see it as a fit quality.
        r2: coefficient of determination, float64 [*batch]; 1 where all counts are equal.
        local_slopes: -d log n / d log s at each size, float64 [*batch, S].
        fit_range: least and largest size that was asked for.
        sizes: the sizes that entered the fit, ascending, float64 [S].
        counts: their counts, float64 [*batch, S].
    """

    dimension: Tensor
    stderr: Tensor
    r2: Tensor
    local_slopes: Tensor
    fit_range: tuple[float, float]
    sizes: Tensor
    counts: Tensor

    def __float__(self) -> float:
        """The dimension, if there is just one."""
        if self.dimension.numel() != 1:
            raise InputError(
                f"float() needs one dimension, this result has {self.dimension.numel()}"
            )
        return float(self.dimension.item())


def box_dimension(
    counts: BoxCounts | tuple[Any, Any],
    fit: tuple[float, float] | None = None,
) -> BoxDimension:
    """Box-counting dimension: D in n(s) ~ s^-D, by ordinary least squares of log n on log s.

    Args:
        counts: what `box_count` returns, or a pair of sizes [S] and counts [*batch, S].
        fit: least and largest size to use, both included; by default (1, N / 4), N the smallest
            side of the array that was counted. A pair does not tell N: all its sizes are used.

    Returns:
        BoxDimension in float64 on the device of the counts.

    Raises:
        InputTypeError: `counts` is neither.
        DegenerateBoundaryError: a count of zero at a size of the fit, which has no logarithm.
        InputError: fewer than 3 sizes in the fit, sizes that repeat or are not positive, shapes
            that do not match, a count that is negative or not finite.

    >>> import fractalkern as fk, torch
    >>> square = torch.ones(64, 64, dtype=torch.bool)
    >>> round(float(fk.box_dimension(fk.box_count(square))), 6)
    2.0
    """
    sizes, numbers, default_fit = _sizes_and_counts(counts)
    low, high = default_fit if fit is None else _checked_fit(fit)
    chosen = (sizes >= low) & (sizes <= high)
    sizes, numbers = sizes[chosen], numbers[..., chosen]
    if len(sizes) < _MIN_SIZES:
        raise InputError(
            f"box_dimension: fit must hold at least {_MIN_SIZES} box sizes, got {len(sizes)} in "
            f"the range ({low:g}, {high:g}): count more sizes, widen it or use a larger array"
        )
    if (numbers == 0).any():
        empty = sizes[(numbers == 0).flatten(0, -2).any(0) if numbers.ndim > 1 else numbers == 0]
        raise DegenerateBoundaryError(
            "box_dimension: counts must be positive at every size of the fit, got 0 boxes at "
            f"size {empty[0]:g}"
        )
    x, y = sizes.log(), numbers.log()
    dimension, stderr, r2 = _least_squares(x, y)
    return BoxDimension(
        dimension=dimension,
        stderr=stderr,
        r2=r2,
        local_slopes=-_gradient(x, y),
        fit_range=(low, high),
        sizes=sizes,
        counts=numbers,
    )


@dataclass(frozen=True)
class DimensionResult:
    """The dimension of one boundary; `float()` gives it, `to_json()` all of it.

    Attributes:
        dimension: the estimate.
        stderr: its standard error; see `BoxDimension`, and `estimate_dimension` for medians.
        r2: coefficient of determination of the least-squares line through the same points.
        local_slopes: -d log n / d log s at each size.
        fit_range: least and largest size of the fit, in cells.
        sizes: box sides of the fit, in cells.
        counts: boxes of each size.
        estimator: its name.
        boundary_cells: cells that the boundary step marked.
    """

    dimension: float
    stderr: float
    r2: float
    local_slopes: tuple[float, ...]
    fit_range: tuple[float, float]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    estimator: str
    boundary_cells: int

    def __float__(self) -> float:
        """The dimension."""
        return self.dimension

    def to_json(self) -> str:
        """All fields as a JSON object."""
        return json.dumps(asdict(self), allow_nan=False)


def estimate_dimension(values_or_mask: Any, estimator: Estimator = "sign-edges") -> DimensionResult:
    """Finds the boundary in a field or a mask and its box-counting dimension.

    Args:
        values_or_mask: [*spatial], tensor or NumPy array; one array, no batch. Floats and signed
            integers are convergence values: negative means converged. Bool and unsigned integers
            are masks: nonzero means converged. For "asisr" a [H, W] grid of probabilities.
        estimator: the boundary step, the sizes, the rule and the fit. N is the smallest side of
            the boundary image.

            - "sign-edges": `boundary`, powers of two up to N / 4, least squares. Ours.
            - "fllm": dilation XOR erosion of the converged cells with the cross of direct
              neighbours, outside taken as not converged; sizes 2, 4, ..., 64 below N; least
              squares of log(count + 1). As published, with its two biases: converged cells at the
              frame count as boundary, and the + 1 (a straight line at 64 x 64 gives 1.2).
            - "fllm-viz": the same without the + 1.
            - "sohl-dickstein": `boundary`, boxes that hold edge and other cells, up to ten sizes
              from 10 to N, evenly spaced in the logarithm; the median of the local slopes. Its
              standard error is that of a median of independent normal slopes.
            - "asisr": cells whose central-difference gradient exceeds its 99th percentile, sizes
              1, 2, ..., 64, least squares; no count of zero can occur, so none is replaced.

    Returns:
        DimensionResult of plain Python numbers. Deterministic, equal for every backend.

    Raises:
        DegenerateBoundaryError: no boundary, or one of fewer than N / 4 cells (in one dimension
            3): it would look like points to most boxes of the fit.
        InputTypeError, InputError: other values, types, or arrays too small for the fit.

    >>> import fractalkern as fk, torch
    >>> half_plane = torch.arange(512).expand(512, 512) < 200
    >>> round(float(fk.estimate_dimension(half_plane)), 3)
    1.0
    """
    if estimator not in get_args(Estimator):
        raise InputError(
            f"estimate_dimension: estimator must be one of {', '.join(get_args(Estimator))}, "
            f"got {estimator!r}"
        )
    values = checked_values("estimate_dimension", values_or_mask)
    if values.ndim == 0 or min(values.shape) < 3:
        raise InputError(
            "estimate_dimension: values_or_mask must have at least 3 cells along each axis, "
            "got shape "
            f"{tuple(values.shape)}"
        )
    return _ESTIMATORS[estimator](values)


def _sign_edges(values: Tensor) -> DimensionResult:
    edges = _checked_sign_edges(values)
    return _result("sign-edges", edges, box_dimension(box_count(edges)))


def _fllm(values: Tensor, *, name: str = "fllm", added: int = 1) -> DimensionResult:
    converged = values != 0 if values.dtype in MASK_DTYPES else values < 0
    _check_two_sided(converged)  # the frame of a full mask would pass for its boundary
    edges = _checked_boundary(dilation_xor_erosion(converged))
    sizes = [size for size in (2, 4, 8, 16, 32, 64) if size < min(edges.shape)]
    counts = _counts(edges, sizes)
    return _result(name, edges, box_dimension((sizes, counts + added)), counts)


def _fllm_viz(values: Tensor) -> DimensionResult:
    return _fllm(values, name="fllm-viz", added=0)


def _sohl_dickstein(values: Tensor) -> DimensionResult:
    edges = _checked_sign_edges(values)
    side = min(edges.shape)
    if side < 10:
        raise InputError(
            "estimate_dimension: values_or_mask must have at least 11 cells along each axis "
            "for estimator "
            f"'sohl-dickstein', got {side + 1}"
        )
    sizes = np.unique(np.logspace(1, np.log10(side), 10).astype(np.int64)).tolist()
    fit = box_dimension((sizes, _counts(edges, sizes, rule="mixed")))
    slopes = fit.local_slopes
    # torch.median takes the lower of the two middle values, NumPy's and the original's their mean.
    median = slopes.quantile(0.5)
    stderr = math.sqrt(math.pi / 2) * slopes.std() / math.sqrt(len(slopes))
    return _result("sohl-dickstein", edges, fit, dimension=median, stderr=stderr)


def _asisr(values: Tensor) -> DimensionResult:
    if values.dtype not in FLOAT_DTYPES or values.ndim != 2:
        raise InputError(
            "estimate_dimension: values_or_mask must be a [H, W] grid of float probabilities "
            "for estimator 'asisr', "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            "estimate_dimension: values_or_mask must lie in [0, 1] for estimator 'asisr', "
            "got values from "
            f"{values.min():g} to {values.max():g}"
        )
    edges = _checked_boundary(steep_cells(values, percentile=99))
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= min(edges.shape)]
    return _result("asisr", edges, box_dimension((sizes, _counts(edges, sizes))))


_ESTIMATORS: dict[str, Callable[[Tensor], DimensionResult]] = {
    "sign-edges": _sign_edges,
    "fllm": _fllm,
    "fllm-viz": _fllm_viz,
    "sohl-dickstein": _sohl_dickstein,
    "asisr": _asisr,
}


def _counts(edges: Tensor, sizes: list[int], rule: Literal["any", "mixed"] = "any") -> Tensor:
    return box_count(edges, sizes, rule=rule).counts


def _result(
    estimator: str,
    edges: Tensor,
    fit: BoxDimension,
    counts: Tensor | None = None,
    *,
    dimension: Tensor | None = None,
    stderr: Tensor | None = None,
) -> DimensionResult:
    """The fit as plain numbers; `counts` where the fit saw them with 1 added."""
    numbers = fit.counts if counts is None else counts
    return DimensionResult(
        dimension=float(fit.dimension if dimension is None else dimension),
        stderr=float(fit.stderr if stderr is None else stderr),
        r2=float(fit.r2),
        local_slopes=tuple(fit.local_slopes.tolist()),
        fit_range=(float(fit.sizes[0]), float(fit.sizes[-1])),
        sizes=tuple(int(size) for size in fit.sizes.tolist()),
        counts=tuple(int(number) for number in numbers.tolist()),
        estimator=estimator,
        boundary_cells=int(edges.sum()),
    )


def _check_two_sided(values: Tensor) -> None:
    high, low = both_sides(values)
    if not (high.any() and low.any()):
        kind = "values, got a mask that is all 0 or all 1"
        if values.dtype not in MASK_DTYPES:
            kind = "signs, got values of one sign (pass a mask as bool)"
        raise DegenerateBoundaryError(
            f"estimate_dimension: values_or_mask must hold both {kind}: it has no boundary"
        )


def _checked_sign_edges(values: Tensor) -> Tensor:
    edges = sign_edges(values, values.ndim)
    if not edges.any():
        _check_two_sided(values)
    return _checked_boundary(edges)


def _checked_boundary(edges: Tensor) -> Tensor:
    # A curve or surface needs the length of the largest box; the points of a line only a count.
    least = _MIN_SIZES if edges.ndim == 1 else math.ceil(min(edges.shape) / 4)
    cells = int(edges.sum())
    if cells < least:
        raise DegenerateBoundaryError(
            f"estimate_dimension: values_or_mask must have at least {least} boundary cells to fit "
            f"a dimension to an array of shape {tuple(edges.shape)}, got {cells}"
        )
    return edges


def _sizes_and_counts(
    counts: BoxCounts | tuple[Any, Any],
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Sizes ascending and counts, float64, and the range that is fitted by default."""
    if isinstance(counts, BoxCounts):
        sizes, numbers = counts.sizes.double(), counts.counts.double()
        default_fit = (1.0, min(counts.spatial_shape) / 4)
    elif isinstance(counts, tuple) and len(counts) == 2:
        try:
            numbers = _float64(counts[1])
            sizes = _float64(counts[0]).to(numbers.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"box_dimension: counts must be a pair of arrays of numbers: {error}"
            ) from None
        if sizes.ndim != 1 or numbers.ndim == 0 or numbers.shape[-1] != len(sizes):
            raise InputError(
                "box_dimension: counts must be sizes [S] and counts [*batch, S], got shapes "
                f"{tuple(sizes.shape)} and {tuple(numbers.shape)}"
            )
        default_fit = (0.0, math.inf)
    else:
        raise InputTypeError(
            "box_dimension: counts must be BoxCounts or a tuple (sizes, counts), got "
            f"{type(counts).__name__}"
        )
    if not ((sizes > 0) & sizes.isfinite()).all():
        raise InputError(
            f"box_dimension: counts must have positive, finite sizes, got {sizes.tolist()}"
        )
    if len(set(sizes.tolist())) != len(sizes):
        raise InputError(f"box_dimension: counts must have each size once, got {sizes.tolist()}")
    if not ((numbers >= 0) & numbers.isfinite()).all():
        raise InputError("box_dimension: counts must be finite and not negative")
    order = sizes.argsort()
    return sizes[order], numbers[..., order], default_fit


def _float64(array: Any) -> Tensor:
    if isinstance(array, np.ndarray):
        array = as_tensor("box_dimension", "counts", array)
    return torch.as_tensor(array, dtype=torch.float64)


def _checked_fit(fit: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in fit)
    except (TypeError, ValueError):
        raise InputTypeError(
            f"box_dimension: fit must be two numbers (least, largest), got {fit!r}"
        ) from None
    if not low <= high:
        raise InputError(
            f"box_dimension: fit must be (least, largest) with least <= largest, got {fit!r}"
        )
    return low, high


def _least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minus the slope of y [*batch, S] on x [S], its standard error and R²."""
    x = x.mean() - x
    y = y - y.mean(-1, keepdim=True)
    spread = (x * x).sum()
    slope = (x * y).sum(-1) / spread
    residual = ((y - slope[..., None] * x) ** 2).sum(-1)
    total = (y * y).sum(-1)
    r2 = torch.where(total > 0, 1 - residual / total, 1.0)
    return slope, (residual / (len(x) - 2) / spread).sqrt(), r2


def _gradient(x: Tensor, y: Tensor) -> Tensor:
    """dy/dx of y [*batch, S]: second order inside for uneven x [S], one-sided at both ends."""
    step = x.diff()
    secant = y.diff() / step
    inner = (step[1:] * secant[..., :-1] + step[:-1] * secant[..., 1:]) / (step[1:] + step[:-1])
    return torch.cat([secant[..., :1], inner, secant[..., -1:]], -1)
