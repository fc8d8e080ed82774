"""`fractal_noise`: N-dimensional Gaussian fields with power ~ |k|^-beta."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fractalkern import _native, backends
from fractalkern.errors import InputError, InputTypeError
from fractalkern.memory import require_memory
from fractalkern.ops import _inverse_fft
from fractalkern.ops._inputs import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    as_number,
    device_of,
    is_transformed,
    require_choice,
    require_shape,
    seed_of,
    values_beneath,
    values_readable,
)
from fractalkern.reference import fractal_noise as reference

__all__ = ["fractal_noise"]

OP = "fractal_noise"
MAX_AXES = 5
SPECTRA = ("gaussian", "phase", "genesis")
NORMALIZATIONS = ("sample", "ensemble", "none")
# Of larger ones products overflow in float32; far below, a single |k| is left of the field.
_LARGEST_BETA = 1e30
# Squares of frequencies fit into float64.
_LEAST_SPACING, _LARGEST_SPACING = 1e-140, 1e140

assert _native  # importing it registers torch.ops.fractalkern.fractal_noise_spectrum


def fractal_noise(
    size: int | Sequence[int],
    beta: Any,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    spectrum: str = "gaussian",
    normalize: str | None = "sample",
    k_min: float | None = None,
    k_max: float | None = None,
    spacing: float | Sequence[float] | None = None,
    batch: int | Sequence[int] = (),
    common_noise: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Random fields in 1 to 5 dimensions whose power is :math:`|k|^{-\beta}`.

    A field is a sum of the modes of its grid, each with an amplitude and a random coefficient,

    .. math:: x(r) = c \sum_{k \neq 0} |k|^{-\beta/2}\, z_k\, e^{2 \pi i k \cdot r}, \quad
        z_{-k} = \bar z_k,

    so it is periodic and of mean 0, for every beta: white (0), pink (1), red (2), blue (-1).
    |k| is in cycles per unit of `spacing`, as in `numpy.fft.fftfreq(N, spacing)`.

    Args:
        size: lengths of 1 to 5 axes, of any parity, from 1 on.
        beta: the order of the spectrum, any finite number, or a tensor of shape `[*batch]` of them.
        seed: from 0 to 2^64 - 1. Mode n (signed integer wave numbers) of item b draws from one
            Philox4x32-10 block with the counter n under a key of (seed, b), see
            `fractalkern.reference.fractal_noise`. So a seed means the same random numbers for every
            beta and device, and a grid of twice the length keeps those of all modes with
            |n_i| < N_i/2.
        generator: a torch generator to draw the seed from. With neither, torch's default one.
        spectrum: "gaussian": z complex normal, the Gaussian process. "phase": z of modulus 1 and
            uniform phase. "genesis": z = cos(theta) exp(i phi), both uniform, and cos(phi) on modes
            that are their own mirror image: the law of the real part of the inverse FFT of
            amplitudes with independent phases at k and -k.
        normalize: "sample": variance 1 (biased) over each field. "ensemble": expected variance 1.
            None: c = 1.
        k_min: modes with a smaller |k| are 0.
        k_max: modes with a larger |k| are 0.
        spacing: distance of grid points, 1e-140 to 1e140, one for all axes or one an axis; None: 1.
        batch: leading shape of independent fields.
        common_noise: all fields of the batch draw as the first does.
        dtype: float64, float32, or bfloat16 and float16 (computed in float32); None: that of
            `out`, else torch's default.
        device: where the field is drawn and stays; None: that of `out`, else the CPU.
        out: `[*batch, *size]`, written and returned.
        backend: "native", "reference" or "triton"; None: that of `use_backend`, else native.

    Returns:
        `[*batch, *size]`. Differentiable in `beta`, backward and forward. `torch.vmap` over beta
        gives what calls one by one give, so all slices draw under the same seed.

    float32 and float64 use the same uniform numbers, rounded. The coefficients are bit-equal for
    any number of threads and instruction set, and on a CUDA device from call to call; those of the
    two agree to rounding, about 1e-6 in float32. The inverse transform is torch's. The time is
    about that of `torch.fft.irfftn`, and so is the memory: the scale is found from the power of the
    modes before it, so no pass touches the field. A CUDA graph can capture the call: then it fails
    to notice a beta that is not finite, amplitudes that overflow and an empty band.

    Raises:
        InputError: a size, choice, range or shape is wrong; no mode is left to normalize; more
            memory needed than there is.
        InputTypeError: a type or dtype is wrong.
        BackendError: there is no such device, or the backend does not run on it.

    Source: J. Timmer and M. König, "On generating power law noise", Astronomy and Astrophysics 300,
    707 (1995), in N dimensions.

    >>> import fractalkern as fk
    >>> field = fk.fractal_noise((64, 64), beta=1.5, seed=0)
    >>> round(float(field.var(correction=0)), 5), abs(float(field.mean())) < 1e-6
    (1.0, True)
    """
    sizes = _lengths("size", size, least=1)
    batches = _lengths("batch", batch, least=0)
    if not 1 <= len(sizes) <= MAX_AXES:
        raise InputError(f"{OP}: size must have 1 to {MAX_AXES} axes, got {len(sizes)}")
    step = [1 / (n * d) for n, d in zip(sizes, _spacings(spacing, len(sizes)), strict=True)]
    low, high = _band(k_min, k_max)
    require_choice(OP, "spectrum", spectrum, SPECTRA)
    rule = "none" if normalize is None else normalize
    if normalize == "none" or rule not in NORMALIZATIONS:
        raise InputError(
            f"{OP}: normalize must be one of sample, ensemble or None, got {normalize!r}"
        )
    dtype, device = _placement(dtype, device, out, [*batches, *sizes])
    name = backends.resolve(OP, backend, device)
    drawn_on = torch.device("cpu") if name == "reference" else device
    betas = _betas(beta, batches, drawn_on)
    if out is not None and betas.requires_grad and torch.is_grad_enabled():
        raise InputError(f"{OP}: out must be None where beta requires a gradient")
    if out is not None and is_transformed() and values_beneath(betas) is not betas:
        raise InputError(f"{OP}: out must be None where torch.func transforms beta")
    if not torch.compiler.is_compiling():  # which cannot trace a system call
        width = 8 if dtype == torch.float64 else 4
        require_memory(f"{OP}: the field", 3 * math.prod([*batches, *sizes]) * width, drawn_on)
    number = seed_of(OP, seed, generator)
    if normalize is not None and max(sizes) == 1:
        raise InputError(
            f"{OP}: size must have an axis longer than 1 to normalize the field, got {sizes}"
        )

    arguments = (betas, sizes, step, number, common_noise, low, high, spectrum, rule)
    in_place = None
    if name == "reference":
        field = reference.fractal_noise(*arguments).to(device)
    else:
        signed = number - 2**64 if number >= 2**63 else number
        native = (*arguments[:3], signed, *arguments[4:], dtype == torch.float64)
        ops = torch.ops.fractalkern
        draw: Any = ops.fractal_noise_spectrum
        if name == "triton":
            draw = ops.fractal_noise_spectrum_triton
        if is_transformed():
            draw = partial(_Spectrum.apply, draw)
        half = torch.view_as_complex(draw(*native))
        if out is not None and out.dtype in (torch.float32, torch.float64) and out.is_contiguous():
            in_place = out.view(len(betas), *sizes)
        axes = tuple(range(1, len(sizes) + 1))
        field = _inverse(half, sizes, axes, in_place)
    if values_readable(field):
        if rule == "none":
            _require_fit(field, dtype)
        elif k_min is not None or k_max is not None:
            _require_power(field, betas, sizes, step, low, high)
    if in_place is not None:
        return out  # type: ignore[return-value]
    field = field.to(dtype).reshape(*batches, *sizes)
    return field if out is None else out.copy_(field)


def half_spectrum(
    size: list[int],
    beta: Any,
    seed: int,
    *,
    spectrum: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """`[*half]` complex: the modes of one field of sample variance 1, for `irfftn` "forward"."""
    signed = seed - 2**64 if seed >= 2**63 else seed
    step = [1 / n for n in size]
    options = (spectrum, "sample", dtype == torch.float64)
    half = torch.ops.fractalkern.fractal_noise_spectrum(
        _betas(beta, [], device), size, step, signed, False, 0.0, math.inf, *options
    )
    return torch.view_as_complex(half[0])


def _inverse(half: Tensor, sizes: list[int], axes: tuple[int, ...], out: Tensor | None) -> Tensor:
    if half.numel() == 0 or (is_transformed() and values_beneath(half).numel() == 0):
        return half.real.new_empty([half.shape[0], *sizes])
    plain = not (half.requires_grad or torch.compiler.is_compiling() or is_transformed())
    if half.shape[0] == 1 and plain:
        return _inverse_fft.irfftn(half[0], sizes, None if out is None else out[0])[None]
    field: Tensor = torch.fft.irfftn(half, s=sizes, dim=axes, norm="forward", out=out)
    return field


def _require_fit(field: Tensor, dtype: torch.dtype) -> None:
    """Raises unless the amplitudes of fields `[B, *size]` fit `dtype`."""
    values = values_beneath(field.detach())
    if values.numel() == 0:
        return
    largest = float(values.abs().max())
    if not largest <= torch.finfo(dtype).max:
        largest = math.inf if math.isnan(largest) else largest  # sums of infinities are NaN
        raise InputError(
            f"{OP}: beta must give amplitudes that fit {dtype}, got values up to {largest:g}"
        )


def _require_power(
    field: Tensor, betas: Tensor, size: list[int], step: list[float], low: float, high: float
) -> None:
    """Raises if a field of `[B, *size]` was left without a mode, which normalizes to zeros."""
    if field.numel() == 0:
        return
    absent = field.detach().flatten(1).amax(1) == 0  # the mean is 0
    if not values_beneath(absent).any():
        return
    if not _holds_modes(size, step, low, high):
        raise InputError(
            f"{OP}: k_min and k_max must leave a mode of the grid to normalize the field, got none"
        )
    worst = values_beneath(torch.where(absent, betas.detach(), 0.0)).flatten()
    raise InputError(
        f"{OP}: beta must leave a mode of the grid between k_min and k_max an amplitude above 0, "
        f"got {float(worst[worst.abs().argmax()]):g}: beside that of the band's limit they all "
        f"round to 0"
    )


def _holds_modes(size: list[int], step: list[float], low: float, high: float) -> bool:
    """Whether a mode of the grid lies in the band; row by row, as memory may be full of fields."""
    if len(size) == 1:
        size, step = [1, *size], [1.0, *step]
    across = reference.square_frequency(size[1:], step[1:])
    return any(
        bool(reference.multiplicity(size[1:], across + (n * step[0]) ** 2, low, high).any())
        for n in range(size[0] // 2 + 1)
    )


def _lengths(name: str, value: int | Sequence[int], least: int) -> list[int]:
    values = [value] if isinstance(value, int) else value
    try:
        lengths = list(values)
    except TypeError:
        raise InputTypeError(f"{OP}: {name} must be integers, got {type(value).__name__}") from None
    for length in lengths:
        if not isinstance(length, int) or isinstance(length, bool):
            raise InputTypeError(f"{OP}: {name} must be integers, got {length!r}")
        if not least <= length < 2**31:
            raise InputError(f"{OP}: {name} must be from {least} to 2^31 - 1, got {length}")
    return lengths


def _spacings(spacing: float | Sequence[float] | None, axes: int) -> list[float]:
    if spacing is None:
        return [1.0] * axes
    several = isinstance(spacing, Iterable) and getattr(spacing, "ndim", 1) > 0
    each: Any = spacing if several else [spacing] * axes
    values = [as_number(OP, "spacing", value) for value in each]
    if len(values) != axes:
        raise InputError(
            f"{OP}: spacing must be one number or one for each of {axes} axes, got {len(values)}"
        )
    for value in values:
        if not 0 < value < math.inf:
            raise InputError(f"{OP}: spacing must be positive and finite, got {value}")
        if not _LEAST_SPACING <= value <= _LARGEST_SPACING:
            raise InputError(
                f"{OP}: spacing must be from {_LEAST_SPACING} to {_LARGEST_SPACING}, got {value}"
            )
    return values


def _band(k_min: float | None, k_max: float | None) -> tuple[float, float]:
    low = 0.0 if k_min is None else as_number(OP, "k_min", k_min)
    high = math.inf if k_max is None else as_number(OP, "k_max", k_max)
    for name, value in (("k_min", low), ("k_max", high)):
        if not value >= 0:
            raise InputError(f"{OP}: {name} must be at least 0, got {value}")
    if low > high or low == math.inf:
        raise InputError(f"{OP}: k_min must be finite and at most k_max, got {low} and {high}")
    return low, high


def _betas(beta: Any, batch: list[int], device: torch.device) -> Tensor:
    """One float64 number an item, `[B]`, on `device`."""
    items = math.prod(batch)
    if isinstance(beta, float | int) and not isinstance(beta, bool):
        if not abs(beta) < math.inf:
            raise InputError(f"{OP}: beta must be finite, got {beta}")
        number = float(max(-_LARGEST_BETA, min(beta, _LARGEST_BETA)))
        return torch.full((items,), number, dtype=torch.float64, device=device)
    try:
        betas = beta if isinstance(beta, Tensor) else torch.as_tensor(beta, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{OP}: beta must be a number or a tensor of them, got {type(beta).__name__} ({error})"
        ) from None
    if betas.dtype not in (*FLOAT_DTYPES, *INTEGER_DTYPES) or beta is True or beta is False:
        got = betas.dtype if isinstance(beta, Tensor) else type(beta).__name__
        raise InputTypeError(f"{OP}: beta must be real numbers, got {got}")
    if betas.layout != torch.strided or betas.is_meta:
        raise InputTypeError(
            f"{OP}: beta must be a dense tensor with values, got {betas.layout} on {betas.device}"
        )
    if betas.dim() > 0:
        require_shape(OP, "beta", betas, tuple(batch), "[*batch]")
    if values_readable(betas):
        values = values_beneath(betas)
        bad = values[~values.isfinite()]
        if bad.numel():
            raise InputError(f"{OP}: beta must be finite, got {float(bad[0])}")
    betas = betas.to(device, torch.float64).clamp(-_LARGEST_BETA, _LARGEST_BETA)
    return betas.expand(items) if betas.dim() == 0 else betas.reshape(items)


def _placement(
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    out: Tensor | None,
    shape: list[int],
) -> tuple[torch.dtype, torch.device]:
    if out is not None and not isinstance(out, Tensor):
        raise InputTypeError(f"{OP}: out must be a torch.Tensor, got {type(out).__name__}")
    if dtype is None:
        dtype = torch.get_default_dtype() if out is None else out.dtype
    if dtype not in FLOAT_DTYPES:
        names = ", ".join(str(name).removeprefix("torch.") for name in FLOAT_DTYPES)
        raise InputTypeError(f"{OP}: dtype must be one of {names}, got {dtype}")
    chosen = device if device is not None else out.device if out is not None else "cpu"
    # Looked up in eager mode alone: torch.compile cannot trace that.
    place = torch.device(chosen) if torch.compiler.is_compiling() else device_of(OP, chosen)
    if out is not None:
        require_shape(OP, "out", out, tuple(shape), "[*batch, *size]")
        if out.dtype != dtype:
            raise InputTypeError(f"{OP}: out must have the dtype {dtype}, got {out.dtype}")
        if place.index is None and place.type == out.device.type:
            place = out.device
        if out.device != place:
            raise InputError(f"{OP}: out must be on the device {place}, got {out.device}")
        if out.requires_grad and torch.is_grad_enabled():
            raise InputError(f"{OP}: out must not require a gradient")
    return dtype, place


@torch.library.register_fake("fractalkern::fractal_noise_spectrum")
def empty_spectrum(
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
    """The op's result, uninitialised."""
    dtype = torch.float64 if float64 else torch.float32
    return beta.new_empty([beta.shape[0], *size[:-1], size[-1] // 2 + 1, 2], dtype=dtype)


@torch.library.register_fake("fractalkern::empty_in_large_pages")
def _fake_empty(like: Tensor, size: list[int]) -> Tensor:
    return like.new_empty(size)


@torch.library.register_fake("fractalkern::copy_with_moments")
def _fake_moments(field: Tensor, out: Tensor) -> Tensor:
    return field.new_empty([2], dtype=torch.float64)


@torch.library.register_fake("fractalkern::philox_words")
def _fake_words(counter: Tensor, key: Tensor) -> Tensor:
    return torch.empty_like(counter)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """What `backward` needs."""
    beta, ctx.size, ctx.step, _, _, ctx.k_min, ctx.k_max, _, ctx.normalize, _ = inputs
    ctx.save_for_backward(beta, output)


def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of beta."""
    slope = _slope(ctx)
    modes, axes = ctx.saved_tensors[1], tuple(range(1, slope.dim()))
    return ((gradient * modes).sum(-1).double() * slope).sum(axes), *[None] * 9


def _slope(ctx: Any) -> Tensor:
    """d modes / d beta = -(ln|k| - m)/2 modes, m the mean of ln|k| weighted by the fixed power."""
    beta, modes = ctx.saved_tensors
    k2 = reference.square_frequency(ctx.size, ctx.step).to(modes.device)
    weight = reference.multiplicity(ctx.size, k2, ctx.k_min, ctx.k_max)
    log_k = 0.5 * torch.log(torch.where(weight > 0, k2, 1.0))
    axes = tuple(range(1, k2.dim() + 1))
    mean = torch.zeros_like(beta)
    if ctx.normalize == "sample":
        power = weight * modes.double().square().sum(-1)
        mean = (power * log_k).sum(axes) / power.sum(axes)
    elif ctx.normalize == "ensemble":
        logits = -beta.view(-1, *[1] * k2.dim()) * log_k + weight.log()
        mean = (torch.softmax(logits.flatten(1), 1) * log_k.flatten()).sum(1)
    return -0.5 * (log_k - mean.view(-1, *[1] * k2.dim()))


torch.library.register_autograd(
    "fractalkern::fractal_noise_spectrum", backward, setup_context=setup_context
)


class _Spectrum(torch.autograd.Function):
    """The op under torch.func and forward mode, where its registered derivative is not seen."""

    @staticmethod
    def forward(draw: Any, *inputs: Any) -> Any:  # type: ignore[override]
        """The op's result."""
        return draw(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps what the derivatives need."""
        setup_context(ctx, inputs[1:], output)
        ctx.save_for_forward(inputs[1], output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], draw: Any, *inputs: Any) -> Any:
        """The op for each slice of beta: items draw by their numbers in their own slice."""
        beta, size, step, seed, common_noise, *law = inputs
        apply: Any = _Spectrum.apply
        betas = beta.movedim(in_dims[1], 0)  # [V, B]
        values = betas.numel() * math.prod(size)
        require_memory(f"{OP}: the fields", 3 * values * (8 if law[-1] else 4), beta.device)
        if common_noise or betas.shape[1] == 1 or len(betas) == 0:  # all draw as item 0
            modes = apply(draw, betas.flatten(), size, step, seed, True, *law)
            return modes.unflatten(0, betas.shape), 0
        rows = [apply(draw, row, *inputs[1:]) for row in betas]
        return torch.stack(rows), 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """The gradient of beta."""
        return None, *backward(ctx, gradient)

    @staticmethod
    def jvp(ctx: Any, _: Any, tangent: Tensor, *__: Any) -> Tensor:  # type: ignore[override]
        """The tangent of the modes."""
        slope, modes = _slope(ctx), ctx.saved_tensors[1]
        moved = slope * tangent.view(-1, *[1] * (slope.dim() - 1))
        result: Tensor = (moved[..., None] * modes).to(modes.dtype)
        return result
