"""The box-counting dimension as it is usually fitted: a line through log count on log size."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractalkern.errors import DegenerateBoundaryError, InputError, InputTypeError
from fractalkern.line_fits import MIN_POINTS, DimensionFit
from fractalkern.ops._inputs import as_tensor
from fractalkern.ops.box_count import BoxCounts


@dataclass(frozen=True, eq=False)
class BoxDimension(DimensionFit):
    """A least-squares line through log count against log size, one a mask; see `DimensionFit`.

    Attributes:
        fit_range: least and largest size that was asked for.
        sizes: the sizes that entered the fit, ascending, float64 [S].
        counts: their counts, float64 [*batch, S].
    """

    fit_range: tuple[float, float]
    sizes: Tensor
    counts: Tensor


def box_dimension(
    counts: BoxCounts | tuple[Any, Any],
    fit: tuple[float, float] | None = None,
) -> BoxDimension:
    """Box-counting dimension: D in n(s) ~ s^-D, by ordinary least squares of log n on log s.

    Args:
        counts: what `box_count` returns, or a pair of sizes [S] and counts [*batch, S].
        fit: least and largest size to use, both included; by default (1, N / 4), N the smallest
            side of the array that was counted. A pair does not tell N: all its sizes are used.

    Returns:
        BoxDimension in float64 on the device of the counts.

    Raises:
        InputTypeError: `counts` is neither.
        DegenerateBoundaryError: a count of zero at a size of the fit, which has no logarithm.
        InputError: fewer than 3 sizes in the fit, sizes that repeat or are not positive, shapes
            that do not match, a count that is negative or not finite.

    >>> import fractalkern as fk, torch
    >>> square = torch.ones(64, 64, dtype=torch.bool)
    >>> round(float(fk.box_dimension(fk.box_count(square))), 6)
    2.0
    """
    sizes, numbers, default_fit = _sizes_and_counts(counts)
    low, high = default_fit if fit is None else _checked_fit(fit)
    chosen = (sizes >= low) & (sizes <= high)
    sizes, numbers = sizes[chosen], numbers[..., chosen]
    if len(sizes) < MIN_POINTS:
        range_ = "" if high == math.inf else f" in the range ({low:g}, {high:g})"
        raise InputError(
            f"box_dimension: fit must hold at least {MIN_POINTS} box sizes, got {len(sizes)}"
            f"{range_}: count more sizes, widen the fit or use a larger array"
        )
    if (numbers == 0).any():
        empty = sizes[(numbers == 0).flatten(0, -2).any(0) if numbers.ndim > 1 else numbers == 0]
        raise DegenerateBoundaryError(
            "box_dimension: counts must be positive at every size of the fit, got 0 boxes at "
            f"size {empty[0]:g}"
        )
    return BoxDimension.through(
        sizes.log(), numbers.log(), fit_range=(low, high), sizes=sizes, counts=numbers
    )


def _sizes_and_counts(
    counts: BoxCounts | tuple[Any, Any],
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Sizes ascending and counts, float64, and the range that is fitted by default."""
    if isinstance(counts, BoxCounts):
        sizes, numbers = counts.sizes.double(), counts.counts.double()
        default_fit = (1.0, min(counts.spatial_shape) / 4)
    elif isinstance(counts, tuple) and len(counts) == 2:
        try:
            numbers = _float64(counts[1])
            sizes = _float64(counts[0]).to(numbers.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"box_dimension: counts must be a pair of arrays of numbers: {error}"
            ) from None
        if sizes.ndim != 1 or numbers.ndim == 0 or numbers.shape[-1] != len(sizes):
            raise InputError(
                "box_dimension: counts must be sizes [S] and counts [*batch, S], got shapes "
                f"{tuple(sizes.shape)} and {tuple(numbers.shape)}"
            )
        default_fit = (0.0, math.inf)
    else:
        raise InputTypeError(
            "box_dimension: counts must be BoxCounts or a tuple (sizes, counts), got "
            f"{type(counts).__name__}"
        )
    if not ((sizes > 0) & sizes.isfinite()).all():
        raise InputError(
            f"box_dimension: counts must have positive, finite sizes, got {sizes.tolist()}"
        )
    if len(set(sizes.tolist())) != len(sizes):
        raise InputError(f"box_dimension: counts must have each size once, got {sizes.tolist()}")
    if not ((numbers >= 0) & numbers.isfinite()).all():
        raise InputError("box_dimension: counts must be finite and not negative")
    order = sizes.argsort()
    return sizes[order], numbers[..., order], default_fit


def _float64(array: Any) -> Tensor:
    if isinstance(array, np.ndarray):
        array = as_tensor("box_dimension", "counts", array)
    return torch.as_tensor(array, dtype=torch.float64)


def _checked_fit(fit: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in fit)
    except (TypeError, ValueError):
        raise InputTypeError(
            f"box_dimension: fit must be two numbers (least, largest), got {fit!r}"
        ) from None
    if not low <= high:
        raise InputError(
            f"box_dimension: fit must be (least, largest) with least <= largest, got {fit!r}"
        )
    return low, high
