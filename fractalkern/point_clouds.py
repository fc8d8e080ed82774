"""Correlation dimension of clouds of points, which need no grid."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.line_fits import MIN_POINTS, fit_line, local_slopes
from fractalkern.ops._inputs import as_integer, as_real, require_choice

_OP = "correlation_dimension"
_MIN_POINTS = 100
_PER_OCTAVE = 8
_OCTAVES = 40
# The default fit: enough pairs for a count to mean something, and few enough for a ball to be far
# smaller than the cloud, whose edge would flatten the line.
_LEAST_PAIRS = 100
_LARGEST_SHARE = 1e-2
_SAMPLE = 1500  # points whose distances bound the radii
_BLOCK = 1024  # points of a block: blocks of 8 MiB of distances

Norm = Literal["euclidean", "max"]


@dataclass(frozen=True)
class CorrelationDimension:
    """A line through log correlation sum against log radius; `float()` gives the dimension.

    Attributes:
        dimension: the slope.
        stderr: its standard error from the residuals. The sums of one cloud at several radii are
            correlated, so this understates the error: see it as a fit quality.
        r2: coefficient of determination.
        local_slopes: d log C / d log r at each radius.
        radii: of the fit, ascending.
        correlation: C(r), the share of pairs no further apart than r.
        counts: those pairs.
        pairs: all pairs that were looked at.
        theiler: pairs of points fewer places apart than this, or as many, were left out.
        norm: of the distances.
    """

    dimension: float
    stderr: float
    r2: float
    local_slopes: tuple[float, ...]
    radii: tuple[float, ...]
    correlation: tuple[float, ...]
    counts: tuple[int, ...]
    pairs: int
    theiler: int
    norm: Norm

    def __float__(self) -> float:
        """The dimension."""
        return self.dimension

    def to_json(self) -> str:
        """All fields as a JSON object."""
        return json.dumps(asdict(self), allow_nan=False)


def correlation_dimension(
    points: Any, radii: Any = None, *, theiler: int = 0, norm: Norm = "euclidean"
) -> CorrelationDimension:
    """The Grassberger-Procaccia dimension of points: D in C(r) ~ r^D.

    C(r) is the share of the pairs i < j with j - i > theiler whose distance is at most r. D is the
    order 2 of `generalized_dimensions`, without a grid.

    Args:
        points: [n, d], n >= 100, tensor or NumPy array of finite numbers; of a time series the
            states in the order of time.
        radii: at least 3 different ones; by default eight an octave, from the one with 100 pairs to
            the one with a hundredth of all pairs, or 1000 if that is more. There the edge of a
            cloud still flattens the line: 20,000 points in a cube read about 2.95.
        theiler: leaves out pairs close in time, which are close in space whatever the dimension.
        norm: "euclidean" or "max", the largest difference of a coordinate.

    Returns:
        CorrelationDimension of plain Python numbers. Deterministic. Distances are in float64, in
        blocks of 8 MiB: time grows with n², memory does not.

    Raises:
        InputTypeError: an argument of a wrong type or dtype.
        InputError: fewer than 100 points, values that are not finite, fewer than 3 radii at which
            there are pairs, such as for points that coincide.

    Source: P. Grassberger and I. Procaccia, Measuring the strangeness of strange attractors,
    Physica D 9 (1983) 189; J. Theiler, Spurious dimension from correlation algorithms applied to
    limited time-series data, Physical Review A 34 (1986) 2427.

    >>> import fractalkern as fk, torch
    >>> square = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    >>> abs(float(fk.correlation_dimension(square)) - 2) < 0.1
    True
    """
    cloud, window = _checked_points(points), _checked_window(theiler)
    require_choice(_OP, "norm", norm, ("euclidean", "max"))
    n = len(cloud)
    pairs = (n - window) * (n - window - 1) // 2 if window < n else 0
    if pairs < _LEAST_PAIRS:
        raise InputError(
            f"{_OP}: theiler must leave at least {_LEAST_PAIRS} pairs of {n} points, got "
            f"{window}, which leaves {pairs}"
        )
    if radii is None:
        most = max(_LARGEST_SHARE, min(10 * _LEAST_PAIRS / pairs, 1))
        edges = _default_edges(cloud, window, norm, most)
        counts = _counts(cloud, edges, window, norm)
        chosen = (counts >= _LEAST_PAIRS) & (counts <= most * pairs)
    else:
        edges = _checked_radii(radii).to(cloud.device)
        counts = _counts(cloud, edges, window, norm)
        chosen = counts > 0
    edges, counts = edges[chosen], counts[chosen]
    if len(edges) < MIN_POINTS:
        raise InputError(
            f"{_OP}: radii must hold at least {MIN_POINTS} at which there are pairs, got "
            f"{len(edges)}: the points coincide, are too few or lie on a lattice"
        )
    shares = counts.double() / pairs
    x, y = edges.log(), shares.log()
    line = fit_line(x, y)
    return CorrelationDimension(
        dimension=float(line.slope),
        stderr=float(line.stderr),
        r2=float(line.r2),
        local_slopes=tuple(local_slopes(x, y).tolist()),
        radii=tuple(edges.tolist()),
        correlation=tuple(shares.tolist()),
        counts=tuple(counts.tolist()),
        pairs=pairs,
        theiler=window,
        norm=norm,
    )


def _distances(cloud: Tensor, window: int, norm: Norm) -> Iterator[Tensor]:
    """Distances of all pairs i < j with j - i > window, block by block."""
    n, power = len(cloud), 2.0 if norm == "euclidean" else math.inf
    for row in range(0, n, _BLOCK):
        rows = cloud[row : row + _BLOCK]
        for column in range(row, n, _BLOCK):
            columns = cloud[column : column + _BLOCK]
            # Products of matrices would lose what is close together.
            block = torch.cdist(rows, columns, power, compute_mode="donot_use_mm_for_euclid_dist")
            lag = column - row - (len(rows) - 1)  # the least in the block
            if lag <= window:
                i = torch.arange(row, row + len(rows), device=cloud.device)
                j = torch.arange(column, column + len(columns), device=cloud.device)
                block = block[j - i[:, None] > window]
            yield block.flatten()


def _counts(cloud: Tensor, edges: Tensor, window: int, norm: Norm) -> Tensor:
    """Pairs no further apart than each radius, int64."""
    histogram = torch.zeros(len(edges) + 1, dtype=torch.int64, device=cloud.device)
    for block in _distances(cloud, window, norm):
        near = block[block <= edges[-1]]  # few, as a rule
        histogram += torch.bucketize(near, edges).bincount(minlength=len(edges) + 1)
    return histogram.cumsum(0)[:-1]


def _default_edges(cloud: Tensor, window: int, norm: Norm, most: float) -> Tensor:
    """Radii downwards from one that, by a sample, holds more than the share `most` of pairs."""
    step = -(-len(cloud) // _SAMPLE)
    distances = torch.cat(list(_distances(cloud[::step], window // step, norm)))
    rank = min(len(distances), math.ceil(4 * most * len(distances)) + 10)
    largest = float(distances.kthvalue(rank).values)
    if largest == 0:
        raise InputError(f"{_OP}: points must not coincide, got mostly the same one")
    exponents = torch.arange(1 - _OCTAVES * _PER_OCTAVE, 1, dtype=torch.float64)
    return (largest * (exponents / _PER_OCTAVE).exp2()).to(cloud.device)


def _checked_points(points: Any) -> Tensor:
    cloud = as_real(_OP, "points", points)
    if cloud.ndim != 2 or cloud.shape[1] == 0:
        raise InputError(f"{_OP}: points must be [n, d], got shape {tuple(cloud.shape)}")
    if len(cloud) < _MIN_POINTS:
        raise InputError(f"{_OP}: points must be at least {_MIN_POINTS}, got {len(cloud)}")
    return cloud


def _checked_window(theiler: Any) -> int:
    window = as_integer(_OP, theiler, "theiler must be an integer")
    if window < 0:
        raise InputError(f"{_OP}: theiler must be at least 0, got {window}")
    return window


def _checked_radii(radii: Any) -> Tensor:
    values = as_real(_OP, "radii", radii)
    if values.ndim != 1:
        raise InputError(f"{_OP}: radii must be a sequence, got shape {tuple(values.shape)}")
    if (values <= 0).any():
        raise InputError(f"{_OP}: radii must be positive, got {float(values.min()):g}")
    return torch.tensor(sorted(set(values.tolist())), dtype=torch.float64)
