"""`torch.fft.irfftn` of a half spectrum that is not needed afterwards, on the CPU in cached blocks.

Fresh memory costs a page fault every 4 KiB, and for arrays beyond the allocator's 32 MiB limit each
of torch's results is fresh: at 4096 x 4096 that is a third of the time. Blocks below the limit are
recycled, and the spectrum is transformed in place.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Bytes of a spectrum beyond which a transform as a whole would get fresh memory.
_LARGE = 32 * 2**20
# Bytes of a block: in cache, and far from the limit.
_COLUMN_BLOCK, _ROW_BLOCK = 16 * 2**20, 8 * 2**20
# Narrower blocks of columns would waste most of each cache line.
_LEAST_COLUMNS = 16


def is_worthwhile(half: Tensor, size: Sequence[int]) -> bool:
    """Whether `transform_columns` and rows by `row_blocks` beat torch's `irfftn`."""
    column = math.prod(size[:-1]) * half.element_size()
    return (
        half.device.type == "cpu"
        and len(size) > 1
        and half.numel() * half.element_size() > _LARGE
        and column * _LEAST_COLUMNS <= _COLUMN_BLOCK
    )


def transform_columns(half: Tensor) -> None:
    """The inverse transform of `[*leading, columns]` along all axes but the last, in place."""
    axes = tuple(range(half.dim() - 1))
    bytes_of_column = half.numel() // half.shape[-1] * half.element_size()
    width = max(_LEAST_COLUMNS, _COLUMN_BLOCK // bytes_of_column)
    for first in range(0, half.shape[-1], width):
        block = half[..., first : first + width]
        block.copy_(torch.fft.ifftn(block, dim=axes, norm="forward"))


def row_blocks(half: Tensor) -> list[Tensor]:
    """`[..., columns]` as matrices of as many rows as are transformed at once."""
    rows = half.reshape(-1, half.shape[-1])
    count = max(1, _ROW_BLOCK // (half.shape[-1] * half.element_size()))
    return [rows[first : first + count] for first in range(0, len(rows), count)]


def irfftn(half: Tensor, size: Sequence[int], out: Tensor | None = None) -> Tensor:
    """The unscaled field `[*size]` of `[*half]`, whose contents are lost."""
    if not is_worthwhile(half, size):
        whole: Tensor = torch.fft.irfftn(half, s=size, norm="forward", out=out)
        return whole
    field: Tensor = (
        torch.ops.fractalkern.empty_in_large_pages(torch.view_as_real(half), size)
        if out is None
        else out
    )
    transform_columns(half)
    to = field.view(-1, size[-1])
    for block in row_blocks(half):
        to[: len(block)] = torch.fft.irfft(block, n=size[-1], norm="forward")
        to = to[len(block) :]
    return field
