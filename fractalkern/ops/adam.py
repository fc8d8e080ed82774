"""`adam_step`: public function and fake kernel."""

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op that the fake kernel belongs to
from fractalkern.backends import no_native_kernel_reason
from fractalkern.reference import adam as reference


def adam_step(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, numbers: Tensor
) -> None:
    """A step of Adam of R runs, in place; `fractalkern.reference.adam` says which.

    All `[R, P]`, contiguous, on one device; `numbers` float64 `[R, 9]`. In one pass on the CPU and
    on CUDA for float32 and float64, whose bits depend on the run's row alone and are the same on
    CUDA as on a CPU with a multiply-add (x86-64-v3 and up), NaN aside. On other devices, in other
    dtypes and where the CUDA kernels were not built, by the reference.

    >>> import torch
    >>> from fractalkern.ops.adam import adam_step
    >>> p, g, m, v = torch.ones(1, 1), torch.full((1, 1), 2.0), torch.zeros(1, 1), torch.zeros(1, 1)
    >>> numbers = torch.tensor([[1, 0, 1, 0.1, 0.9, 0.1, 0.5, 1, 0]]).double()
    >>> adam_step(p, g, m, v, numbers)
    >>> p.item(), m.item(), v.item()  # 1 - 0.5 * 0.2 / sqrt(0.4)
    (0.8418861031532288, 0.20000000298023224, 0.4000000059604645)
    """
    compiled = no_native_kernel_reason("adam", parameters.device.type) is None
    if compiled and parameters.dtype in (torch.float32, torch.float64):
        torch.ops.fractalkern.adam_step(parameters, gradients, first, second, numbers)
    else:
        reference.adam_step(parameters, gradients, first, second, numbers)


@torch.library.register_fake("fractalkern::adam_step")
def _fake(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, numbers: Tensor
) -> None:
    return None
