"""Sets of known dimension, as bool tensors."""

import math

import torch
from torch import Tensor


def kronecker_power(pattern: Tensor, level: int) -> Tensor:
    """The self-similar set whose every cell is a copy of `pattern`, `level` times over."""
    result = pattern
    for _ in range(level - 1):
        result = torch.kron(result.to(torch.uint8), pattern.to(torch.uint8))
    return result != 0


def cantor(level: int) -> Tensor:
    """Middle-third dust [3^level], log 2 / log 3."""
    return kronecker_power(torch.tensor([1, 0, 1]), level)


def carpet(level: int) -> Tensor:
    """Sierpinski carpet [3^level]², log 8 / log 3."""
    pattern = torch.ones(3, 3)
    pattern[1, 1] = 0
    return kronecker_power(pattern, level)


def menger(level: int) -> Tensor:
    """Menger sponge [3^level]³, log 20 / log 3."""
    middle = torch.tensor([0, 1, 0])
    pattern = middle[:, None, None] + middle[:, None] + middle < 2
    return kronecker_power(pattern, level)


def sierpinski_triangle(level: int) -> Tensor:
    """Binomials that are odd [2^level]², log 3 / log 2."""
    return kronecker_power(torch.tensor([[1, 0], [1, 1]]), level)


def koch(side: int) -> Tensor:
    """Koch curve across the width of [side]², log 4 / log 3; no grid aligns with it."""
    points = torch.tensor([0, 1], dtype=torch.complex128)
    turn = complex(0.5, math.sqrt(3) / 2)
    for _ in range(math.ceil(math.log(4 * side, 3))):  # segments of at most a quarter cell
        third = points.diff() / 3
        start = points[:-1]
        new = [start, start + third, start + third + third * turn, start + 2 * third]
        points = torch.cat([torch.stack(new, 1).flatten(), points[-1:]])
    cells = torch.view_as_real(points * (side - 1)).round().long()
    curve = torch.zeros(side, side, dtype=torch.bool)
    curve[cells[:, 1], cells[:, 0]] = True
    return curve


def half_plane(side: int) -> Tensor:
    """The upper 62 % of [side]²: its edge is a row that no box size aligns with."""
    return (torch.arange(side)[:, None] < 0.62 * side).expand(side, side)


def lower_triangle(side: int) -> Tensor:
    return torch.ones(side, side).tril() != 0


def disc(side: int, radius: float = 0.31) -> Tensor:
    """A disc of `radius` sides about the centre of [side]²."""
    x = (torch.arange(side) - (side - 1) / 2) / side
    return x[:, None] ** 2 + x**2 < radius**2


def fractional_brownian(side: int, hurst: float, seed: int) -> Tensor:
    """A periodic Gaussian field [side]² of spectral power |k|^-(2 hurst + 2), minus its median.

    Its level set has the dimension 2 - hurst in the limit of infinite resolution.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(side, side, dtype=torch.float64, generator=generator)
    k = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = torch.hypot(k[:, None], k)
    radius[0, 0] = math.inf
    field = torch.fft.ifft2(torch.fft.fft2(noise) * radius ** -(hurst + 1)).real
    return field - field.median()
