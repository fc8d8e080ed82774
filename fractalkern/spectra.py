"""Spectra of fields: the slope of a measured one, and the dimension that goes with a slope."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import FLOAT_DTYPES, as_number, as_tensor

_NEWTON_STEPS = 50
_BINS_PER_OCTAVE = 4


@dataclass(frozen=True, eq=False)
class SpectrumFit:
    """A power law fitted to the spectrum of a field; `float()` gives the slope.

    Attributes:
        beta: the order, power ~ |k|^-beta.
        stderr: its standard error, from the scatter of the modes about the fit.
        amplitude: the power at |k| = 1 cycle per sample, by the fit.
        k: centres of the bins of the radial average, cycles per sample, float64 [B].
        power: mean of |rfftn(field)|² / number of samples over each bin, float64 [B].
        modes: independent modes of each bin, float64 [B].
    """

    beta: float
    stderr: float
    amplitude: float
    k: Tensor
    power: Tensor
    modes: Tensor

    def __float__(self) -> float:
        """The order of the spectrum."""
        return self.beta


def spectrum_of(field: Any) -> SpectrumFit:
    """Fits power = A |k|^-beta to all modes of a field but k = 0.

    Each mode of a Gaussian field has an exponentially distributed power, so the fit maximises the
    Whittle likelihood: sum over modes of log S + P / S with S = A |k|^-beta. Unlike a line through
    log power it has no bias from the logarithm and no choice of bins.

    Args:
        field: [*spatial], 1 to 5 axes, floating point, tensor or NumPy array; taken as periodic.

    Returns:
        SpectrumFit, on the field's device. Deterministic. Cost: one FFT in float64.

    Raises:
        InputTypeError: not floating point.
        InputError: values that are not finite, a constant field, more than 5 axes, or fewer than 3
            modes.

    Source: P. Whittle, Estimation and information in stationary time series, Arkiv för Matematik 2
    (1953) 423.

    >>> import torch
    >>> from fractalkern import spectrum_of
    >>> white = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    >>> abs(spectrum_of(white).beta) < 3 * spectrum_of(white).stderr
    True
    """
    values = as_tensor("spectrum_of", "field", field)
    if values.dtype not in FLOAT_DTYPES:
        raise InputTypeError(f"spectrum_of: field must be floating point, got {values.dtype}")
    if not 1 <= values.ndim <= 5:
        raise InputError(f"spectrum_of: field must have 1 to 5 axes, got {values.ndim}")
    if values.numel() == 0 or not values.isfinite().all():
        raise InputError("spectrum_of: field must be finite and not empty")
    values = values.detach().double()
    power = torch.fft.rfftn(values - values.mean()).abs().square() / values.numel()
    if not power.isfinite().all():
        raise InputError("spectrum_of: field must have squares that fit float64, got larger ones")
    radius, weight = _radius_and_weight(values)
    chosen = radius > 0
    x, power, weight = radius[chosen].log(), power[chosen], weight[chosen]
    if weight.sum() < 3 or not (x.max() > x.min()):
        raise InputError(
            "spectrum_of: field must have at least 3 modes at different |k|, got shape "
            f"{list(values.shape)}"
        )
    # Nothing but rounding is left of a constant.
    if power.max() <= 1e-25 * values.square().mean():
        raise InputError("spectrum_of: field must vary, got a constant")
    beta, log_amplitude, stderr = _whittle(x, power, weight)
    return SpectrumFit(beta, stderr, math.exp(log_amplitude), *_radial_average(x, power, weight))


def _radius_and_weight(values: Tensor) -> tuple[Tensor, Tensor]:
    """|k| in cycles per sample of each mode of rfftn, and how many independent modes it counts.

    Where the last axis has frequency 0 or one half, the modes k and -k are both in the array.
    """
    *leading, last = values.shape
    options = {"dtype": torch.float64, "device": values.device}
    axes = [torch.fft.fftfreq(n, **options) for n in leading]
    axes.append(torch.fft.rfftfreq(last, **options))
    grids = torch.meshgrid(*axes, indexing="ij")
    radius = torch.stack([grid.square() for grid in grids]).sum(0).sqrt()
    weight = torch.ones_like(radius)
    weight[..., 0] = 0.5
    if last % 2 == 0:
        weight[..., -1] = 0.5
    return radius, weight


def _whittle(x: Tensor, power: Tensor, weight: Tensor) -> tuple[float, float, float]:
    """Order, log amplitude and standard error of the order; Newton's method, a convex problem."""
    scale = float((weight * power).sum() / weight.sum())
    power = power / scale
    x_mean = (weight * x).sum() / weight.sum()
    centred = x - x_mean
    beta, level = 0.0, 0.0
    for _ in range(_NEWTON_STEPS):
        ratio = weight * power * torch.exp(beta * centred - level)
        gradient = torch.stack([(weight - ratio).sum(), -(centred * (weight - ratio)).sum()])
        h00, h01, h11 = ratio.sum(), -(centred * ratio).sum(), (centred.square() * ratio).sum()
        hessian = torch.stack([torch.stack([h00, h01]), torch.stack([h01, h11])])
        step = torch.linalg.solve(hessian, gradient)
        # A full step from far away may overshoot into exp(large).
        step = step * min(1.0, 1.0 / max(float(step.abs().max()), 1e-300))
        level -= float(step[0])
        beta -= float(step[1])
        if float(step.abs().max()) < 1e-12:
            break
    ratio = power * torch.exp(beta * centred - level)
    dispersion = (weight * (ratio - 1).square()).sum() / max(float(weight.sum()) - 2, 1.0)
    stderr = float((dispersion / (weight * centred.square()).sum()).sqrt())
    return beta, math.log(scale) + level + beta * float(x_mean), stderr


def _radial_average(x: Tensor, power: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of |k| and power over bins of equal width in log |k|, without empty ones."""
    bins = ((x - x.min()) / math.log(2) * _BINS_PER_OCTAVE).round().long()
    count = int(bins.max()) + 1

    def total(values: Tensor) -> Tensor:
        return torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(
            0, bins, values
        )

    modes = total(weight)
    used = modes > 0
    modes = modes[used]
    k = torch.exp(total(weight * x)[used] / modes)
    return k, total(weight * power)[used] / modes, modes


def fractal_dimension_of(beta: float, ndim: int) -> float:
    """Dimension of the graph of a field with power ~ |k|^-beta: (3 ndim + 2 - beta) / 2.

    The field over R^ndim is fractional Brownian motion of Hurst exponent H = (beta - ndim) / 2; its
    graph, a profile for ndim = 1 and a surface for ndim = 2, has dimension ndim + 1 - H, its level
    sets one less.

    Args:
        beta: order of the spectrum, from ndim (H = 0) to ndim + 2 (H = 1): outside, the graph is
            not a fractal of this kind and the relation says nothing.
        ndim: number of axes of the field, at least 1.

    Raises:
        InputTypeError: not a number.
        InputError: outside that range.

    Source: R. F. Voss, Random fractal forgeries, in Fundamental Algorithms for Computer Graphics,
    1985.

    >>> from fractalkern import fractal_dimension_of
    >>> fractal_dimension_of(2, ndim=1), fractal_dimension_of(3, ndim=2)
    (1.5, 2.5)
    """
    _check_ndim("fractal_dimension_of", ndim)
    beta = as_number("fractal_dimension_of", "beta", beta)
    if not ndim <= beta <= ndim + 2:
        raise InputError(
            f"fractal_dimension_of: beta must be from {ndim} to {ndim + 2} for ndim = {ndim}, "
            f"got {beta}"
        )
    return (3 * ndim + 2 - beta) / 2


def spectral_exponent_of(dimension: float, ndim: int) -> float:
    """The inverse of `fractal_dimension_of`: beta = 3 ndim + 2 - 2 dimension.

    Args:
        dimension: of the graph, from ndim to ndim + 1.
        ndim: number of axes of the field, at least 1.

    Raises:
        InputTypeError: not a number.
        InputError: outside that range.

    >>> from fractalkern import spectral_exponent_of
    >>> spectral_exponent_of(2.5, ndim=2)
    3.0
    """
    _check_ndim("spectral_exponent_of", ndim)
    dimension = as_number("spectral_exponent_of", "dimension", dimension)
    if not ndim <= dimension <= ndim + 1:
        raise InputError(
            f"spectral_exponent_of: dimension must be from {ndim} to {ndim + 1} for ndim = {ndim}, "
            f"got {dimension}"
        )
    return 3 * ndim + 2 - 2 * dimension


def _check_ndim(op: str, ndim: int) -> None:
    if not isinstance(ndim, int) or isinstance(ndim, bool) or ndim < 1:
        raise InputError(f"{op}: ndim must be an integer of at least 1, got {ndim!r}")
