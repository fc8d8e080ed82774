"""Initialisers like those of `torch.nn.init`: fractal weights, the published ones, and their nulls.

All work in place under `no_grad`, on the tensor's device, and return the tensor. Random numbers are
those of `fractal_noise`: the same for a seed on every device. `seed` alone touches no global state;
without it `generator`, or torch's default one, gives the seed.
"""

import functools
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from fractalkern import backends, random
from fractalkern.errors import InputError, InputTypeError
from fractalkern.memory import require_memory
from fractalkern.ops import _inverse_fft
from fractalkern.ops._inputs import FLOAT_DTYPES, as_number, require_choice, seed_of
from fractalkern.ops.fractal_noise import fractal_noise, half_spectrum
from fractalkern.spectra import SpectrumFit, spectrum_of

__all__ = [
    "SpectrumFit",
    "fractal_normal_",
    "genesis_",
    "shuffled_",
    "spectrum_of",
    "white_like_",
]

Mode = Literal["fan_in", "fan_out", "fan_avg"]

_MAX_AXES = 5
_PERMUTATION_STREAM = 6
_PARAMETER_STREAM = 7
# Lengths with a larger prime factor make a slow transform.
_LARGEST_PRIME = 100
# The published trainer's scales of what is not a matrix.
_PUBLISHED_BIAS, _PUBLISHED_GAIN = 0.005, 0.05


@torch.no_grad()
def fractal_normal_(
    tensor: Tensor,
    beta: float = 0.75,
    *,
    std: float | None = None,
    gain: float | None = None,
    mode: Mode = "fan_avg",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fills a tensor with an N-dimensional Gaussian field of power ~ |k|^-beta.

    The sample has mean 0 and, to rounding, exactly the standard deviation asked for: `std`, or that
    of Xavier, gain * sqrt(2 / (fan_in + fan_out)), for mode "fan_avg", or of Kaiming,
    gain / sqrt(fan), for "fan_in" and "fan_out". Fans are those of `torch.nn.init`.

    The field is that of `fractal_noise` with the tensor's shape, cut from a larger one where an
    axis is slow to transform: an axis whose length has a prime factor over 100 is drawn at the next
    length without a prime factor over 7. So it is periodic along every other axis.

    Args:
        tensor: [d_0, ...], 1 to 5 axes, floating point, at least 2 elements, any strides. On the
            meta device nothing happens.
        beta: order of the spectrum; 0 is white.
        std: standard deviation; not together with `gain`. Needed for a tensor of one axis.
        gain: factor of the fan's scale, by default 1.
        mode: "fan_in", "fan_out" or "fan_avg".
        seed: key of the random numbers, 0 to 2^64 - 1.
        generator: draws the seed if none is given.

    Returns:
        The tensor.

    Raises:
        InputTypeError: not a floating-point tensor.
        InputError: no or too many axes, fewer than 2 elements, `std` and `gain` together, a tensor
            of one axis without `std`, or another wrong value.

    >>> import torch
    >>> from fractalkern.init import fractal_normal_
    >>> weight = fractal_normal_(torch.empty(64, 192), seed=0)
    >>> round(float(weight.var(correction=0)) * (64 + 192) / 2, 5)
    1.0
    """
    op = "fractal_normal_"
    _check(op, tensor)
    scale = _scale(op, tensor, std, gain, mode)
    if tensor.is_meta:
        return tensor
    return _fill(tensor, beta, scale, seed_of(op, seed, generator))


@torch.no_grad()
def genesis_(
    model: nn.Module,
    beta: float = 0.75,
    *,
    protocol: Literal["fixed", "published"] = "fixed",
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Initialises a whole model as the Genesis trainer does, or only what can bear it.

    "published": every parameter, each as a field of the trainer's law (`spectrum="genesis"`) with
    mean 0 and unit variance, times sqrt(1 / shape[1]) with two or more axes, 0.005 for a bias
    and 0.05 for the rest, LayerNorm gains included. Parameters of one element become 0.

    "fixed": parameters of two or more axes, each with mean 0 and the standard deviation it had
    before; LayerNorm gains, biases and parameters of one element keep their values.

    Parameter i of `named_parameters()`, which names a shared one once, has a seed of its own.

    Args:
        model: initialised already if `protocol` is "fixed".
        beta: order of the spectrum, power ~ |k|^-beta; published 0.75.
        protocol: "fixed" or "published".
        seed: key of the random numbers, 0 to 2^64 - 1.
        generator: draws the seed if none is given.

    Returns:
        The model.

    Raises:
        InputError: a wrong value, or a parameter of more than 5 axes or, if its values count, one
            that is not finite. Then no parameter has changed.
        InputTypeError: no module, or a parameter that is not floating point.

    Source: GenesisBrain, genesis_brain_trainer3.py, 2025.

    >>> import torch
    >>> from fractalkern.init import genesis_
    >>> layer = torch.nn.Linear(32, 16)
    >>> before = layer.weight.std()
    >>> bool(torch.isclose(genesis_(layer, seed=0).weight.std(), before))
    True
    """
    op = "genesis_"
    require_choice(op, "protocol", protocol, ("fixed", "published"))
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"{op}: model must be a module, got {type(model).__name__}")
    published = protocol == "published"
    law = "genesis" if published else "gaussian"
    key = seed_of(op, seed, generator)
    scales = [_genesis_scale(p, name, published) for name, p in model.named_parameters()]
    for index, (parameter, scale) in enumerate(zip(model.parameters(), scales, strict=True)):
        if scale is None:
            continue
        if parameter.numel() < 2:
            parameter.zero_()
        else:
            own = random.derived_seed(key, index, stream=_PARAMETER_STREAM)
            _fill(parameter, beta, scale, own, law)
    return model


@torch.no_grad()
def shuffled_(
    tensor: Tensor, *, seed: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Permutes all values of a tensor at random: the same histogram, no correlations.

    The permutation sorts Philox numbers keyed by the seed: the same on every device.

    Args:
        tensor: any shape, dtype and strides.
        seed: key of the random numbers, 0 to 2^64 - 1.
        generator: draws the seed if none is given.

    Returns:
        The tensor.

    Raises:
        InputTypeError: no tensor.
        InputError: a wrong seed.

    >>> import torch
    >>> from fractalkern.init import shuffled_
    >>> sorted(shuffled_(torch.arange(5), seed=1).tolist())
    [0, 1, 2, 3, 4]
    """
    _require_tensor("shuffled_", tensor)
    if tensor.is_meta:
        return tensor
    key = seed_of("shuffled_", seed, generator)
    order = random.uniform((tensor.numel(),), seed=key, stream=_PERMUTATION_STREAM).argsort()
    values = tensor.reshape(-1)[order.to(tensor.device)]
    return tensor.copy_(values.reshape(tensor.shape))


@torch.no_grad()
def white_like_(
    tensor: Tensor, *, seed: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Replaces a tensor by white Gaussian noise of mean 0 and exactly its standard deviation.

    Args:
        tensor: 1 to 5 axes, floating point, at least 2 elements.
        seed: key of the random numbers, 0 to 2^64 - 1.
        generator: draws the seed if none is given.

    Returns:
        The tensor.

    Raises:
        InputTypeError, InputError: as `fractal_normal_`.

    >>> import torch
    >>> from fractalkern.init import white_like_
    >>> white_like_(torch.arange(4.0), seed=0).shape
    torch.Size([4])
    """
    op = "white_like_"
    _check(op, tensor)
    if tensor.is_meta:
        return tensor
    scale = _own_std(op, tensor)
    return _fill(tensor, 0.0, scale, seed_of(op, seed, generator))


@functools.cache
def drawn_length(length: int) -> int:
    """The length at which `fractal_normal_` draws an axis.

    >>> from fractalkern.init import drawn_length
    >>> drawn_length(768), drawn_length(50257)
    (768, 50400)
    """
    if _cofactor(length, range(2, _LARGEST_PRIME + 1)) == 1:
        return length
    while _cofactor(length, (2, 3, 5, 7)) != 1:
        length += 1
    return length


def _cofactor(number: int, divisors: Iterable[int]) -> int:
    """What is left of a number when it is divided by all of `divisors` as often as possible."""
    for divisor in divisors:
        while number % divisor == 0:
            number //= divisor
    return number


def _fill(
    tensor: Tensor, beta: float, scale: float, seed: int, spectrum: str = "gaussian"
) -> Tensor:
    """A field of mean 0 and standard deviation `scale`, to the rounding of the tensor's dtype."""
    size = [drawn_length(length) for length in tensor.shape]
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    direct = tensor.is_contiguous() and tensor.dtype == dtype
    place = tensor.device
    out = tensor.detach() if direct else torch.empty(tensor.shape, dtype=dtype, device=place)
    if backends.resolve("fractal_noise", None, place) == "native":
        require_memory("fractal_noise: the field", 3 * math.prod(size) * out.element_size(), place)
        half = half_spectrum(size, beta, seed, spectrum=spectrum, dtype=dtype, device=place)
        if size == list(tensor.shape):
            # Not with out=out, which would copy once more.
            torch.mul(_inverse_fft.irfftn(half, size), scale, out=out)
        elif place.type == "cpu":
            _crop(half, size, scale, out)
        else:
            _standardise(torch.fft.irfftn(half, s=size, norm="forward"), scale, out)
    else:
        field = fractal_noise(size, beta, seed=seed, spectrum=spectrum, device=place)
        _standardise(field, scale, out)
    return tensor if direct else tensor.copy_(out)


def _standardise(field: Tensor, scale: float, out: Tensor) -> None:
    """Writes the first elements along each axis of a field, standardised."""
    field = field[tuple(slice(length) for length in out.shape)]
    variance, mean = torch.var_mean(field, correction=0)
    out.copy_((field - mean) * (scale / variance.sqrt()))


def _crop(half: Tensor, size: list[int], scale: float, out: Tensor) -> None:
    """`_standardise` of the field of modes `half`, on the CPU.

    Only rows that are kept are transformed along the last axis, a few at a time: the field itself
    never leaves the cache. The modes are lost.
    """
    if len(size) > 1:
        _inverse_fft.transform_columns(half)
    to = out.view(-1, out.shape[-1])
    total = torch.zeros(2, dtype=torch.float64)
    for block in _inverse_fft.row_blocks(half[tuple(slice(n) for n in out.shape[:-1])]):
        field = torch.fft.irfft(block, n=size[-1], norm="forward")
        total += torch.ops.fractalkern.copy_with_moments(field, to[: len(block)])
        to = to[len(block) :]
    mean, square = (total / out.numel()).tolist()
    factor = scale / math.sqrt(square - mean * mean)
    torch.add(torch.tensor(-mean * factor, dtype=out.dtype), out, alpha=factor, out=out)


def _genesis_scale(parameter: Tensor, name: str, published: bool) -> float | None:
    """The standard deviation that a parameter is to have; None if it is left alone."""
    op = "genesis_"
    if parameter.is_meta or not (published or (parameter.ndim >= 2 and parameter.numel() > 1)):
        return None
    if parameter.numel() < 2:
        return 0.0
    _check(op, parameter, name)
    if not published:
        return _own_std(op, parameter, name)
    if parameter.ndim >= 2:
        return math.sqrt(1 / parameter.shape[1])
    return _PUBLISHED_BIAS if "bias" in name else _PUBLISHED_GAIN


def _own_std(op: str, tensor: Tensor, name: str = "tensor") -> float:
    std = float(tensor.double().std(correction=0))
    if not math.isfinite(std):
        raise InputError(f"{op}: {name} must be finite, but its standard deviation is {std}")
    return std


def _check(op: str, tensor: Tensor, name: str = "tensor") -> None:
    _require_tensor(op, tensor)
    if tensor.dtype not in FLOAT_DTYPES:
        raise InputTypeError(f"{op}: {name} must be floating point, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise InputTypeError(f"{op}: {name} must be dense, got {tensor.layout}")
    if not 1 <= tensor.ndim <= _MAX_AXES:
        raise InputError(f"{op}: {name} must have 1 to {_MAX_AXES} axes, got {tensor.ndim}")
    if tensor.numel() < 2:
        raise InputError(
            f"{op}: {name} must have at least 2 elements to have a variance, "
            f"got shape {list(tensor.shape)}"
        )


def _require_tensor(op: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise InputTypeError(f"{op}: tensor must be a torch.Tensor, got {type(tensor).__name__}")


def _scale(op: str, tensor: Tensor, std: float | None, gain: float | None, mode: str) -> float:
    require_choice(op, "mode", mode, ("fan_in", "fan_out", "fan_avg"))
    if std is not None and gain is not None:
        raise InputError(f"{op}: only one of std and gain may be given, got std={std}, gain={gain}")
    for name, value in (("std", std), ("gain", gain)):
        if value is not None and not 0 <= as_number(op, name, value) < math.inf:
            raise InputError(f"{op}: {name} must be finite and not negative, got {value}")
    if std is not None:
        return std
    if tensor.ndim < 2:
        raise InputError(
            f"{op}: tensor must have at least 2 axes for a fan, got shape {list(tensor.shape)}; "
            "pass std"
        )
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(tensor)
    gain = 1.0 if gain is None else gain
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return gain / math.sqrt(fan)
