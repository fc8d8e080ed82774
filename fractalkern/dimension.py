"""The dimension of the boundary in a field or a mask, with its interval and its null."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from fractalkern.boundary_statistics import boundary_statistics
from fractalkern.box_dimension import BoxDimension, box_dimension
from fractalkern.calibration import Inference, infer
from fractalkern.edges import MASK_DTYPES, checked_values, sign_edges
from fractalkern.errors import DegenerateBoundaryError, InputError, InputTypeError
from fractalkern.line_fits import MIN_POINTS, the_only
from fractalkern.missing_cells import edge_bounds, filled
from fractalkern.nulls import Null, NullName, null_of
from fractalkern.ops._boxes import checked_sizes
from fractalkern.ops._inputs import as_integer, as_tensor, require_generator
from fractalkern.ops.box_count import box_count
from fractalkern.published_estimators import PUBLISHED, SlopeFit, sign_edges_slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BoxDimension", "DimensionResult", "box_dimension", "estimate_dimension"]

Estimator = Literal["sign-edges", "fllm", "fllm-viz", "sohl-dickstein", "asisr"]

OP = "estimate_dimension"
_MOST_MISSING = 0.05  # share of missing cells up to which an interval is given


@dataclass(frozen=True, eq=False)
class DimensionResult:
    """Dimensions of the boundaries of a batch of arrays; `float()` gives the one of a single array.

    Attributes:
        dimension: the estimate, float64 `[*batch]`: calibrated where there is an interval, else
            the slope.
        stderr: half the interval over the normal quantile of its level; the slope's own, which
            takes the counts for independent, where there is no interval.
        ci_low: lower end of the interval, NaN where none is honest.
        ci_high: upper end.
        level: of the interval.
        kind: for each array what the interval rests on: "smooth", "brownian" or "none".
        p_value: of the slope under the null, one-sided, NaN without a null.
        null: the null's name, parameters and slopes, or None.
        slope: minus the slope of log count on log size, least squares (a published rule where
            `estimator` names one).
        slope_stderr: its standard error from the residuals.
        r2: coefficient of determination of that line.
        sizes: box sides of the fit, in cells `[S]`.
        counts: boxes of each size, the mean over grid origins `[*batch, S]`.
        local_slopes: -d log n / d log s at each size `[*batch, S]`.
        fit_range: least and largest size.
        fit_reason: why these.
        boundary_cells: edges between the two sides, int64 `[*batch]`.
        n_missing: cells that were not run, int64 `[*batch]`.
        missing_bounds: what the slope could be at least and at most for other labels of the
            missing cells `[*batch, 2]`.
        estimator: its name.
        warnings: what to mind, one sentence each.
    """

    dimension: Tensor
    stderr: Tensor
    ci_low: Tensor
    ci_high: Tensor
    level: float
    kind: tuple[str, ...]
    p_value: Tensor
    null: Null | None
    slope: Tensor
    slope_stderr: Tensor
    r2: Tensor
    sizes: tuple[int, ...]
    counts: Tensor
    local_slopes: Tensor
    fit_range: tuple[int, int]
    fit_reason: str
    boundary_cells: Tensor
    n_missing: Tensor
    missing_bounds: Tensor
    estimator: str
    warnings: tuple[str, ...]

    def __float__(self) -> float:
        """The dimension, if there is just one."""
        return the_only(self.dimension)

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Both ends of the confidence interval."""
        return self.ci_low, self.ci_high

    @property
    def fractal(self) -> Tensor:
        """The verdict bool `[*batch]`: whether the null is rejected at 1 - level."""
        return self.p_value <= 1 - self.level

    def to_json(self) -> str:
        """All fields as a JSON object; NaN becomes null."""
        return json.dumps({f.name: _plain(getattr(self, f.name)) for f in fields(self)})

    def describe(self) -> list[str]:
        """One line an array, such as "D = 1.31, 95 % interval 1.25 to 1.38, p = 0.005 ...".

        >>> import fractalkern as fk, torch
        >>> half_plane = torch.arange(256).expand(256, 256) < 100
        >>> fk.estimate_dimension(half_plane, null=None).describe()
        ['D = 1.000, 95 % interval 0.996 to 1.004']
        """
        lines = []
        for i, dimension in enumerate(self.dimension.flatten().tolist()):
            low, high = (float(end.flatten()[i]) for end in self.interval)
            line = f"D = {dimension:.3f}"
            if math.isnan(low):
                line += " (the slope of the counts, without an interval)"  # the warnings say why
            else:
                line += f", {100 * self.level:g} % interval {low:.3f} to {high:.3f}"
            if self.null is not None:
                p = float(self.p_value.flatten()[i])
                line += f", p = {p:.3f} against the null {self.null.name!r}"
            lines.append(line)
        return lines

    def plot(self, axes: "Axes | None" = None, index: int = 0) -> "Axes":
        """Counts over size with the fitted line, for array `index`, on log axes; returns them."""
        from fractalkern.dimension_figure import plot_counts

        return plot_counts(self, axes, index)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Null):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def estimate_dimension(
    values_or_mask: Any,
    *,
    estimator: Estimator = "sign-edges",
    spatial_dims: int | None = None,
    sizes: Sequence[int] | None = None,
    offsets: int | Literal["auto", "all"] = "auto",
    level: float = 0.95,
    null: NullName | None = "smooth",
    noise_width: float = 0.5,
    null_draws: int = 199,
    missing: Any = None,
    generator: torch.Generator | None = None,
) -> DimensionResult:
    """The box-counting dimension of the boundary between the two sides of a field or a mask.

    With `estimator="sign-edges"` on two-dimensional arrays of at least 64 cells a side the result
    is calibrated: `dimension` and its interval come from simulated boundaries of known dimension
    that have the same statistics at this resolution (`fractalkern.calibration` says how), not from
    the raw slope, which is biased. Smooth boundaries have an interval from 64 cells a side, rough
    ones from 128, and none is given to a boundary unlike both families. How often the intervals
    cover is in `studies/results/dimension_coverage.md`.

    The truth is that of a set sampled at points. A field synthesised on the same grid, as by
    `fractal_noise`, has no power beyond its Nyquist frequency and is smoother from cell to cell:
    at 512 cells one of dimension 1.5 reads 1.4, mostly without an interval, and one of 1.2 reads
    1.17; at 1,024 cells the intervals of the latter end below 1.2.

    Args:
        values_or_mask: `[*batch, *spatial]`, tensor or NumPy array. Floats and signed integers are
            convergence values: negative means converged. Bool and unsigned integers are masks:
            nonzero means converged. For "asisr" a `[H, W]` grid of probabilities.
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
        spatial_dims: how many trailing axes are spatial; by default all.
        sizes: box sides for the slope instead of powers of two; "sign-edges" only.
        offsets: grid origins an axis over which the counts of the slope are averaged; "auto" is 1
            (what the interval rests on is averaged over 4).
        level: of the interval, between 0 and 1.
        null: what the slope is compared with, for two-dimensional arrays and "sign-edges":

            - "smooth": level sets of smooth fields with as many crossings at the coarsest scale;
            - "smooth+noise": the same with cells flipped about the boundary with probability
              Phi(-distance / noise_width), as seed noise does;
            - "marginal": every cell by itself with the frequency of its row, so that a small
              p-value says that there is structure at all;
            - None.
        noise_width: in cells.
        null_draws: boundaries drawn from the null; 199 take about 0.3 s at 512 x 512 and 0.9 s at
            1,024 x 1,024, with noise two to three times that.
        missing: bool `[*batch, *spatial]`, cells that were not run. They take the side of their
            nearest known neighbours; `missing_bounds` says what else they could do. No interval
            is given where more than 5 % are missing.
        generator: of the null's draws; by default one of seed 0, so that equal input gives equal
            output.

    Returns:
        DimensionResult on the CPU. The published estimators give their slope and no interval.

    Raises:
        DegenerateBoundaryError: no boundary, or one of fewer than N / 4 cells (in one dimension
            3): it would look like points to most boxes of the fit.
        InputTypeError, InputError: other values, types, arrays too small for the fit, all cells
            missing, a level outside (0, 1).

    >>> import fractalkern as fk, torch
    >>> half_plane = torch.arange(512).expand(512, 512) < 200
    >>> result = fk.estimate_dimension(half_plane)
    >>> round(float(result), 2), bool(result.fractal)
    (1.0, False)
    """
    values = as_tensor(OP, "values_or_mask", values_or_mask).cpu()
    holes = _checked_missing(missing, values, estimator)
    if holes is not None:
        values = values.masked_fill(holes, 0)  # what stands there may be NaN
    values = checked_values(OP, values)
    dims = _checked_options(
        values, estimator, spatial_dims, sizes, offsets, level, null, noise_width, null_draws
    )
    if generator is not None:
        require_generator(OP, generator)
    batch, spatial = values.shape[: values.ndim - dims], values.shape[values.ndim - dims :]
    items = labels = values.reshape(-1, *spatial)
    if holes is not None:
        holes = holes.reshape(-1, *spatial)
        labels = torch.stack([filled(v, m) for v, m in zip(items, holes, strict=True)])

    origins: int | Literal["all"] = 1 if offsets == "auto" else offsets
    if estimator == "sign-edges":
        sides = None
        if sizes is not None:
            sides = checked_sizes(OP, "boundary image", sizes, min(spatial) - 1)
            if (count := len(set(sides))) < MIN_POINTS:
                raise InputError(
                    f"{OP}: sizes must hold at least {MIN_POINTS} different box sizes, got {count}"
                )
        fits = _each(lambda item: sign_edges_slope(item, sides, origins), labels)
    else:
        fits = _each(PUBLISHED[estimator], labels)
    slope = torch.stack([fit.slope for fit in fits])

    inferences, compared = [_UNCALIBRATED] * len(fits), None
    if estimator == "sign-edges" and dims == 2:
        inside = labels != 0 if labels.dtype in MASK_DTYPES else labels < 0
        if sizes is None and offsets == "auto":
            inferences = infer(boundary_statistics(inside), min(spatial), level)
        if null is not None:
            compared = null_of(
                null,
                inside,
                lambda masks: _slopes(masks, fits[0].sizes, origins),
                draws=null_draws,
                noise_width=noise_width,
                generator=torch.Generator().manual_seed(0) if generator is None else generator,
            )
    p_value = torch.full_like(slope, math.nan) if compared is None else compared.p_value(slope)

    n_missing = torch.zeros(len(fits), dtype=torch.int64)
    bounds = torch.stack([slope, slope], -1)
    if holes is not None:
        n_missing = holes.flatten(1).sum(1)
        pairs = list(zip(items, holes, strict=True))
        bounds = torch.stack([_slope_bounds(v, m, fits[0].sizes, origins) for v, m in pairs])
        for i in (n_missing > _MOST_MISSING * math.prod(spatial)).nonzero().flatten().tolist():
            inferences[i] = _TOO_MANY_MISSING

    honest = torch.tensor([inference.kind != "none" for inference in inferences])
    slope_stderr = torch.stack([fit.stderr for fit in fits])
    fit_sizes = tuple(int(size) for size in fits[0].sizes.tolist())

    def inferred(name: str, otherwise: Tensor) -> Tensor:
        numbers = [getattr(inference, name) for inference in inferences]
        found = torch.where(honest, torch.tensor(numbers, dtype=torch.float64), otherwise)
        return found.reshape(batch)

    def stacked(name: str) -> Tensor:
        parts = torch.stack([torch.as_tensor(getattr(fit, name)) for fit in fits])
        return parts.reshape((*batch, *parts.shape[1:]))

    unknown = torch.full_like(slope, math.nan)
    return DimensionResult(
        dimension=inferred("dimension", slope),
        stderr=inferred("stderr", slope_stderr),
        ci_low=inferred("low", unknown),
        ci_high=inferred("high", unknown),
        level=level,
        kind=tuple(inference.kind for inference in inferences),
        p_value=p_value.reshape(batch),
        null=None if compared is None else compared.reshaped(batch),
        slope=slope.reshape(batch),
        slope_stderr=slope_stderr.reshape(batch),
        r2=stacked("r2"),
        sizes=fit_sizes,
        counts=stacked("counts"),
        local_slopes=stacked("local_slopes"),
        fit_range=(fit_sizes[0], fit_sizes[-1]),
        fit_reason=_FIT_REASONS[estimator] if sizes is None else "the sizes that were asked for",
        boundary_cells=stacked("boundary_cells"),
        n_missing=n_missing.reshape(batch),
        missing_bounds=bounds.reshape((*batch, 2)),
        estimator=estimator,
        warnings=_warnings(
            estimator,
            spatial,
            inferences,
            n_missing.tolist(),
            chosen_grids=sizes is not None or offsets != "auto",
        ),
    )


_UNCALIBRATED = Inference("none", math.nan, math.nan, math.nan, math.nan, "")
_TOO_MANY_MISSING = Inference(
    *("none", math.nan, math.nan, math.nan, math.nan),
    f"more than {100 * _MOST_MISSING:g} % of its cells are missing",
)
_FIT_REASONS = {
    "sign-edges": "from one cell to a quarter of the side, where boxes are still many",
    "fllm": "as published: 2 to 64 below the side",
    "fllm-viz": "as published: 2 to 64 below the side",
    "sohl-dickstein": "as published: ten sizes from 10 to the side",
    "asisr": "as published: 1 to 64",
}


def _warnings(
    estimator: str,
    spatial: Sequence[int],
    inferences: list[Inference],
    n_missing: list[int],
    *,
    chosen_grids: bool,
) -> tuple[str, ...]:
    if estimator != "sign-edges":
        return (f"{estimator!r} is a published estimator: it has no calibrated interval",)
    if len(spatial) != 2:
        return ("intervals and nulls are calibrated for two axes only",)
    if chosen_grids:
        return ("intervals are calibrated for the sizes and offsets that are chosen by default",)
    found = []
    if len(set(spatial)) > 1:
        found.append("intervals are calibrated on squares; this array has unequal sides")
    for i, (inference, missing) in enumerate(zip(inferences, n_missing, strict=True)):
        where = "" if len(inferences) == 1 else f"array {i}: "
        if inference.kind == "none":
            found.append(f"{where}no honest interval: {inference.reason}")
        if missing:
            found.append(f"{where}{missing} missing cells took the side of their neighbours")
    return tuple(found)


def _each(fit: Callable[[Tensor], SlopeFit], items: Tensor) -> list[SlopeFit]:
    """The fit of each array `[B, *spatial]`; of several, an error says which it is about."""
    fits = []
    for i, item in enumerate(items):
        try:
            fits.append(fit(item))
        except DegenerateBoundaryError as error:
            if len(items) == 1:
                raise
            raise DegenerateBoundaryError(f"{error} (array {i} of {len(items)})") from None
    return fits


def _slopes(masks: Tensor, sizes: Tensor, origins: int | Literal["all"]) -> Tensor:
    """The slope that "sign-edges" gives to masks `[M, H, W]`, `[M]`."""
    edges = sign_edges(masks, 2)
    counts = box_count(edges, sizes.long().tolist(), spatial_dims=2, offsets=origins)
    return box_dimension((counts.sizes, counts.mean.clamp(min=1))).dimension


def _slope_bounds(
    values: Tensor, missing: Tensor, sizes: Tensor, origins: int | Literal["all"]
) -> Tensor:
    """The least and the largest slope `[2]` if each count lies between its own bounds."""
    counts = []
    for edges in edge_bounds(values, missing):
        counted = box_count(edges, sizes.long().tolist(), offsets=origins)
        counts.append(counted.mean[counted.sizes.argsort()].clamp(min=1).log())
    low, high = counts
    x = sizes.log() - sizes.log().mean()
    weights = -x / x.square().sum()  # the slope is linear in the logarithms
    least = torch.where(weights > 0, low, high) @ weights
    largest = torch.where(weights > 0, high, low) @ weights
    return torch.stack([least, largest])


def _checked_options(
    values: Tensor,
    estimator: object,
    spatial_dims: object,
    sizes: object,
    offsets: object,
    level: object,
    null: object,
    noise_width: object,
    null_draws: object,
) -> int:
    """The number of spatial axes, if all options are valid."""
    if estimator not in get_args(Estimator):
        names = ", ".join(get_args(Estimator))
        raise InputError(f"{OP}: estimator must be one of {names}, got {estimator!r}")
    dims = values.ndim
    if spatial_dims is not None:
        dims = as_integer(OP, spatial_dims, "spatial_dims must be an integer")
    if values.ndim and not 1 <= dims <= values.ndim:
        raise InputError(f"{OP}: spatial_dims must be from 1 to {values.ndim}, got {dims}")
    if values.ndim == 0 or min(values.shape[values.ndim - dims :]) < 3:
        raise InputError(
            f"{OP}: values_or_mask must have at least 3 cells along each axis, got shape "
            f"{tuple(values.shape)}"
        )
    if values.numel() == 0:
        raise InputError(
            f"{OP}: values_or_mask must hold at least one array, got shape {tuple(values.shape)}"
        )
    if estimator != "sign-edges" and (sizes is not None or offsets != "auto"):
        raise InputError(f"{OP}: sizes and offsets must be left out for estimator {estimator!r}")
    if not isinstance(level, int | float) or isinstance(level, bool):
        raise InputTypeError(f"{OP}: level must be a number, got {level!r}")
    if not 0 < level < 1:
        raise InputError(f"{OP}: level must lie between 0 and 1, got {level}")
    if null is not None and null not in get_args(NullName):
        names = ", ".join(get_args(NullName))
        raise InputError(f"{OP}: null must be one of {names} or None, got {null!r}")
    if not isinstance(noise_width, int | float) or isinstance(noise_width, bool):
        raise InputTypeError(f"{OP}: noise_width must be a number, got {noise_width!r}")
    if not 0 < noise_width < math.inf:
        raise InputError(f"{OP}: noise_width must be positive and finite, got {noise_width}")
    expected = "null_draws must be an integer of at least 19, for p-values down to 0.05"
    if as_integer(OP, null_draws, expected) < 19:
        raise InputError(f"{OP}: {expected}, got {null_draws!r}")
    return dims


def _checked_missing(missing: Any, values: Tensor, estimator: object) -> Tensor | None:
    if missing is None:
        return None
    if estimator == "asisr":
        raise InputError(f"{OP}: missing must be None for estimator 'asisr', which needs gradients")
    holes = as_tensor(OP, "missing", missing).cpu()
    if holes.dtype != torch.bool or holes.shape != values.shape:
        raise InputError(
            f"{OP}: missing must be bool of shape {tuple(values.shape)}, got {holes.dtype} of "
            f"shape {tuple(holes.shape)}"
        )
    if holes.all():
        raise InputError(f"{OP}: missing must leave at least one cell, but all are missing")
    return holes
