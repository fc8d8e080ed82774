"""From a field or a mask to its boundary cells: ours, and those of the published estimators."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    UNSIGNED_DTYPES,
    as_integer,
    as_tensor,
)

MASK_DTYPES = (torch.bool, *UNSIGNED_DTYPES)


def boundary(values_or_mask: Any, *, spatial_dims: int | None = None) -> Tensor:
    """Marks each 2 x 2 cell (2^N in N dimensions) that holds both signs, or both mask values.

    edge[i, j] = max(v) * min(v) < 0 over v = values[i : i + 2, j : j + 2]. A value of exactly 0
    has no sign: 0 beside 1 is no edge, which is what the formula says.

    Args:
        values_or_mask: [*batch, *spatial], tensor or NumPy array. Floats and signed integers count
            by their sign; bool and unsigned integers are masks (nonzero or not).
        spatial_dims: how many trailing axes are spatial; by default all.

    Returns:
        bool [*batch, *(side - 1)], on the same device. Exact, so equal on every device.

    Raises:
        InputTypeError: complex values, or no array.
        InputError: a value that is not finite, or a spatial side below 2.

    >>> import fractalkern as fk, torch
    >>> fk.boundary(torch.tensor([[1.0, 2.0, -1.0], [1.0, 3.0, 2.0]])).tolist()
    [[False, True]]
    """
    values = checked_values("boundary", values_or_mask)
    if values.ndim == 0:
        raise InputError(
            "boundary: values_or_mask must have at least one spatial axis, got a 0-d array"
        )
    dims = values.ndim
    if spatial_dims is not None:
        dims = as_integer("boundary", spatial_dims, "spatial_dims must be an integer")
    if not 1 <= dims <= values.ndim:
        raise InputError(f"boundary: spatial_dims must be from 1 to {values.ndim}, got {dims}")
    if min(values.shape[values.ndim - dims :]) < 2:
        raise InputError(
            "boundary: values_or_mask must have at least 2 cells along each spatial axis, "
            "got shape "
            f"{tuple(values.shape)}"
        )
    return sign_edges(values, dims)


def sign_edges(values: Tensor, spatial_dims: int) -> Tensor:
    """`boundary` of an argument that has been checked."""
    if values.dtype == torch.bool:
        return _mixed_cells(values, spatial_dims)
    high, low = both_sides(values)
    for axis in range(values.ndim - spatial_dims, values.ndim):
        high, low = _either_neighbour(high, axis), _either_neighbour(low, axis)
    return high & low


def _mixed_cells(mask: Tensor, spatial_dims: int) -> Tensor:
    """Cells whose corners are not all alike: with one corner for each, in few passes."""
    corner, mixed = mask, None
    for axis in range(mask.ndim - spatial_dims, mask.ndim):
        count = mask.shape[axis] - 1
        first, second = corner.narrow(axis, 0, count), corner.narrow(axis, 1, count)
        unlike = first ^ second
        if mixed is not None:
            unlike |= mixed.narrow(axis, 0, count)
            unlike |= mixed.narrow(axis, 1, count)
        corner, mixed = first, unlike
    assert mixed is not None
    return mixed


def checked_values(op: str, values_or_mask: Any) -> Tensor:
    """The argument as a tensor of real numbers or bool, finite."""
    values = as_tensor(op, "values_or_mask", values_or_mask)
    if values.dtype not in (torch.bool, *INTEGER_DTYPES, *FLOAT_DTYPES):
        raise InputTypeError(
            f"{op}: values_or_mask must be real numbers or bool, got {values.dtype}"
        )
    if values.is_floating_point() and not (finite := values.isfinite()).all():
        raise InputError(
            f"{op}: values_or_mask must be finite, got {int((~finite).sum())} NaN or infinite "
            f"values of {values.numel()}"
        )
    return values


def both_sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """Where a field is positive and where negative; for a mask, where it is set and where not."""
    if values.dtype in MASK_DTYPES:
        return values != 0, values == 0
    return values > 0, values < 0


def dilation_xor_erosion(mask: Tensor) -> Tensor:
    """Cells of bool [*spatial] that one dilation adds or one erosion takes away.

    Both use the cross of direct neighbours; the outside counts as 0, so that set cells at the
    frame are marked (SciPy's defaults).
    """
    return _dilation(mask) & ~_erosion(mask)


def steep_cells(values: Tensor, percentile: float) -> Tensor:
    """Cells of [*spatial] whose central-difference gradient, per cell, exceeds its percentile."""
    magnitude = torch.stack(torch.gradient(values.double())).square().sum(0).sqrt()
    # torch.quantile refuses more than 16 million values.
    threshold = float(np.percentile(magnitude.cpu().numpy(), percentile))
    return magnitude > threshold


def _either_neighbour(cells: Tensor, axis: int) -> Tensor:
    count = cells.shape[axis] - 1
    return cells.narrow(axis, 0, count) | cells.narrow(axis, 1, count)


def _dilation(cells: Tensor) -> Tensor:
    """Cells that are True or have a True direct neighbour."""
    grown = cells.clone()
    for axis in range(cells.ndim):
        count = cells.shape[axis] - 1
        grown.narrow(axis, 0, count).logical_or_(cells.narrow(axis, 1, count))
        grown.narrow(axis, 1, count).logical_or_(cells.narrow(axis, 0, count))
    return grown


def _erosion(cells: Tensor) -> Tensor:
    """Cells that are True with all direct neighbours; cells outside the array are False."""
    kept = ~_dilation(~cells)
    for axis in range(cells.ndim):
        kept.select(axis, 0).fill_(False)
        kept.select(axis, -1).fill_(False)
    return kept
