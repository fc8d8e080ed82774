"""`dropout_mask`: public function, fake kernel and vmap rule."""

from typing import Any

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op that the fake kernel belongs to
from fractalkern.backends import no_native_kernel_reason
from fractalkern.reference import dropout_mask as reference


def dropout_mask(
    key: Tensor, count: int, call: int, step: int, stream: int, threshold: int, scale: float
) -> Tensor:
    """What dropout multiplies `count` elements by: a random word each, the same on every device.

    By a kernel on the CPU and on CUDA; on other devices, and where the CUDA kernels were not built,
    by the reference, which gives the same bits.

    Args:
        key: two words of a Philox key, int64 `[2]`; vmap batches it.
        count: elements.
        call: second word of the counter.
        step: third word.
        stream: fourth word.
        threshold: 0 to 2^32; an element stays if its word is at least this.
        scale: the value of those that stay; the others have 0.

    Returns:
        float32 `[count]`. Element e has word e mod 4 at the counter (e div 4, call, step, stream).

    >>> import torch
    >>> from fractalkern.ops.dropout_mask import dropout_mask
    >>> dropout_mask(torch.tensor([1, 0]), 4, 0, 0, 0, 2**31, 2.0).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    if no_native_kernel_reason("dropout_mask", key.device.type) is not None:
        return reference.dropout_mask(key, count, call, step, stream, threshold, scale)
    mask: Tensor = torch.ops.fractalkern.dropout_mask(
        key, count, call, step, stream, threshold, scale
    )
    return mask


@torch.library.register_fake("fractalkern::dropout_mask")
def _fake(
    keys: Tensor, count: int, call: int, step: int, stream: int, threshold: int, scale: float
) -> Tensor:
    return keys.new_empty((*keys.shape[:-1], count), dtype=torch.float32)


@torch.library.register_vmap("fractalkern::dropout_mask")
def _batched(info: Any, axes: tuple[Any, ...], keys: Tensor, *numbers: Any) -> tuple[Tensor, int]:
    return torch.ops.fractalkern.dropout_mask(keys.movedim(axes[0], 0), *numbers), 0
