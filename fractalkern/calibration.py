"""From the statistics of a boundary to its dimension with an interval that covers.

Raw slopes of box counts are biased at any finite resolution: at 512 cells a side the level set of a
fractional Brownian field of dimension 1.8 gives 1.6, and least squares takes correlated counts for
independent ones. So the statistics are compared with those of two families of boundaries whose
dimension is known, simulated once (`studies/calibrate_dimension.py`) and summarised in
`dimension_calibration.safetensors`:

- smooth boundaries (lines, circles, level sets of smooth fields), D = 1;
- level sets of Gaussian fields with a power-law spectrum, D from 1 to 2.

A boundary counts as smooth where sides that flip from one cell to the next hardly ever flip back:
`returns` at distance 1 is at most 2 / N, as in all 40,500 simulated ones. Then

    slope - 1 = m + s z

with m and log s linear in what else is seen of the boundary (how often it returns over an eighth of
the side, how many boxes it takes, whether it leaves through the frame), and the quantiles of z
those of the simulated ones.

Any other boundary is set beside the second family by its synthetic likelihood (Wood 2010): the
vector y of local slopes of counts and flips, and of log returns, is taken as normal with mean
mu(D), and covariance Sigma(D) / c with c the number of coarse boxes,

    Q(D) = c (y - mu)^T Sigma^-1 (y - mu) + log det Sigma

The estimate is the least Q; the interval holds every D with Q(D) - min Q at most a critical value
that was found by simulation for each D and level, so that it covers whatever the shape of Q.

There is no honest interval where a boundary is none of the family: where the least quadratic form
is larger than any that the family showed, or where it has too few or too many lone cells, which a
curve of the same counts in one piece hardly has and noise has many of. Of n edge cells a share p(D)
should be lone; the difference of the roots of their number and of p n is held against the largest
that the family showed at that D.

Source: S. N. Wood, Statistical inference for noisy nonlinear ecological dynamic systems, Nature 466
(2010) 1102.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import torch
from torch import Tensor

from fractalkern.boundary_statistics import OF_EACH, BoundaryStatistics, scales, without_ends

Kind = Literal["smooth", "brownian", "none"]

SMALLEST = 64  # side in cells from which smooth boundaries have an interval
SMALLEST_ROUGH = 128  # below, rough families cannot be told apart
_RETURNS = 2.0  # largest N * returns[0] of a smooth boundary
_STEP = 0.0025  # of D where Q is searched
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Inference:
    """What is known about the dimension of one boundary; NaN where no interval is honest."""

    kind: Kind
    dimension: float
    low: float
    high: float
    stderr: float
    reason: str


@dataclass(frozen=True, eq=False)
class Knot:
    """The families at one side N: F features, at polynomials and knots in D.

    Attributes:
        side: N.
        mean: Chebyshev coefficients in D of the features `[P, F]`.
        log_scale: the same of the log of their standard deviations times root c, `[R, F]`.
        correlation: of the features, at `CORRELATION_KNOTS`, `[K, F, F]`.
        critical: of Q(D) - min Q, `[D, L]` at `CRITICAL_KNOTS` and `LEVELS`.
        largest: of the least quadratic form over F, in the family.
        lone_share: p of lone cells, `[D]` at `CRITICAL_KNOTS`.
        lone_limit: the largest excess of lone cells either way, `[D]`.
        smooth_mean: coefficients of m.
        smooth_log_scale: coefficients of log s.
        smooth_z: lower and upper quantiles of z, `[2, L]`.
    """

    side: int
    mean: Tensor
    log_scale: Tensor
    correlation: Tensor
    critical: Tensor
    largest: Tensor
    lone_share: Tensor
    lone_limit: Tensor
    smooth_mean: Tensor
    smooth_log_scale: Tensor
    smooth_z: Tensor


CORRELATION_KNOTS = torch.tensor([1.1, 1.3, 1.5, 1.7, 1.9], dtype=torch.float64)
CRITICAL_KNOTS = torch.linspace(1, 2, 21, dtype=torch.float64)


def infer(statistics: BoundaryStatistics, side: int, level: float) -> list[Inference]:
    """The dimension of each boundary of `[B, side, side]` masks at a confidence level in (0, 1)."""
    if side < SMALLEST:
        reason = f"it needs at least {SMALLEST} cells a side, here are {side}"
        return [_refusal(reason) for _ in statistics.ends]
    smooth = statistics.returns[:, 0] * side <= _RETURNS
    results = []
    for i, is_smooth in enumerate(smooth.tolist()):
        one = _item(statistics, i)
        if is_smooth:
            results.append(_infer_smooth(one, side, level))
        elif side < SMALLEST_ROUGH:
            results.append(
                _refusal(f"rough boundaries need at least {SMALLEST_ROUGH} cells a side")
            )
        else:
            results.append(_infer_brownian(one, side, level))
    return results


def _refusal(reason: str) -> Inference:
    return Inference("none", math.nan, math.nan, math.nan, math.nan, reason)


def _item(statistics: BoundaryStatistics, i: int) -> BoundaryStatistics:
    return replace(statistics, **{name: getattr(statistics, name)[i : i + 1] for name in OF_EACH})


def features(statistics: BoundaryStatistics, count: int) -> Tensor:
    """y `[B, 3 count - 2]` over the first `count` scales."""
    sizes = statistics.sizes[:count]
    returns = (statistics.returns[:, :count] + 0.03).log()
    slopes = [_slopes(x[:, :count], sizes) for x in (statistics.counts, statistics.flips)]
    return torch.cat([*slopes, returns], 1)


def _slopes(counts: Tensor, sizes: Tensor) -> Tensor:
    return -counts.clamp(min=1e-9).log().diff(dim=1) / sizes.log().diff()


def coarse_boxes(statistics: BoundaryStatistics, side: int) -> Tensor:
    """c `[B]`: boxes of a side of N/8, from 1,024 cells on of 128, between sizes by their slope."""
    wanted = min(side, _sides()[-1]) / 8
    sizes = statistics.sizes
    last = int((sizes <= wanted).sum()) - 1
    slope = _slopes(statistics.counts[:, last - 1 : last + 1], sizes[last - 1 : last + 1])[:, 0]
    return statistics.counts[:, last] * (sizes[last] / wanted) ** slope


def lone_excess(statistics: BoundaryStatistics, share: Tensor) -> Tensor:
    """Lone cells beyond a share `[B]` of the edge cells, in about their standard errors, `[B]`."""
    expected = share * statistics.counts[:, 0]  # Anscombe's transform of a Poisson variable
    return 2 * ((statistics.lone + 0.375).sqrt() - (expected + 0.375).sqrt())


def polynomials(dimension: Tensor, degree: int) -> Tensor:
    """Chebyshev polynomials in 2 D - 3, `[D, degree + 1]`."""
    x = (2 * dimension - 3).clamp(-1, 1)
    return torch.stack([torch.cos(k * torch.arccos(x)) for k in range(degree + 1)], 1)


def likelihood(knot: Knot, y: Tensor, boxes: Tensor, dimension: Tensor) -> tuple[Tensor, Tensor]:
    """Q and its quadratic form `[B, D]` for features `[B, F']` at dimensions `[D]`.

    F' may be less than F: the first scales alone.
    """
    chosen = _first_scales(knot.mean.shape[1], y.shape[1])
    mean = polynomials(dimension, len(knot.mean) - 1) @ knot.mean[:, chosen]
    log_scale = polynomials(dimension, len(knot.log_scale) - 1) @ knot.log_scale[:, chosen]
    correlation = knot.correlation[:, chosen][:, :, chosen]
    weights = hat_weights(dimension, CORRELATION_KNOTS)
    root = torch.linalg.cholesky(torch.einsum("dk,kij->dij", weights, correlation))
    deviation = (y[:, None] - mean) * boxes[:, None, None].sqrt() / log_scale.exp()
    white = torch.linalg.solve_triangular(root, deviation.permute(1, 2, 0), upper=False)
    form = white.square().sum(1).T
    determinant = 2 * (root.diagonal(dim1=1, dim2=2).log().sum(1) + log_scale.sum(1))
    return form + determinant, form


def _first_scales(all_features: int, wanted: int) -> Tensor:
    """Indices of the features of the first scales; there are 3 S - 2 of S scales."""
    full, part = (all_features + 2) // 3, (wanted + 2) // 3
    slopes = torch.arange(part - 1)
    return torch.cat([slopes, full - 1 + slopes, 2 * full - 2 + torch.arange(part)])


def hat_weights(x: Tensor, knots: Tensor) -> Tensor:
    """Weights `[X, K]` of linear interpolation between ascending knots, constant beyond them."""
    x = x.clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    share = (x - knots[right - 1]) / (knots[right] - knots[right - 1])
    weights = x.new_zeros(len(x), len(knots))
    weights.scatter_(1, right[:, None], share[:, None])
    return weights.scatter_(1, right[:, None] - 1, 1 - share[:, None])


def _infer_brownian(statistics: BoundaryStatistics, side: int, level: float) -> Inference:
    knots = _around(side)
    count = min(len(scales(knot.side)) for knot, _ in knots)
    count = min(count, len(statistics.sizes))
    y, boxes = features(statistics, count), coarse_boxes(statistics, side)
    grid = torch.arange(1, 2 + _STEP / 2, _STEP, dtype=torch.float64)
    total, form, critical = (torch.zeros_like(grid) for _ in range(3))
    largest = 0.0
    lone_share, lone_limit = torch.zeros_like(grid), torch.zeros_like(grid)
    for knot, weight in knots:
        q, quadratic = likelihood(knot, y, boxes, grid)
        total, form = total + weight * q[0], form + weight * quadratic[0]
        near = hat_weights(grid, CRITICAL_KNOTS)
        critical = critical + weight * (near @ _at_level(knot.critical, level))
        largest = largest + weight * float(knot.largest)
        lone_share = lone_share + weight * (near @ knot.lone_share)
        lone_limit = lone_limit + weight * (near @ knot.lone_limit)
    best = int(total.argmin())
    misfit = float(form[best]) / y.shape[1]
    if misfit > largest:
        return _refusal(
            "its counts follow neither a smooth nor a Brownian boundary of any dimension (misfit "
            f"{misfit:.1f}, at most {largest:.1f} in those families)"
        )
    excess = float(lone_excess(statistics, lone_share[best : best + 1]))
    if abs(excess) > float(lone_limit[best]):
        return _refusal(
            f"it has too {'few' if excess < 0 else 'many'} islands of one cell for a Brownian "
            f"boundary of its roughness ({int(statistics.lone)}, where about "
            f"{float(lone_share[best] * statistics.counts[0, 0]):.0f} belong)"
        )
    accepted = grid[total - total[best] <= critical]
    low, high = float(accepted[0]), float(accepted[-1])
    dimension = float(grid[best])
    stderr = (high - low) / (2 * _normal_quantile(level))
    reason = f"like the level set of a Brownian field (misfit {misfit:.1f})"
    return Inference("brownian", dimension, low, high, stderr, reason)


def smooth_slope(statistics: BoundaryStatistics) -> tuple[Tensor, Tensor, Tensor]:
    """The slope `[B]` of the counts without ends, and what m `[B, 5]` and log s `[B, 6]` need."""
    counts = without_ends(statistics.counts, statistics.ends, statistics.sizes)
    x = statistics.sizes.log()
    x = x - x.mean()
    slope = -(counts.clamp(min=0.5).log() * x).sum(1) / x.square().sum()
    third, second, last = statistics.returns[:, -3:].unbind(1)
    boxes = counts[:, -1].clamp(min=0.5)
    one = torch.ones_like(slope)
    closed, single = (statistics.ends == 0).double(), (last == 0).double()
    for_mean = torch.stack([one, last, second, third, 1 / boxes], 1)
    logs = [(last + 0.003).log(), (second + 0.003).log(), boxes.log()]
    return slope, for_mean, torch.stack([one, *logs, closed, single], 1)


def _infer_smooth(statistics: BoundaryStatistics, side: int, level: float) -> Inference:
    slope, for_mean, for_scale = smooth_slope(_up_to(statistics, _sides()[-1] // 8))
    mean, log_scale, z = 0.0, 0.0, torch.zeros(2, dtype=torch.float64)
    for knot, weight in _around(side):
        mean = mean + weight * float(for_mean[0] @ knot.smooth_mean)
        log_scale = log_scale + weight * float(for_scale[0] @ knot.smooth_log_scale)
        z = z + weight * torch.stack([_at_level(tail, level) for tail in knot.smooth_z])
    dimension, scale = float(slope[0]) - mean, math.exp(log_scale)
    low, high = dimension - scale * float(z[1]), dimension - scale * float(z[0])
    stderr = (high - low) / (2 * _normal_quantile(level))
    return Inference("smooth", dimension, low, high, stderr, "it is smooth from cell to cell")


def _up_to(statistics: BoundaryStatistics, largest: int) -> BoundaryStatistics:
    kept = int((statistics.sizes <= largest).sum())
    parts = {name: getattr(statistics, name)[:, :kept] for name in ("counts", "flips", "returns")}
    return replace(statistics, sizes=statistics.sizes[:kept], **parts)


def _at_level(table: Tensor, level: float) -> Tensor:
    """Values `[..., L]` at `LEVELS`, taken as linear in the square of the normal quantile."""
    squares = torch.tensor([_normal_quantile(known) ** 2 for known in LEVELS], dtype=torch.float64)
    wanted = _normal_quantile(level) ** 2
    if wanted > squares[-1]:
        return table[..., -1] * wanted / float(squares[-1])
    if wanted < squares[0]:
        return table[..., 0] * wanted / float(squares[0])
    return table @ hat_weights(squares.new_tensor([wanted]), squares)[0]


def _normal_quantile(level: float) -> float:
    """Half width of the interval of a standard normal variable."""
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))


def _around(side: int) -> list[tuple[Knot, float]]:
    """The tables of the sides about `side` and their weights, linear in its logarithm."""
    sides = torch.tensor(_sides(), dtype=torch.float64).log()
    weights = hat_weights(torch.tensor([math.log(side)], dtype=torch.float64), sides)[0]
    return [(_knots()[i], float(w)) for i, w in enumerate(weights) if w > 0]


def _sides() -> tuple[int, ...]:
    return tuple(knot.side for knot in _knots())


@lru_cache(maxsize=1)
def _knots() -> tuple[Knot, ...]:
    from safetensors.torch import load

    table = load(files("fractalkern").joinpath("dimension_calibration.safetensors").read_bytes())
    sides = sorted({int(name.split(".")[0]) for name in table})
    knots = []
    for side in sides:
        parts = {
            name: table[f"{side}.{name}"].double()
            for name in Knot.__annotations__
            if name != "side"
        }
        knots.append(Knot(side=side, **parts))
    return tuple(knots)
