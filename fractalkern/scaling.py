"""Dimensions of one region at several resolutions, or of the frames of a zoom, fitted together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.confidence import student_quantile
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import as_real, as_tensor

__all__ = ["FiniteSizeFit", "ZoomFit", "finite_size_scaling", "joint_dimension"]


@dataclass(frozen=True)
class FiniteSizeFit:
    """Two explanations of D(N): "stays", a constant, and "falls towards 1".

    Attributes:
        dimension: the constant, the mean weighted by inverse variances.
        stderr: its standard error.
        stays_p: of the chi-squared of the constant; small where D(N) is not constant.
        rate: gamma in D(N) = 1 + a N^-gamma, at least 0; 0 is a constant.
        amplitude: a, at N in cells.
        falls_p: of the chi-squared of that law.
        evidence: difference of Akaike's criterion, constant less law: positive for "falls".
        verdict: "stays", "falls towards 1" or "undecided" (evidence between -2 and 2, or both
            refused at 5 %).
    """

    dimension: float
    stderr: float
    stays_p: float
    rate: float
    amplitude: float
    falls_p: float
    evidence: float
    verdict: str


def finite_size_scaling(sides: Sequence[int], dimensions: Tensor, stderrs: Tensor) -> FiniteSizeFit:
    """Fits the dimensions of the same region at several resolutions together.

    Args:
        sides: resolutions N in cells, at least 3 different ones.
        dimensions: D at each `[S]`, as `estimate_dimension` gives it.
        stderrs: their standard errors `[S]`, positive; taken as independent.

    A fractal keeps its dimension when it is seen more finely; the boundary of a smooth region with
    noise or curvature at the scale of a cell falls towards 1. The law's rate is the best of 401
    from 0 to 4, its amplitude at least 0.

    >>> import torch
    >>> from fractalkern.scaling import finite_size_scaling
    >>> error = torch.full((4,), 0.01)
    >>> falling = 1 + 3 * torch.tensor([64.0, 128, 256, 512]) ** -0.5
    >>> finite_size_scaling([64, 128, 256, 512], falling, error).verdict
    'falls towards 1'
    """
    d, weights = _checked("finite_size_scaling", dimensions, stderrs, least=3)
    n = as_real("finite_size_scaling", "sides", sides)
    if n.shape != d.shape or len(set(n.tolist())) != len(d) or n.min() < 1:
        raise InputError(
            f"finite_size_scaling: sides must be {len(d)} different positive integers, one a "
            f"dimension, got {n.tolist()}"
        )
    mean = (weights * d).sum() / weights.sum()
    stays = float((weights * (d - mean) ** 2).sum())
    rates = torch.linspace(0, 4, 401, dtype=torch.float64)
    shapes = n ** -rates[:, None]
    amplitudes = ((weights * shapes * (d - 1)).sum(1) / (weights * shapes**2).sum(1)).clamp(min=0)
    squares = (weights * (d - 1 - amplitudes[:, None] * shapes) ** 2).sum(1)
    best = int(squares.argmin())
    falls = float(squares[best])
    evidence = (stays + 2) - (falls + 4)
    stays_p, falls_p = _chi2_tail(stays, len(d) - 1), _chi2_tail(falls, len(d) - 2)
    verdict = "undecided"
    if max(stays_p, falls_p) > 0.05 and abs(evidence) >= 2:
        verdict = "falls towards 1" if evidence > 0 else "stays"
    elif stays_p > 0.05 and evidence < 0:
        verdict = "stays"
    return FiniteSizeFit(
        dimension=float(mean),
        stderr=float(weights.sum().rsqrt()),
        stays_p=stays_p,
        rate=float(rates[best]),
        amplitude=float(amplitudes[best]),
        falls_p=falls_p,
        evidence=evidence,
        verdict=verdict,
    )


@dataclass(frozen=True)
class ZoomFit:
    """One dimension for all frames, each with its own true value about it.

    Attributes:
        dimension: the mean over frames.
        stderr: its standard error, the spread of frames included.
        ci_low: lower end of its confidence interval.
        ci_high: upper end.
        level: of the interval.
        spread: standard deviation of the frames' own dimensions beyond their errors.
        heterogeneity_p: of the chi-squared for frames that all have one dimension.
        frames: how many there are.
    """

    dimension: float
    stderr: float
    ci_low: float
    ci_high: float
    level: float
    spread: float
    heterogeneity_p: float
    frames: int


def joint_dimension(dimensions: Tensor, stderrs: Tensor, *, level: float = 0.95) -> ZoomFit:
    """The common dimension of the frames of a zoom (random effects, DerSimonian and Laird 1986).

    Args:
        dimensions: D of each frame `[F]`, at least 2; taken as independent.
        stderrs: their standard errors `[F]`, positive.
        level: of the interval, between 0 and 1.

    The spread is itself estimated from few frames, so the interval is Student's with F - 1 degrees
    of freedom, about the weighted residuals or the stated errors, whichever is wider.

    Source: R. DerSimonian and N. Laird, Meta-analysis in clinical trials, Controlled Clinical
    Trials 7 (1986) 177; C. Röver, G. Knapp and T. Friede, Hartung-Knapp-Sidik-Jonkman approach and
    its modification for random-effects meta-analysis with few studies, BMC Medical Research
    Methodology 15 (2015) 99.

    >>> import torch
    >>> from fractalkern.scaling import joint_dimension
    >>> fit = joint_dimension(torch.tensor([1.3, 1.3, 1.3]), torch.tensor([0.1, 0.1, 0.1]))
    >>> round(fit.dimension, 3), round(fit.stderr, 4), fit.spread
    (1.3, 0.0577, 0.0)
    """
    d, weights = _checked("joint_dimension", dimensions, stderrs, least=2)
    if not isinstance(level, int | float):
        raise InputTypeError(f"joint_dimension: level must be a number, got {level!r}")
    if not 0 < level < 1:
        raise InputError(f"joint_dimension: level must lie in (0, 1), got {level}")
    freedom = len(d) - 1
    mean = (weights * d).sum() / weights.sum()
    q = float((weights * (d - mean) ** 2).sum())
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    variance = max(0.0, (q - freedom) / scale)
    total = 1 / (1 / weights + variance)
    dimension = float((total * d).sum() / total.sum())
    stderr = float(total.sum().rsqrt())
    residual = math.sqrt(float((total * (d - dimension) ** 2).sum()) / freedom)
    half = student_quantile(level, freedom) * stderr * max(1.0, residual)
    return ZoomFit(
        dimension=dimension,
        stderr=stderr,
        ci_low=dimension - half,
        ci_high=dimension + half,
        level=level,
        spread=math.sqrt(variance),
        heterogeneity_p=_chi2_tail(q, freedom),
        frames=len(d),
    )


def _checked(op: str, dimensions: Tensor, stderrs: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Dimensions and their inverse variances, float64 `[S]`."""
    d = as_tensor(op, "dimensions", dimensions).double().cpu()
    errors = as_tensor(op, "stderrs", stderrs).double().cpu()
    if d.ndim != 1 or len(d) < least:
        raise InputError(
            f"{op}: dimensions must be at least {least} numbers, got shape {tuple(d.shape)}"
        )
    if errors.shape != d.shape:
        raise InputError(
            f"{op}: stderrs must have the shape {tuple(d.shape)} of dimensions, got "
            f"{tuple(errors.shape)}"
        )
    if not (d.isfinite().all() and errors.isfinite().all() and (errors > 0).all()):
        raise InputError(f"{op}: dimensions must be finite and stderrs finite and positive")
    return d, errors**-2


def _chi2_tail(value: float, freedom: int) -> float:
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, torch.tensor(value / 2, dtype=torch.float64)))
