"""What the ops on grids of boxes share: their sizes, origins and spatial axes, checked."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import as_integer, is_capturing

MAX_SPATIAL_DIMS = 5


def powers_of_two(side: int) -> list[int]:
    """1, 2, 4, ... up to `side`."""
    sizes = [1]
    while 2 * sizes[-1] <= side:
        sizes.append(2 * sizes[-1])
    return sizes


def checked_spatial_dims(op: str, name: str, array: Tensor, spatial_dims: int | None) -> int:
    """How many trailing axes of `array` are spatial: by default all, at most 5."""
    dims = array.ndim
    if spatial_dims is not None:
        dims = as_integer(op, spatial_dims, "spatial_dims must be an integer")
    if array.ndim == 0:
        raise InputError(f"{op}: {name} must have at least one spatial axis, got a 0-d array")
    if spatial_dims is None and dims > MAX_SPATIAL_DIMS:
        raise InputError(
            f"{op}: {name} must have at most {MAX_SPATIAL_DIMS} spatial dimensions, got {dims}: "
            "pass spatial_dims if some of them are batch"
        )
    if not 1 <= dims <= min(MAX_SPATIAL_DIMS, array.ndim):
        raise InputError(
            f"{op}: spatial_dims must be from 1 to {min(MAX_SPATIAL_DIMS, array.ndim)} for a "
            f"{name} of {array.ndim} axes, got {dims}"
        )
    return dims


def smallest_side(op: str, name: str, array: Tensor, dims: int) -> int:
    """Of the last `dims` axes; raises if one of them is empty."""
    side = min(array.shape[array.ndim - dims :])
    if side == 0:
        raise InputError(
            f"{op}: {name} must have no spatial side of 0, got shape {tuple(array.shape)}"
        )
    return side


def checked_sizes(op: str, name: str, sizes: Any, side: int) -> list[int]:
    """`sizes` as a list of integers, each from 1 to the smallest `side` of the array `name`."""
    compiling = torch.compiler.is_compiling()
    if isinstance(sizes, Tensor) and not compiling and is_capturing(sizes.device):
        raise InputError(
            f"{op}: sizes must be a list or on the CPU while a CUDA graph is captured, which lets "
            f"no value be read, got a tensor on {sizes.device}"
        )
    items = sizes.tolist() if isinstance(sizes, Tensor | np.ndarray) else sizes
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        raise InputTypeError(f"{op}: sizes must be a sequence of integers, got {items!r}")
    checked = [as_integer(op, size, "sizes must hold integers") for size in items]
    if not checked:
        raise InputError(f"{op}: sizes must hold at least one box size, got none")
    owner = f"{name}'" if name.endswith("s") else f"{name}'s"
    for size in checked:
        if not 1 <= size <= side:
            raise InputError(
                f"{op}: sizes must be from 1 to the {owner} smallest spatial side ({side}), "
                f"got {size}"
            )
    return checked


def sizes_on(device: torch.device, sizes: list[int]) -> Tensor:
    """The box sizes as an int64 tensor, without a wait for the device.

    A copy to it must be from pinned memory; a CUDA graph would copy what lies there at its replay,
    but may fill.
    """
    if torch.compiler.is_compiling() or device.type != "cuda":
        return torch.tensor(sizes, dtype=torch.int64, device=device)
    if is_capturing(device):
        return torch.stack([torch.full((), s, dtype=torch.int64, device=device) for s in sizes])
    pinned = torch.tensor(sizes, dtype=torch.int64, pin_memory=True)
    return pinned.to(device, non_blocking=True)


def checked_offsets(op: str, offsets: Any) -> int:
    """Origins per axis as the kernels take them: 0 for "all"."""
    if isinstance(offsets, str):
        if offsets != "all":
            raise InputError(f"{op}: offsets must be a positive integer or 'all', got {offsets!r}")
        return 0
    count = as_integer(op, offsets, "offsets must be a positive integer or 'all'")
    if count < 1:
        raise InputError(f"{op}: offsets must be a positive integer or 'all', got {count}")
    return count
