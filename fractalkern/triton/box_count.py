"""`box_count` in Triton: boxes of one size from those of a divisor of it, one axis after the other.

A cell or box is a byte, bit 0 set if it holds a cell of the set and bit 1 if it holds another one;
a byte of 0 is beyond the array. Boxes are the bitwise OR of their parts, so the axes can be merged
in turn, the last one last: until then neighbouring threads read neighbouring bytes. With powers of
two the mask is read twice and each level costs a fraction of the one before; a size that no earlier
one divides, or a further origin, costs a read of the mask.
"""

# A kernel has no types.
# mypy: disable-error-code="no-untyped-def"

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from fractalkern.ops.box_count import box_count_fake
from fractalkern.reference.box_count import axis_origins
from fractalkern.triton._launch import current_device_of

__all__ = ["box_count"]

BLOCK = 1024


@triton.jit
def _flags(cells, there, CELLS: tl.constexpr):
    """The bytes of boxes, or those of cells of a mask."""
    if CELLS:
        cells = tl.where(cells != 0, 1, 2)
    return tl.where(there, cells.to(tl.int32), 0)


@triton.jit
def _merge(
    cells,  # [outer, length, inner]
    boxes,  # [outer, count, inner], written
    total,  # outer * count * inner
    length,
    inner,
    count,
    factor,  # cells of a box
    origin,  # of the boxes, in cells before the first one
    CELLS: tl.constexpr,
    ROWS: tl.constexpr,  # boxes of a program
    COLUMNS: tl.constexpr,  # cells of each that it reads at once
):
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    box = index // inner % count
    # In units of `inner`; a product of two arguments could overflow 32 bits.
    row = index // inner // count * length
    first = box * factor - origin
    column = tl.arange(0, COLUMNS)
    found = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, factor, COLUMNS):
        part = start + column
        position = first[:, None] + part[None, :]
        there = (part < factor)[None, :] & (position >= 0) & (position < length)
        there = there & (index < total)[:, None]
        at = (row[:, None] + position) * inner + (index % inner)[:, None]
        found = found | _flags(tl.load(cells + at, mask=there, other=0), there, CELLS)
    merged = tl.max(found & 1, 1) | tl.max(found & 2, 1)
    tl.store(boxes + index, merged.to(tl.uint8), mask=index < total)


@triton.jit
def _count(
    boxes,  # [batch, each]
    counts,  # int64, one every `stride`, added to
    each,
    blocks,  # of BLOCK boxes, to `each`
    stride,
    CELLS: tl.constexpr,
    MIXED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    item = program // blocks
    index = program % blocks * BLOCK + tl.arange(0, BLOCK)
    there = index < each
    flags = _flags(tl.load(boxes + item * each + index, mask=there, other=0), there, CELLS)
    touched = (flags == 3) if MIXED else ((flags & 1) != 0)
    tl.atomic_add(counts + item * stride, tl.sum(touched.to(tl.int32)).to(tl.int64))


def _merged(flags: Tensor, axis: int, factor: int, origin: int, cells: bool) -> Tensor:
    """`[B, *boxes]` with `factor` neighbours along an axis made one."""
    shape = list(flags.shape)
    length, inner = shape[axis], math.prod(shape[axis + 1 :])
    shape[axis] = triton.cdiv(length + origin, factor)
    boxes = flags.new_empty(shape)
    columns = 1 if inner > 1 else min(triton.next_power_of_2(factor), BLOCK)
    rows = BLOCK // columns
    with current_device_of(flags):
        _merge[(triton.cdiv(boxes.numel(), rows),)](
            flags,
            boxes,
            boxes.numel(),
            length,
            inner,
            shape[axis],
            factor,
            origin,
            CELLS=cells,
            ROWS=rows,
            COLUMNS=columns,
        )
    return boxes


def _grids(
    flags: Tensor, factor: int, origins: list[int], cells: bool, before: tuple[int, ...] = ()
) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """All grids of boxes of `factor` parts, with their origins; the last axis fastest."""
    if len(before) == flags.dim() - 1:
        yield flags, before
        return
    for origin in origins:
        merged = _merged(flags, len(before) + 1, factor, origin, cells)
        yield from _grids(merged, factor, origins, False, (*before, origin))


def _whole(boxes: Tensor, size: int, origins: tuple[int, ...], shape: torch.Size) -> Tensor:
    """The boxes that lie inside an array of `shape` cells."""
    for axis, (origin, length) in enumerate(zip(origins, shape, strict=True), start=1):
        first, end = int(origin > 0), (length + origin) // size
        boxes = boxes.narrow(axis, first, max(end - first, 0))
    return boxes.contiguous()


@torch.library.custom_op("fractalkern::box_count_triton", mutates_args=())
def box_count(
    mask: Tensor, spatial_dims: int, sizes: list[int], offsets: int, mixed: bool, crop: bool
) -> Tensor:
    """As `box_count` of the compiled library."""
    counts: Tensor = box_count_fake(mask, spatial_dims, sizes, offsets, mixed, crop).zero_()
    shape = mask.shape[mask.dim() - spatial_dims :]
    cells = mask.contiguous().view(torch.uint8).reshape(counts.shape[0], *shape)
    if mask.numel() == 0:
        return counts
    levels = {1: cells}  # by size, for grids from the corner
    number = 0
    for size in sizes:
        origins = axis_origins(size, offsets)
        part = 1
        if origins == [0]:
            part = max(known for known in levels if size % known == 0)
        if part == size:
            grids = iter([(levels[size], (0,) * spatial_dims)])
        else:
            grids = _grids(levels[part], size // part, origins, part == 1)
        for boxes, origin in grids:
            if origins == [0]:
                levels[size] = boxes
            counted = _whole(boxes, size, origin, shape) if crop else boxes
            _add_up(counted, counts[:, number:], cells=size == 1, mixed=mixed)
            number += 1
    return counts


def _add_up(boxes: Tensor, counts: Tensor, *, cells: bool, mixed: bool) -> None:
    """Adds the counts of each mask to the first column of `counts`."""
    if boxes.numel() == 0:
        return
    each = boxes[0].numel()
    blocks = triton.cdiv(each, BLOCK)
    with current_device_of(boxes):
        _count[(len(boxes) * blocks,)](
            boxes, counts, each, blocks, counts.stride(0), CELLS=cells, MIXED=mixed, BLOCK=BLOCK
        )


box_count.register_fake(box_count_fake)
