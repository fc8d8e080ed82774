"""`box_count`: public function, validation and fake kernel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op that the fake kernel belongs to
from fractalkern.backends import resolve
from fractalkern.errors import InputTypeError
from fractalkern.memory import require_memory
from fractalkern.ops._boxes import (
    checked_offsets,
    checked_sizes,
    checked_spatial_dims,
    powers_of_two,
    sizes_on,
    smallest_side,
)
from fractalkern.ops._inputs import INTEGER_DTYPES, as_tensor, require_choice
from fractalkern.reference.box_count import box_count as reference_box_count

OP = "box_count"


@dataclass(frozen=True, eq=False)
class BoxCounts:
    """Box counts of one mask or of a batch of them; the tensors are on the mask's device.

    Attributes:
        sizes: box sides in cells, int64 [S].
        counts: the least count over the origins of each size, int64 [*batch, S].
        mean: the mean over the origins, float64 [*batch, S].
        spatial_shape: sides of the array that was counted, in cells.
        per_grid: the counts of every grid, sizes one after another, int64 [*batch, G].
        grids: number of grids of each size; they sum to G.
    """

    sizes: Tensor
    counts: Tensor
    mean: Tensor
    spatial_shape: tuple[int, ...]
    per_grid: Tensor = field(repr=False)
    grids: tuple[int, ...] = field(repr=False)

    @property
    def per_offset(self) -> list[Tensor]:
        """One int64 [*batch, grids] a size: views of `per_grid`, made on request.

        The grids of a size are the Cartesian product of its axes' origins, the last axis changing
        fastest.
        """
        return list(torch.split(self.per_grid, list(self.grids), -1))


def box_count(
    mask: Any,
    sizes: Any = None,
    *,
    spatial_dims: int | None = None,
    rule: Literal["any", "mixed"] = "any",
    offsets: int | Literal["all"] = 1,
    border: Literal["keep", "crop"] = "keep",
    backend: str | None = None,
) -> BoxCounts:
    """Counts the boxes of a grid that touch a set.

    n(s, o) = number of boxes of side s, in the grid that starts at -o, which hold a cell of the
    set. Boxes are squares, cubes and so on; `counts` is the minimum and `mean` the mean of n over
    the origins o of each size.

    Args:
        mask: [*batch, *spatial], bool or integer of any width and any strides, tensor or NumPy
            array; nonzero cells are in the set.
        sizes: box sides s in cells, each from 1 to the smallest spatial side; by default all
            powers of two up to that side.
        spatial_dims: how many trailing axes are spatial, 1 to 5; by default all. The others are
            batch: each mask of the batch is counted on its own.
        rule: "any" counts boxes with a cell of the set, "mixed" boxes that also hold a cell
            outside it (porespy's rule). Cells beyond the array are neither.
        offsets: origins per axis and size: origin j of size s is floor(j * s / offsets),
            duplicates dropped; "all" means 0 to s - 1. Every combination over the axes is a grid.
        border: "keep" counts partial boxes at either border, "crop" only boxes wholly inside.
        backend: "native", "reference" or "triton"; by default that of `use_backend`, else "native".

    Returns:
        BoxCounts. Counts are exact int64: equal for every backend, device and thread count.

    With one origin and powers of two the native cost is close to a single read of the mask; other
    sizes and origins cost more, at most one read per grid. The result takes 8 bytes per mask and
    grid, and size s has min(offsets, s)^spatial_dims grids.

    Raises:
        InputTypeError: an argument of a wrong type or dtype, such as a mask of floats.
        InputError: a wrong value, such as a size larger than the mask, or a result that would not
            fit in this machine's memory.

    Source: L. S. Liebovitch and T. Toth, A fast algorithm to determine fractal dimensions by box
    counting, Physics Letters A 141 (1989) 386.

    >>> import fractalkern as fk, torch
    >>> diagonal = torch.eye(8, dtype=torch.bool)
    >>> fk.box_count(diagonal, offsets=2).counts.tolist()
    [8, 4, 2, 1]
    """
    cells = as_tensor(OP, "mask", mask)
    if cells.dtype != torch.bool and cells.dtype not in INTEGER_DTYPES:
        raise InputTypeError(f"{OP}: mask must be bool or integer, got {cells.dtype}")
    dims = checked_spatial_dims(OP, "mask", cells, spatial_dims)
    batch, spatial = cells.shape[: cells.ndim - dims], cells.shape[cells.ndim - dims :]
    side = smallest_side(OP, "mask", cells, dims)
    box_sizes = powers_of_two(side) if sizes is None else checked_sizes(OP, "mask", sizes, side)
    require_choice(OP, "rule", rule, ("any", "mixed"))
    require_choice(OP, "border", border, ("keep", "crop"))
    origins = min(checked_offsets(OP, offsets), max(box_sizes))  # more origins are all duplicates

    grids = _grids_per_size(box_sizes, origins, dims)
    if not torch.compiler.is_compiling():  # which cannot trace a system call
        what = f"{OP}: offsets={offsets!r}, {sum(grids)} grids a mask,"
        require_memory(what, 8 * math.prod(batch) * sum(grids), cells.device)

    arguments = (dims, box_sizes, origins, rule == "mixed", border == "crop")
    name = resolve(OP, backend, cells.device)
    if name == "reference":
        flat = reference_box_count(cells, *arguments)
    else:
        ops = torch.ops.fractalkern
        count = ops.box_count_triton if name == "triton" else ops.box_count
        flat = count(_contiguous_bytes(cells), *arguments)
    per_grid = flat.reshape(*batch, sum(grids))

    if origins == 1:  # one grid a size
        least, mean = per_grid, per_grid.double()
    else:
        parts = torch.split(per_grid, grids, -1)
        least = torch.stack([part.amin(-1) for part in parts], -1)
        mean = torch.stack([part.double().mean(-1) for part in parts], -1)
    return BoxCounts(
        sizes=sizes_on(cells.device, box_sizes),
        counts=least,
        mean=mean,
        spatial_shape=tuple(spatial),
        per_grid=per_grid,
        grids=tuple(grids),
    )


@torch.library.register_fake("fractalkern::box_count")
def box_count_fake(
    mask: Tensor, spatial_dims: int, sizes: Sequence[int], offsets: int, mixed: bool, crop: bool
) -> Tensor:
    """The op's result, uninitialised."""
    batch = math.prod(mask.shape[: mask.ndim - spatial_dims])
    grids = sum(_grids_per_size(sizes, offsets, spatial_dims))
    return mask.new_empty((batch, grids), dtype=torch.int64)


def _contiguous_bytes(mask: Tensor) -> Tensor:
    """What the kernels read: any nonzero byte is in the set. A bool mask in order is not copied."""
    wide = mask.element_size() != 1
    copies = wide + (not mask.is_contiguous())
    if copies and not torch.compiler.is_compiling():
        require_memory(f"{OP}: mask, as bytes in order,", copies * mask.numel(), mask.device)
    return (mask != 0 if wide else mask).contiguous()


def _grids_per_size(sizes: Sequence[int], offsets: int, spatial_dims: int) -> list[int]:
    return [(min(offsets, size) if offsets else size) ** spatial_dims for size in sizes]
