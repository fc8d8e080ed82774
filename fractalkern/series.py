"""Fractal dimension and correlation of series: Higuchi's method, detrended fluctuation analysis."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.line_fits import MIN_POINTS, DimensionFit, fit_line, local_slopes, the_only
from fractalkern.ops._inputs import as_integer, as_real

_HIGUCHI = "higuchi_dimension"
_DFA = "detrended_fluctuation"
_PER_OCTAVE = 4
_MAX_ORDER = 3


@dataclass(frozen=True, eq=False)
class HiguchiDimension(DimensionFit):
    """A line through log length against log lag, one a series; see `DimensionFit`.

    Attributes:
        lags: in samples, int64 [K].
        lengths: L(k), float64 [*batch, K].
    """

    lags: Tensor
    lengths: Tensor
    _of = "series"


def higuchi_dimension(series: Any, lags: Any = None) -> HiguchiDimension:
    """Higuchi's fractal dimension of the graph of a series: D in L(k) ~ k^-D.

    With n samples x, L(k) is the mean over the starts m = 0 ... k - 1 of the length of the curve
    that takes every k-th sample,

        L_m(k) = (n - 1) / (M k²) sum over i = 1 ... M of |x[m + i k] - x[m + (i - 1) k]|

    with M = floor((n - 1 - m) / k). A smooth curve has D = 1, fractional Brownian motion of Hurst
    exponent H has 2 - H, white noise 2.

    Args:
        series: [*batch, n], n >= 8, tensor or NumPy array of finite numbers.
        lags: lags k in samples, at least 3 different ones from 1 to n / 2; by default four an
            octave up to n / 8, without those that rounding makes equal.

    Returns:
        HiguchiDimension on the device of the series, in float64. Deterministic. Cost: one pass over
        the series a lag.

    Raises:
        InputTypeError: an argument of a wrong type or dtype.
        InputError: a series that is too short, not finite or constant, or a wrong lag.

    Source: T. Higuchi, Approach to an irregular time series on the basis of the fractal theory,
    Physica D 31 (1988) 277.

    >>> import fractalkern as fk, torch
    >>> line = torch.arange(100)
    >>> round(float(fk.higuchi_dimension(line)), 9)
    1.0
    """
    values = _checked_series(_HIGUCHI, series, least=8)
    n = values.shape[-1]
    if lags is None:
        # Before n = 24 an eighth of the series does not hold three lags.
        chosen = _spread(1, max(n // 8, MIN_POINTS))
    else:
        chosen = _checked_sizes(_HIGUCHI, "lags", lags, 1, n // 2)
    lengths = torch.stack([_length(values, lag) for lag in chosen], -1)
    if (lengths == 0).any():
        raise InputError(f"{_HIGUCHI}: series must vary at every lag, got a length of 0")
    return HiguchiDimension.through(
        _logs(chosen, values),
        lengths.log(),
        lags=torch.tensor(chosen, device=values.device),
        lengths=lengths,
    )


def _length(values: Tensor, lag: int) -> Tensor:
    """L(k) of [*batch, n]: column m of the folded steps belongs to the curve that starts at m."""
    n = values.shape[-1]
    steps = (values[..., lag:] - values[..., :-lag]).abs()
    steps = torch.nn.functional.pad(steps, (0, -steps.shape[-1] % lag))
    sums = torch.unflatten(steps, -1, (-1, lag)).sum(-2)
    counts = (n - 1 - torch.arange(lag, device=values.device)) // lag
    return (sums / counts).mean(-1) * ((n - 1) / lag**2)


@dataclass(frozen=True, eq=False)
class DetrendedFluctuation:
    """A line through log fluctuation against log window, one a series; `float()` for one series.

    Attributes:
        exponent: the slope, float64 [*batch].
        stderr: its standard error from the residuals, float64 [*batch]; see `HiguchiDimension`.
        r2: coefficient of determination, float64 [*batch].
        local_slopes: d log F / d log s at each size, float64 [*batch, S].
        sizes: of the windows, in samples, int64 [S].
        fluctuations: F(s), float64 [*batch, S].
        order: of the polynomials.
    """

    exponent: Tensor
    stderr: Tensor
    r2: Tensor
    local_slopes: Tensor
    sizes: Tensor
    fluctuations: Tensor
    order: int

    def __float__(self) -> float:
        """The exponent, if there is just one."""
        return the_only(self.exponent, "series")


def detrended_fluctuation(
    series: Any, sizes: Any = None, *, order: int = 1
) -> DetrendedFluctuation:
    """Detrended fluctuation analysis: the exponent in F(s) ~ s^alpha.

    The profile y, the running sum of the series minus its mean, is cut into windows of s samples,
    once from its start and, where they do not end at its end, once from there. F(s) is the root
    mean square over all windows of what a polynomial of the given order, fitted to each window by
    least squares, leaves of y. Fractional Gaussian noise of Hurst exponent H has alpha = H,
    fractional Brownian motion H + 1; a trend of the series of an order below `order` leaves alpha
    as it is.

    Args:
        series: [*batch, n], tensor or NumPy array of finite numbers.
        sizes: window sizes s in samples, at least 3 different ones from order + 2 to n; by default
            four an octave from 8 (order + 1) to n / 4. Smaller windows read high: a polynomial
            takes much of what is in them.
        order: of the polynomials, 1 to 3.

    Returns:
        DetrendedFluctuation on the device of the series, in float64. Deterministic. Cost: about
        2 order + 6 passes over the series a size; a size needs memory for four copies of it.

    Raises:
        InputTypeError: an argument of a wrong type or dtype.
        InputError: a series that is too short, not finite or removed altogether by the polynomials,
            a wrong size or order.

    Source: C.-K. Peng et al., Mosaic organization of DNA nucleotides, Physical Review E 49 (1994)
    1685; J. W. Kantelhardt et al., Detecting long-range correlations with detrended fluctuation
    analysis, Physica A 295 (2001) 441.

    >>> import fractalkern as fk, torch
    >>> white = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    >>> abs(float(fk.detrended_fluctuation(white)) - 0.5) < 0.05
    True
    """
    order = as_integer(_DFA, order, "order must be an integer")
    if not 1 <= order <= _MAX_ORDER:
        raise InputError(f"{_DFA}: order must be from 1 to {_MAX_ORDER}, got {order}")
    least = 8 * (order + 1)
    values = _checked_series(_DFA, series, least=order + 4 if sizes is not None else 8 * least)
    n = values.shape[-1]
    if sizes is None:
        chosen = _spread(least, n // 4)
    else:
        chosen = _checked_sizes(_DFA, "sizes", sizes, order + 2, n)
    profile = (values - values.mean(-1, keepdim=True)).cumsum(-1)
    fluctuations = torch.stack([_fluctuation(profile, size, order) for size in chosen], -1)
    # Nothing but rounding is left of a polynomial.
    empty = fluctuations <= 1e-12 * values.abs().amax(-1, keepdim=True) * n
    if empty.any():
        raise InputError(
            f"{_DFA}: series must fluctuate about a polynomial of order {order - 1}, got one that "
            "leaves nothing"
        )
    x = _logs(chosen, values)
    line = fit_line(x, fluctuations.log())
    return DetrendedFluctuation(
        exponent=line.slope,
        stderr=line.stderr,
        r2=line.r2,
        local_slopes=local_slopes(x, fluctuations.log()),
        sizes=torch.tensor(chosen, device=values.device),
        fluctuations=fluctuations,
        order=order,
    )


def _fluctuation(profile: Tensor, size: int, order: int) -> Tensor:
    """F(s) of [*batch, n]: all windows at once, as rows that are projected off the polynomials."""
    n = profile.shape[-1]
    windows = profile.unfold(-1, size, size)
    if n % size:
        windows = torch.cat([windows, profile[..., n % size :].unfold(-1, size, size)], -2)
    # The level of a window may be far above its fluctuations.
    windows = windows - windows.mean(-1, keepdim=True)
    t = torch.linspace(-1, 1, size, dtype=torch.float64, device=profile.device)
    basis = torch.linalg.qr(torch.stack([t**power for power in range(order + 1)], -1)).Q
    rest = windows - (windows @ basis) @ basis.T
    squares: Tensor = rest.square().mean((-2, -1))
    return squares.sqrt()


def _checked_series(op: str, series: Any, *, least: int) -> Tensor:
    values = as_real(op, "series", series)
    if values.ndim == 0 or values.shape[-1] < least:
        raise InputError(
            f"{op}: series must have at least {least} samples along its last axis, got shape "
            f"{tuple(values.shape)}"
        )
    if values.numel() and (values.amax(-1) == values.amin(-1)).any():
        raise InputError(f"{op}: series must vary, got a constant")
    return values


def _checked_sizes(op: str, name: str, sizes: Any, least: int, most: int) -> list[int]:
    items = sizes.tolist() if isinstance(sizes, Tensor | np.ndarray) else sizes
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        raise InputTypeError(f"{op}: {name} must be a sequence of integers, got {items!r}")
    checked = set()
    for item in items:
        number = as_integer(op, item, f"{name} must hold integers")
        if not least <= number <= most:
            raise InputError(f"{op}: {name} must be from {least} to {most}, got {number}")
        checked.add(number)
    if len(checked) < MIN_POINTS:
        raise InputError(
            f"{op}: {name} must hold at least {MIN_POINTS} different ones, got {len(checked)}"
        )
    return sorted(checked)


def _spread(low: int, high: int) -> list[int]:
    """Whole numbers from `low` to `high`, four an octave."""
    count = math.floor(_PER_OCTAVE * math.log2(high / low)) + 1
    return sorted({round(low * 2 ** (j / _PER_OCTAVE)) for j in range(count)})


def _logs(sizes: list[int], values: Tensor) -> Tensor:
    return torch.tensor(sizes, dtype=torch.float64, device=values.device).log()
