"""`fractal_noise` in Triton: half spectra by the rule of `fractalkern.reference.fractal_noise`.

A program draws a block of neighbouring modes of one item: coordinates by division, Philox, the
coefficient. To normalize, a first launch sums the power of each block and a second one draws again,
scaled. No float64 arithmetic runs for float32 fields but in the sums and the limits of a band.
"""

# A kernel has no types.
# mypy: disable-error-code="no-untyped-def"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fractalkern.ops.fractal_noise import backward, empty_spectrum, setup_context
from fractalkern.reference.fractal_noise import BAND_SLACK
from fractalkern.triton._launch import current_device_of

__all__ = ["fractal_noise_spectrum"]

BLOCK = 1024
SPECTRA = {"gaussian": 0, "phase": 1, "genesis": 2}
# What a launch does: the power that is expected, that of the sample, the modes.
EXPECTED, SAMPLE, WRITE = 0, 1, 2

_GAUSSIAN, _PHASE = tl.constexpr(SPECTRA["gaussian"]), tl.constexpr(SPECTRA["phase"])
_EXPECTED, _WRITE = tl.constexpr(EXPECTED), tl.constexpr(WRITE)


@triton.jit
def _philox(c0, c1, c2, c3, key0, key1):
    """Philox4x32-10 on uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _coordinate(index, length):
    """Signed wave number at a position, whether it is its own mirror image, and the other axes."""
    position = index % length
    mode = tl.where(position > length - position, position - length, position)
    own = (position == 0) | (position == length - position)
    return mode.to(tl.int32), own, index // length


@triton.jit
def _first_sign(sign, mode, own):
    """The sign of the first coordinate that differs in the mirror image."""
    return tl.where((sign != 0) | own, sign, tl.where(mode > 0, 1, -1))


@triton.jit
def _mirrored(mode, own, mirror):
    """The coordinate as a word of the counter."""
    return tl.where(mirror & ~own, -mode, mode).to(tl.uint32, bitcast=True)


@triton.jit
def _log_uniform(high, low, FLOAT64: tl.constexpr):
    """ln of (n + 1) / 2^53, n the upper 53 of the 64 bits (high, low)."""
    if FLOAT64:
        n = ((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> 11
        return tl.log((n + 1).to(tl.float64) * 1.1102230246251565e-16)
    else:
        # Counted from the nearer end of (0, 1]: near 1 the distance from it matters, and there its
        # series is taken, as a GPU's logarithm has an absolute error.
        signed = high.to(tl.int32, bitcast=True)
        rest = ((low >> 11) + 1).to(tl.int32, bitcast=True).to(tl.float32) * 1.1102230246251565e-16
        x = signed.to(tl.float32) * 2.3283064365386963e-10 + rest
        near = (signed < 0) & (signed >= -(1 << 26))
        series = x * (1 + x * (-0.5 + x * (0.3333333333333333 - x * 0.25)))
        return tl.where(near, series, tl.log(tl.where(near, 1.0, tl.where(signed < 0, x + 1, x))))


@triton.jit
def _cos_sin(high, low, FLOAT64: tl.constexpr):
    """Cosine and sine of 2 pi n / 2^53, n as above; a float32's rounding hides the low word."""
    if FLOAT64:
        n = ((high.to(tl.uint64) << 32) | low.to(tl.uint64)) >> 11
        # A constant in an expression would be a float32.
        turn = tl.full((), 6.975736996017264e-16, tl.float64)
        angle = n.to(tl.float64) * turn
        return tl.cos(angle), tl.sin(angle)
    else:
        # The library's functions of float32 would reduce angles of any size, in local memory. Here
        # the nearest quarter of a turn is cut off as an integer; x are turns from it, |x| <= 1/8.
        x = (high << 2).to(tl.int32, bitcast=True).to(tl.float32) * 5.820766091346741e-11
        z = x * x
        s = x * (6.2831855 + z * (-41.341663 + z * (81.592545 + z * -75.40161)))
        c = 1 + z * (-19.739208 + z * (64.93937 + z * (-85.44882 + z * 59.424107)))
        nearest = high + 0x20000000
        odd = (nearest & 0x40000000) != 0
        cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
        cosine = tl.where(((nearest + 0x40000000) & 0x80000000) != 0, -cosine, cosine)
        return cosine, tl.where((nearest & 0x80000000) != 0, -sine, sine)


@triton.jit
def _coordinates(index, length0, length1, length2, length3, AXES: tl.constexpr):
    """Of the rows of modes: the leading coordinates, the last one first, and the mirror image.

    Returns four coordinates, whether each is its own mirror image, and the sign of the first one
    that differs in the mirror image (0: none does).
    """
    nothing = (index * 0).to(tl.int32)
    mode1, mode2, mode3, mode4 = nothing, nothing, nothing, nothing
    own1, own2, own3, own4 = index >= 0, index >= 0, index >= 0, index >= 0
    sign = nothing
    if AXES > 1:
        mode1, own1, index = _coordinate(index, length0)
    if AXES > 2:
        mode2, own2, index = _coordinate(index, length1)
    if AXES > 3:
        mode3, own3, index = _coordinate(index, length2)
    if AXES > 4:
        mode4, own4, index = _coordinate(index, length3)
    sign = _first_sign(sign, mode4, own4)
    sign = _first_sign(sign, mode3, own3)
    sign = _first_sign(sign, mode2, own2)
    sign = _first_sign(sign, mode1, own1)
    return mode1, mode2, mode3, mode4, own1, own2, own3, own4, sign


@triton.jit
def _square(column, mode1, mode2, mode3, mode4, weights, AXES: tl.constexpr):
    """The sum of the squares of all coordinates, weighted, in the type of the weights."""
    weight = tl.load(weights)
    square = (column * 0).to(weight.dtype)
    if AXES > 4:
        square += mode4.to(weight.dtype) * mode4.to(weight.dtype) * tl.load(weights + 4)
    if AXES > 3:
        square += mode3.to(weight.dtype) * mode3.to(weight.dtype) * tl.load(weights + 3)
    if AXES > 2:
        square += mode2.to(weight.dtype) * mode2.to(weight.dtype) * tl.load(weights + 2)
    if AXES > 1:
        square += mode1.to(weight.dtype) * mode1.to(weight.dtype) * tl.load(weights + 1)
    return square + column.to(weight.dtype) * column.to(weight.dtype) * weight


@triton.jit
def _words(column, word1, word2, word3, word4, item, seed):
    """The four random words of modes of an item."""
    # Without a fifth axis the key is the item's: a block of equal words all the same.
    nothing = word4 * 0
    low = nothing + (item & 0xFFFFFFFF).to(tl.uint32)
    high = nothing + ((item >> 32) & 0xFFFFFFFF).to(tl.uint32)
    seed_low = nothing + (seed & 0xFFFFFFFF).to(tl.uint32)
    seed_high = nothing + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    one = (nothing + 1).to(tl.uint32)
    key0, key1, _, _ = _philox(low, high, word4, one, seed_low, seed_high)
    return _philox(column.to(tl.uint32, bitcast=True), word1, word2, word3, key0, key1)


@triton.jit
def _coefficient(word0, word1, word2, word3, own, SPECTRUM: tl.constexpr, FLOAT64: tl.constexpr):
    """Real and imaginary part of modes of amplitude 1; `own` ones are their own mirror image."""
    cosine, sine = _cos_sin(word2, word3, FLOAT64)
    if SPECTRUM == _GAUSSIAN:
        square = -_log_uniform(word0, word1, FLOAT64)
        radius = tl.sqrt(square)
        own_value = tl.sqrt(2 * square) * cosine
    elif SPECTRUM == _PHASE:
        radius = cosine * 0 + 1
        own_value = tl.where(word2.to(tl.int32, bitcast=True) < 0, -radius, radius)
    else:
        radius, _ = _cos_sin(word0, word1, FLOAT64)
        own_value = cosine
    return tl.where(own, own_value, radius * cosine), tl.where(own, 0.0, radius * sine)


@triton.jit(do_not_specialize=["length0", "length1", "length2", "length3", "last_length"])
def _draw(
    law,  # [items, 2 + axes]: slope, gain, squares of the steps over the reference, last one first
    band,  # [2 + axes]: limits of |k|^2, squares of the steps, float64
    seed,  # [1], int64
    factor,  # [items]: of the modes
    power,  # [items, tiles]: written unless PASS is WRITE, float64
    out,  # [items, modes, 2]: written if PASS is WRITE
    length0,
    length1,
    length2,
    length3,
    last_length,
    modes,
    tiles,
    mean_square,
    AXES: tl.constexpr,
    SPECTRUM: tl.constexpr,
    PASS: tl.constexpr,
    BANDED: tl.constexpr,
    COMMON: tl.constexpr,
    FLOAT64: tl.constexpr,
    WIDE: tl.constexpr,  # modes of an item exceed 32 bits
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    item = program // tiles
    tile = program % tiles
    index = tile * BLOCK + tl.arange(0, BLOCK)
    drawn = index < modes
    if not WIDE:
        index = index.to(tl.int32)
    columns = last_length // 2 + 1
    column = (index % columns).to(tl.int32)
    plane = (column == 0) | (column == last_length - column)
    mode1, mode2, mode3, mode4, own1, own2, own3, own4, sign = _coordinates(
        index // columns, length0, length1, length2, length3, AXES
    )

    law += item * (2 + AXES)
    slope, gain = tl.load(law), tl.load(law + 1) * tl.load(factor + item)
    q = _square(column, mode1, mode2, mode3, mode4, law + 2, AXES)
    drawn = drawn & (q > 0)
    if BANDED:
        square = _square(column, mode1, mode2, mode3, mode4, band + 2, AXES)
        drawn = drawn & (square >= tl.load(band)) & (square <= tl.load(band + 1))
    log2 = tl.log2(tl.where(drawn, tl.minimum(q, 1e38), 1.0))
    amplitude = tl.where(drawn, tl.exp2(log2 * slope) * gain, 0.0)
    weight = tl.where(plane, 1.0, 2.0).to(slope.dtype)
    if PASS == _EXPECTED:
        total = tl.sum(weight * amplitude * amplitude) * mean_square
        tl.store(power + program, total.to(tl.float64))
    else:
        mirror = plane & (sign < 0)
        word0, word1, word2, word3 = _words(
            column,
            _mirrored(mode1, own1, mirror),
            _mirrored(mode2, own2, mirror),
            _mirrored(mode3, own3, mirror),
            _mirrored(mode4, own4, mirror),
            item * 0 if COMMON else item,
            tl.load(seed),
        )
        own = plane & (sign == 0)
        real, imaginary = _coefficient(word0, word1, word2, word3, own, SPECTRUM, FLOAT64)
        real *= amplitude
        imaginary *= tl.where(mirror, -amplitude, amplitude)
        if PASS == _WRITE:
            to = tile * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
            pairs = tl.interleave(real, imaginary)
            tl.store(out + item * modes * 2 + to, pairs, mask=to // 2 < modes)
        else:
            total = tl.sum(weight * (real * real + imaginary * imaginary))
            tl.store(power + program, total.to(tl.float64))


@torch.library.custom_op("fractalkern::fractal_noise_spectrum_triton", mutates_args=())
def fractal_noise_spectrum(
    beta: Tensor,
    size: list[int],
    step: list[float],
    seed: int,
    common_noise: bool,
    k_min: float,
    k_max: float,
    spectrum: str,
    normalize: str,
    float64: bool,
) -> Tensor:
    """As `fractal_noise_spectrum` of the compiled library."""
    band = (k_min, k_max)
    out: Tensor = empty_spectrum(
        beta, size, step, seed, common_noise, *band, spectrum, normalize, float64
    )
    if out.numel() == 0:
        return out
    items, modes = len(beta), out[0].numel() // 2
    tiles = triton.cdiv(modes, BLOCK)
    lengths = [*reversed(size[:-1]), 1, 1, 1, 1][:4]
    squares = [unit * unit for unit in reversed(step)]
    limits = [k_min * k_min * (1 - BAND_SLACK), k_max * k_max * (1 + BAND_SLACK), *squares]
    arguments = (
        _law(beta, size, step, *band, normalize).to(out.dtype),
        # A tensor of a list would be a copy from the host, which no graph can capture.
        torch.stack([torch.full((), x, dtype=beta.dtype, device=beta.device) for x in limits]),
        torch.full((1,), seed, dtype=torch.int64, device=beta.device),
    )
    power = beta.new_empty([items, tiles])
    factor = torch.ones_like(beta, dtype=out.dtype)
    mean_square = 0.5 if spectrum == "genesis" else 1.0

    def launch(work: int) -> None:
        with current_device_of(beta):
            _draw[(items * tiles,)](
                *arguments,
                factor,
                power,
                out,
                *lengths,
                size[-1],
                modes,
                tiles,
                mean_square,
                AXES=len(size),
                SPECTRUM=SPECTRA[spectrum],
                PASS=work,
                BANDED=k_min > 0 or k_max < math.inf,
                COMMON=common_noise,
                FLOAT64=float64,
                WIDE=modes + BLOCK >= 2**31,
                BLOCK=BLOCK,
                enable_fp_fusion=True,
            )

    if normalize != "none":
        launch(EXPECTED if normalize == "ensemble" or spectrum == "phase" else SAMPLE)
        total = power.sum(1)
        factor = torch.where(total > 0, total.rsqrt(), 0.0).to(out.dtype)
    launch(WRITE)
    return out


def _law(
    beta: Tensor, size: list[int], step: list[float], k_min: float, k_max: float, normalize: str
) -> Tensor:
    """Of each item, float64 `[B, 2 + axes]`: what the kernel's argument of that name holds."""
    squares = [unit * unit for unit in reversed(step)]
    longer = [(n, unit) for n, unit in zip(reversed(size), squares, strict=True) if n > 1]
    smallest = min((unit for _, unit in longer), default=1.0)
    largest = sum((n // 2) ** 2 * unit for n, unit in longer) or 1.0
    # |k|^2 of the mode of amplitude `gain`: amplitudes relative to it are at most 1.
    low, high = max(smallest, k_min * k_min), min(largest, k_max * k_max)
    reference = torch.ones_like(beta)
    if longer:  # numbers in where() would be float32
        reference = torch.where(beta > 0, torch.full_like(beta, low), torch.full_like(beta, high))
    slope = -beta / 4
    gain = reference**slope if normalize == "none" else torch.ones_like(beta)
    return torch.stack([slope, gain, *(unit / reference for unit in squares)], 1)


fractal_noise_spectrum.register_fake(empty_spectrum)
fractal_noise_spectrum.register_autograd(backward, setup_context=setup_context)
