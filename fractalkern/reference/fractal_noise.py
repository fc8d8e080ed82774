"""Reference for `fractal_noise`: each mode's words by NumPy, everything else by PyTorch in float64.

The half spectrum has shape `[N_0, ..., N_{d-1} // 2 + 1]`; n is the vector of a mode's signed
integer wave numbers, Nyquist's being positive. Its mirror image -n keeps Nyquist coordinates.

    drawn as   n, or in the planes n_{d-1} in {0, N_{d-1} / 2} as -n and conjugated if the first
               coordinate in which the two differ is negative in n
    counter    (n_{d-1}, n_{d-2}, n_{d-3}, n_{d-4}) mod 2^32, missing ones 0
    key        words 0 and 1 of the counter (b mod 2^32, b div 2^32, n_0 if d = 5 else 0, 1) under
               the seed, for item b of the batch
    uniforms   u = (1 + (w0 * 2^32 + w1) div 2^11) / 2^53,   v = ((w2 * 2^32 + w3) div 2^11) / 2^53

A mode of amplitude 1 is, and where n = -n:

    gaussian   sqrt(-ln u) exp(2 pi i v)                  sqrt(-2 ln u) cos(2 pi v)
    phase      exp(2 pi i v)                              1 if v < 1/2 else -1
    genesis    cos(2 pi u') exp(2 pi i v)                 cos(2 pi v)            u' = u - 2^-53
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fractalkern.random import Words, philox4x32

# A limit of the band that is some mode's own |k| keeps that mode, rounding or not.
BAND_SLACK = 1e-12


def wave_numbers(size: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """The signed integer wave numbers of the half spectrum, one broadcastable array an axis."""
    full = [np.arange(n) for n in size]
    full = [n - len(n) * (n > len(n) // 2) for n in full]
    full[-1] = np.arange(size[-1] // 2 + 1)
    return [n.reshape([-1] + [1] * (len(size) - 1 - axis)) for axis, n in enumerate(full)]


def square_frequency(size: Sequence[int], step: Sequence[float]) -> Tensor:
    """|k|^2 of the half spectrum, float64; `step` is 1 / (N spacing) for each axis."""
    square = torch.zeros((), dtype=torch.float64)
    for n, unit in zip(wave_numbers(size), step, strict=True):
        square = square + torch.from_numpy(n).double().square() * (unit * unit)
    return square


def multiplicity(size: Sequence[int], k2: Tensor, k_min: float, k_max: float) -> Tensor:
    """How often a mode of the half spectrum is in the full one: 2, or 1, or 0 out of the band."""
    weight = torch.full_like(k2, 2.0)
    weight[..., 0] = 1
    if size[-1] % 2 == 0:
        weight[..., -1] = 1
    low, high = k_min * k_min * (1 - BAND_SLACK), k_max * k_max * (1 + BAND_SLACK)
    return weight * ((k2 > 0) & (k2 >= low) & (k2 <= high))


def mode_words(size: Sequence[int], seed: int, item: int) -> tuple[Words, npt.NDArray[np.int64]]:
    """Philox words `[*half, 4]`, and +1, -1 or 0: drawn as itself, as its mirror image, real."""
    half = [*size[:-1], size[-1] // 2 + 1]
    numbers = [np.broadcast_to(n, half) for n in wave_numbers(size)]
    side = np.zeros(half, dtype=np.int64)
    mirror = []
    for n, length in zip(numbers, size, strict=True):
        own = (n == 0) | (2 * n == length)
        mirror.append(np.where(own, n, -n))
        side = np.where((side == 0) & ~own, np.sign(n), side)
    in_plane = (numbers[-1] == 0) | (2 * numbers[-1] == size[-1])
    side = np.where(in_plane, side, 1)
    drawn = [np.where(side < 0, m, n) for n, m in zip(numbers, mirror, strict=True)]

    words = [*reversed(drawn)] + [np.zeros(half, dtype=np.int64)] * (5 - len(size))
    low = 2**32 - 1
    key_counter = np.zeros((*half, 4), dtype=np.uint64)
    key_counter[..., 0], key_counter[..., 1] = item & low, item >> 32
    key_counter[..., 2], key_counter[..., 3] = words[4] & low, 1
    key = philox4x32(key_counter, (seed & low, seed >> 32))
    counter = np.stack([word & low for word in words[:4]], axis=-1).astype(np.uint64)
    return philox4x32(counter, (key[..., 0], key[..., 1])), side


def unit_modes(size: Sequence[int], seed: int, item: int, spectrum: str) -> Tensor:
    """Modes of amplitude 1, complex128 `[*half]`."""
    words, side = mode_words(size, seed, item)
    high, low = words[..., 0::2], words[..., 1::2]
    bits = torch.as_tensor((((high << np.uint64(32)) | low) >> np.uint64(11)).astype(np.float64))
    u, v = bits[..., 0] * 2.0**-53, bits[..., 1] * 2.0**-53
    real, mirrored = torch.as_tensor(side == 0), torch.as_tensor(side < 0)
    one, angle = torch.ones_like(v), 2 * math.pi * v
    if spectrum == "gaussian":
        radius = torch.sqrt(-torch.log(u + 2.0**-53))
        own = math.sqrt(2) * radius * torch.cos(angle)
    elif spectrum == "phase":
        radius, own = one, torch.where(v < 0.5, one, -one)
    else:
        radius, own = torch.cos(2 * math.pi * u), torch.cos(angle)
    modes = torch.polar(one, angle) * radius
    modes = torch.where(mirrored, modes.conj(), modes)
    return torch.where(real, own.to(torch.complex128), modes)


def fractal_noise(
    beta: Tensor,
    size: Sequence[int],
    step: Sequence[float],
    seed: int,
    common_noise: bool,
    k_min: float,
    k_max: float,
    spectrum: str,
    normalize: str,
) -> Tensor:
    """The fields, float64 `[B, *size]`, for beta `[B]`; differentiable in beta."""
    k2 = square_frequency(size, step)
    weight = multiplicity(size, k2, k_min, k_max)
    log_k = 0.5 * torch.log(torch.where(weight > 0, k2, 1.0))
    fields = []
    for item, exponent in enumerate(beta.double()):
        # ln |k| of the mode of amplitude 1: any will do if amplitudes are rescaled
        reference = torch.zeros((), dtype=torch.float64)
        if normalize != "none" and bool((weight > 0).any()):
            in_band = log_k[weight > 0]
            reference = torch.where(exponent > 0, in_band.min(), in_band.max())
        relative = torch.where(weight > 0, log_k - reference, 0.0)
        amplitude = torch.exp(-exponent / 2 * relative) * (weight > 0)
        modes = amplitude * unit_modes(size, seed, 0 if common_noise else item, spectrum)
        if normalize == "sample":
            power = (weight * modes.abs().square()).sum()
        elif normalize == "ensemble":
            power = (weight * amplitude.square()).sum() * (0.5 if spectrum == "genesis" else 1.0)
        else:
            power = torch.ones(())
        modes = modes / torch.sqrt(torch.where(power > 0, power, 1.0))
        fields.append(torch.fft.irfftn(modes, s=list(size), norm="forward"))
    return torch.stack(fields) if fields else beta.new_empty((0, *size), dtype=torch.float64)
