"""Boundaries of known dimension, to calibrate estimates, to compare with and to test against.

Each function returns fields `[count, side, side]`, float32, whose sign changes at the boundary and
whose negative side is the inside. The truth is the dimension of the limit set: the field is sampled
at points, as a grid of training runs samples its plane. They are drawn on the CPU by `generator`
alone: the same state of it gives the same fields.

A count or side below 1, or a number out of the range that a function states, is an `InputError`; an
argument of a wrong type an `InputTypeError`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import as_number, as_tensor, require_generator, require_whole

__all__ = [
    "brownian_level_sets",
    "circles",
    "koch_snowflakes",
    "sierpinski_gaskets",
    "smooth_contours",
    "straight_lines",
    "with_noise",
]

# Levels between these quantiles of a field: neither side of the boundary is a few islands.
_QUANTILES = (0.2, 0.8)


def straight_lines(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Signed distances from lines, D = 1: any angle, through a point of the middle quarter.

    >>> import torch
    >>> from fractalkern.synthetic import straight_lines
    >>> straight_lines(3, 64, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 64, 64])
    """
    _check("straight_lines", count, side, generator)
    x, y = _cells(side)
    angle = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    centre = _centres(count, side, generator)
    return (x - centre[0]) * angle.cos() + (y - centre[1]) * angle.sin()


def circles(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Signed distances from circles, D = 1: radius N/8 to 3N/8, centre in the middle quarter.

    >>> import torch
    >>> from fractalkern.synthetic import circles
    >>> inside = circles(1, 64, torch.Generator().manual_seed(0)) < 0
    >>> bool(inside.any()), bool(inside.all())
    (True, False)
    """
    _check("circles", count, side, generator)
    x, y = _cells(side)
    centre = _centres(count, side, generator)
    radius = side * (0.125 + 0.25 * torch.rand(count, 1, 1, generator=generator))
    return torch.hypot(x - centre[0], y - centre[1]) - radius


def smooth_contours(
    count: int,
    side: int,
    generator: torch.Generator,
    *,
    length: float | None = None,
    inside: float | None = None,
    distances: bool = True,
) -> Tensor:
    """Signed distances, about, from level sets of fields with covariance exp(-r^2 / 2 l^2), D = 1.

    Args:
        count: how many fields.
        side: N.
        generator: draws all that is random.
        length: l in cells; by default uniform between N/10 and N/4.
        inside: share of the cells that are negative; by default uniform between 0.2 and 0.8.
        distances: the result is the field over its gradient, which near the boundary is the
            distance from it; else the field itself, of the same signs and in half the time.

    >>> import torch
    >>> from fractalkern.synthetic import smooth_contours
    >>> field = smooth_contours(1, 64, torch.Generator().manual_seed(0), inside=0.25)
    >>> round(float((field < 0).float().mean()), 2)
    0.25
    """
    op = "smooth_contours"
    _check(op, count, side, generator)
    if length is not None:
        length = _positive(op, "length", length)
    if inside is not None:
        inside = as_number(op, "inside", inside)
        if not 0 <= inside <= 1:
            raise InputError(f"{op}: inside must be from 0 to 1, got {inside}")
    fields = []
    for _ in range(count):
        share = 0.1 + 0.15 * float(torch.rand((), generator=generator))
        scale = share * side if length is None else length
        wave = _Waves(side, scale, generator)
        field = wave.field()
        field -= _level(field, generator, inside)
        fields.append(field.div_(wave.slope().clamp_(min=1e-3 / scale)) if distances else field)
    return torch.stack(fields)


def brownian_level_sets(
    count: int, side: int, dimension: float, generator: torch.Generator
) -> Tensor:
    """Level sets of Gaussian fields with the spectrum |k|^-(2H+2), H = 2 - dimension in (0, 1].

    A quarter of a periodic field of side 2N, sampled at points: the power beyond the Nyquist
    frequency is folded back, so that neighbours differ as those of a fractal field do.

    >>> import torch
    >>> from fractalkern.synthetic import brownian_level_sets
    >>> brownian_level_sets(2, 64, 1.5, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 64, 64])
    """
    op = "brownian_level_sets"
    _check(op, count, side, generator)
    dimension = as_number(op, "dimension", dimension)
    if not 1 <= dimension < 2:
        raise InputError(f"{op}: dimension must be from 1 to below 2, got {dimension}")
    amplitude = _sampled_amplitude(2 * side, 2 - dimension)
    spectrum = torch.randn(count, *amplitude.shape, 2, generator=generator)
    # The inverse transform keeps the Hermitian half of these columns, of half the variance.
    spectrum[:, :, ::side] *= math.sqrt(2)
    shaped = torch.view_as_complex(spectrum) * amplitude
    fields = torch.fft.irfft2(shaped, s=(2 * side, 2 * side))[:, :side, :side]
    levels = [_level(field, generator, None) for field in fields]
    centred: Tensor = fields - torch.stack(levels)[:, None, None]
    return centred


def koch_snowflakes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Snowflakes of random size, angle and place, D = log 4 / log 3; -1 inside, 1 outside.

    Segments are divided until they are below a quarter of a cell.

    Source: H. von Koch, Arkiv för Matematik, Astronomi och Fysik 1 (1904) 681.

    >>> import torch
    >>> from fractalkern.synthetic import koch_snowflakes
    >>> koch_snowflakes(1, 64, torch.Generator().manual_seed(0)).unique().tolist()
    [-1.0, 1.0]
    """
    _check("koch_snowflakes", count, side, generator)
    masks = []
    for _ in range(count):
        across, up, scale = _placed(side, 0.45, 0.75, generator)
        depth = math.ceil(math.log(4 * scale, 3))
        inside = torch.zeros(side, side, dtype=torch.bool)
        for corner in range(3):  # the three sides of the first triangle, its outside upwards
            cos, sin = math.cos(2 * math.pi * corner / 3), math.sin(2 * math.pi * corner / 3)
            x = cos * across + sin * up + 0.5
            y = cos * up - sin * across - 1 / (2 * math.sqrt(3))
            inside |= _below_koch_curve(x, y, depth)
        triangle = _barycentric(across, -up).amin(0) >= 0
        masks.append(inside | triangle)
    return 1 - 2 * torch.stack(masks).float()


def sierpinski_gaskets(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Gaskets of random size, angle and place, D = log 3 / log 2; -1 in a triangle of the set.

    Triangles are divided until their sides are below two cells.

    Source: W. Sierpinski, Comptes rendus 160 (1915) 302.

    >>> import torch
    >>> from fractalkern.synthetic import sierpinski_gaskets
    >>> sierpinski_gaskets(1, 64, torch.Generator().manual_seed(0)).unique().tolist()
    [-1.0, 1.0]
    """
    _check("sierpinski_gaskets", count, side, generator)
    masks = []
    for _ in range(count):
        across, up, scale = _placed(side, 0.6, 1.0, generator)
        corners = _barycentric(across, up)
        kept = (corners >= 0).all(0)
        for _ in range(int(math.log2(scale / 2))):
            corners = 2 * corners
            high = corners >= 1
            kept &= high.any(0)
            corners = corners - high.float()
        masks.append(kept)
    return 1 - 2 * torch.stack(masks).float()


def with_noise(distance: Tensor, width: float, generator: torch.Generator) -> Tensor:
    """Signs of `distance` (in cells), each flipped with probability Phi(-|distance| / width).

    Cells beyond 5.5 widths, where that is below the 2^-24 between uniform numbers, are not flipped.

    Args:
        distance: any shape, floating point.
        width: in cells, positive.
        generator: draws the flips.

    >>> import torch
    >>> from fractalkern.synthetic import with_noise
    >>> with_noise(torch.tensor([-9.0, 9.0]), 1.0, torch.Generator().manual_seed(0)).tolist()
    [-1.0, 1.0]
    """
    op = "with_noise"
    distance = as_tensor(op, "distance", distance)
    if not distance.is_floating_point():
        raise InputTypeError(f"{op}: distance must be floating point, got {distance.dtype}")
    width = _positive(op, "width", width)
    require_generator(op, generator)
    signs = distance.sign()
    near = (distance.abs() < 5.5 * width).flatten().nonzero()[:, 0]
    chance = torch.special.ndtr(distance.flatten()[near].abs() / -width)
    flipped = near[torch.rand(chance.shape, generator=generator) < chance]
    signs.view(-1)[flipped] *= -1
    return signs


def _check(op: str, count: int, side: int, generator: torch.Generator) -> None:
    require_whole(op, "count", count, 1)
    require_whole(op, "side", side, 1)
    require_generator(op, generator)


def _positive(op: str, name: str, value: float) -> float:
    number = as_number(op, name, value)
    if not 0 < number < math.inf:
        raise InputError(f"{op}: {name} must be positive and finite, got {number}")
    return number


def _cells(side: int) -> tuple[Tensor, Tensor]:
    """Coordinates of the columns `[1, side]` and of the rows `[side, 1]`."""
    line = torch.arange(side, dtype=torch.float32)
    return line[None], line[:, None]


def _centres(count: int, side: int, generator: torch.Generator) -> Tensor:
    return side * (0.25 + 0.5 * torch.rand(2, count, 1, 1, generator=generator))


def _level(field: Tensor, generator: torch.Generator, inside: float | None) -> Tensor:
    """The quantile `inside` of the field, to a 2^-12 of its cells; by default a random one."""
    low, high = _QUANTILES
    chosen = low + (high - low) * float(torch.rand((), generator=generator))
    share = chosen if inside is None else inside
    flat = field.flatten()
    sample = flat[:: max(1, flat.numel() // 4096)]
    rank = 1 + round(share * (sample.numel() - 1))
    return torch.kthvalue(sample, rank)[0]


class _Waves:
    """A field of correlation length `length` on `[side, side]`.

    A sum over the few waves of the double period whose amplitude exceeds e^-4 of the largest: the
    rest holds 1e-6 of the variance.
    """

    def __init__(self, side: int, length: float, generator: torch.Generator) -> None:
        period = 2 * side
        waves = math.ceil(4 * period / (2 * math.pi * length)) + 1
        k = 2 * math.pi / period * torch.arange(waves + 1, dtype=torch.float32)
        envelope = torch.exp(-((length * k) ** 2) / 4)  # the root of the spectrum
        phase = torch.arange(side, dtype=torch.float32)[:, None] * k
        cos, sin = phase.cos() * envelope, phase.sin() * envelope
        self._basis = torch.cat([cos, sin], 1)
        self._slope = torch.cat([-k * sin, k * cos], 1)
        parts = torch.randn(self._basis.shape[1], self._basis.shape[1], generator=generator)
        parts[0] *= math.sqrt(0.5)  # the waves of k = 0 have no sine
        parts[:, 0] *= math.sqrt(0.5)
        self._parts = parts
        self._across = parts @ self._basis.T

    def field(self) -> Tensor:
        """Its values."""
        return self._basis @ self._across

    def slope(self) -> Tensor:
        """The norm of its gradient, a cell."""
        down, across = self._slope @ self._across, self._basis @ (self._parts @ self._slope.T)
        return down.square_().addcmul_(across, across).sqrt_()


@lru_cache(maxsize=16)
def _sampled_amplitude(period: int, hurst: float) -> Tensor:
    """Root of the spectrum |k|^-(2H+2) summed over all aliases of each wave, float32."""
    exponent = hurst + 1  # of 1 / |k|^2
    rows = torch.fft.fftfreq(period, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(period, dtype=torch.float64)
    power = torch.zeros(period, len(columns), dtype=torch.float64)
    aliases = 2
    for i in range(-aliases, aliases + 1):
        for j in range(-aliases, aliases + 1):
            square = (rows + i) ** 2 + (columns + j) ** 2
            power += torch.where(square == 0, 0.0, square**-exponent)
    # The aliases beyond the square, as an integral beyond a disc of its area.
    radius = (2 * aliases + 1) / math.sqrt(math.pi)
    power += math.pi * radius ** (2 - 2 * exponent) / (exponent - 1)
    power[0, 0] = 0
    return power.sqrt().float()


def _placed(
    side: int, least: float, largest: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Coordinates of all cells in a frame of random size, angle and origin near the middle.

    The unit of the frame is `least` to `largest` times N, its third result in cells.
    """
    size, angle, dx, dy = torch.rand(4, generator=generator).tolist()
    scale = side * (least + (largest - least) * size)
    x, y = _cells(side)
    u, v = (x - side * (0.4 + 0.2 * dx)) / scale, (y - side * (0.4 + 0.2 * dy)) / scale
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    return cos * u + sin * v, cos * v - sin * u, scale


def _barycentric(across: Tensor, up: Tensor) -> Tensor:
    """Barycentric coordinates `[3, ...]` in the triangle of side 1 about 0, one corner upwards."""
    top = (up + 1 / (2 * math.sqrt(3))) * 2 / math.sqrt(3)
    right = across + 0.5 - top / 2
    return torch.stack((right, top, 1 - right - top))


def _below_koch_curve(x: Tensor, y: Tensor, depth: int) -> Tensor:
    """Which points with y > 0 lie below the curve that stands on the segment from 0 to 1.

    The curve over one third never passes the vertical line at its end, so each point belongs to one
    of the four parts, which is turned and blown up to be the next segment.
    """
    low = (y > 0) & (x >= 0) & (x <= 1)
    below = torch.zeros_like(low)
    half, root = 0.5, math.sqrt(3) / 2
    for _ in range(depth):
        x = 3 * torch.minimum(x, 1 - x)
        y = 3 * y
        rising = x > 1
        x, y = (
            torch.where(rising, half * (x - 1) + root * y, x),
            torch.where(rising, half * y - root * (x - 1), y),
        )
        below |= low & (y <= 0)
    return below
