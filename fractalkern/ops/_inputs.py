"""Checks that the public op functions share; each failure is one sentence."""

import operator
from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fractalkern.errors import BackendError, InputError, InputTypeError

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
UNSIGNED_DTYPES = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTEGER_DTYPES = (*UNSIGNED_DTYPES, torch.int8, torch.int16, torch.int32, torch.int64)


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """`value` as a tensor without a copy where possible; NumPy arrays and nested lists work."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise InputTypeError(f"{op}: {name} must be a dense tensor, got {value.layout}")
        return value
    if isinstance(value, np.ndarray) and not _is_shareable(value):
        value = value.astype(value.dtype.newbyteorder("="), order="C")
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{op}: {name} must be a tensor or an array, got {type(value).__name__} ({error})"
        ) from None


def as_real(op: str, name: str, value: Any) -> Tensor:
    """`value`, finite real numbers of any dtype but bool, as float64 without its graph."""
    if isinstance(value, list | tuple | float):
        with suppress(ValueError):  # of ragged lists: torch says what is wrong with them
            value = np.asarray(value)  # torch would make it float32
    numbers = as_tensor(op, name, value)
    if numbers.dtype not in (*FLOAT_DTYPES, *INTEGER_DTYPES):
        raise InputTypeError(f"{op}: {name} must be real numbers, got {numbers.dtype}")
    numbers = numbers.detach().double()
    if not numbers.isfinite().all():
        raise InputError(f"{op}: {name} must be finite")
    return numbers


def _is_shareable(array: np.ndarray[Any, Any]) -> bool:
    """Whether torch can use the memory: no step back, native byte order, not read-only."""
    return min(array.strides, default=0) >= 0 and array.dtype.isnative and array.flags.writeable


def is_capturing(device: torch.device) -> bool:
    """Whether the device's current stream records a CUDA graph: no value can be read then."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def values_readable(tensor: Tensor) -> bool:
    """Whether values can be checked now: neither traced by torch.compile nor captured."""
    return not torch.compiler.is_compiling() and not is_capturing(tensor.device)


def is_transformed() -> bool:
    """Inside torch.func or forward-mode differentiation, which pass by an op's registered gradient.

    Never while torch.compile traces.
    """
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def values_beneath(tensor: Tensor) -> Tensor:
    """What torch.func's transforms wrap: all values, under vmap with an axis more, anywhere."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def require_shape(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    """Raises unless `tensor` has exactly `shape`; `meaning` names the axes, as in "[D, n]"."""
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"{op}: {name} must have shape {meaning} = {list(shape)}, got {list(tensor.shape)}"
        )


def as_integer(op: str, value: Any, expected: str) -> int:
    """`value`, of Python, NumPy or a tensor but no bool, as an int; else says what was expected."""
    if isinstance(value, int):
        if not isinstance(value, bool):
            return value  # torch.compile traces no more of one that varies
    elif hasattr(value, "__index__"):
        try:
            return operator.index(value)
        except TypeError:  # a tensor of floats, or of several integers
            pass
    raise InputTypeError(f"{op}: {expected}, got {value!r}")


def as_number(op: str, name: str, value: Any) -> float:
    """`value`, of Python, NumPy or a tensor of one element but no bool, as a float."""
    if isinstance(value, Tensor):
        accepted = value.numel() == 1 and value.dtype in (*FLOAT_DTYPES, *INTEGER_DTYPES)
    else:
        accepted = isinstance(value, Real) and not isinstance(value, bool)
    if not accepted:
        raise InputTypeError(f"{op}: {name} must be a number, got {value!r}")
    return float(value)


def require_choice(op: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}")


def require_whole(op: str, name: str, value: Any, least: int) -> int:
    """`value` as an int; raises unless it is an integer of at least `least`."""
    expected = f"{name} must be an integer of at least {least}"
    number = as_integer(op, value, expected)
    if number < least:
        raise InputError(f"{op}: {expected}, got {number}")
    return number


def require_generator(op: str, generator: Any) -> None:
    """Raises unless `generator` is one of torch's."""
    if not isinstance(generator, torch.Generator):
        raise InputTypeError(f"{op}: generator must be a torch.Generator, got {generator!r}")


def absent_device_reason(device: torch.device) -> str | None:
    """Why torch cannot use `device` here, or None if it can."""
    if device.type != "cuda":
        return None
    if not torch.cuda.is_available():
        return (
            f"device must be cpu here, got {device}: torch {torch.__version__} finds no CUDA device"
        )
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        return f"device must be below cuda:{count} here, got {device}: torch finds {count}"
    return None


def device_of(op: str, device: torch.device | str) -> torch.device:
    """`device` as torch knows it.

    Raises:
        InputError: torch knows no such device.
        BackendError: there is none here.
    """
    try:
        place = torch.device(device)
    except (TypeError, RuntimeError):
        raise InputError(
            f"{op}: device must be a device that torch knows, such as cpu or cuda, got {device!r}"
        ) from None
    reason = absent_device_reason(place)
    if reason is not None:
        raise BackendError(f"{op}: {reason}")
    return place


def seed_of(op: str, seed: int | None, generator: torch.Generator | None) -> int:
    """The seed itself, or one drawn from the generator, or from torch's default one."""
    if generator is not None:
        require_generator(op, generator)
    if seed is None:  # on a device of its own: inside `with torch.device("meta")` too
        place = "cpu" if generator is None else generator.device
        drawn = torch.randint(2**63 - 1, (), generator=generator, device=place)
        if is_transformed() and values_beneath(drawn) is not drawn:
            raise InputError(f"{op}: seed must be given under vmap with randomness='different'")
        return int(drawn)
    if generator is not None:
        raise InputError(f"{op}: seed and generator must not both be given")
    seed = as_integer(op, seed, "seed must be an integer")
    if not 0 <= seed < 2**64:
        raise InputError(f"{op}: seed must be an integer from 0 to 2^64 - 1, got {seed}")
    return seed
