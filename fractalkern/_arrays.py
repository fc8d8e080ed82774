"""Takes what users pass as an array: a tensor, or a NumPy array without copying where possible."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fractalkern.errors import InputTypeError

ArrayLike = Tensor | npt.NDArray[np.generic]

INTEGER_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.uint16,
    torch.int16,
    torch.uint32,
    torch.int32,
    torch.uint64,
    torch.int64,
)
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_tensor(array: ArrayLike, name: str) -> Tensor:
    """`array` as a tensor; `name` is the argument that an error names.

    Raises:
        InputTypeError: not a dense tensor or a NumPy array of a dtype that torch has.
    """
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
            raise InputTypeError(f"{name} must hold numbers or booleans, got dtype {array.dtype}")
        # torch takes neither negative strides, foreign byte order nor read-only memory.
        if (
            any(stride < 0 for stride in array.strides)
            or not array.dtype.isnative
            or not array.flags.writeable
        ):
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(array)
    if not isinstance(array, Tensor):
        raise InputTypeError(
            f"{name} must be a tensor or a NumPy array, got {type(array).__name__}"
        )
    if array.layout != torch.strided:
        raise InputTypeError(f"{name} must be a dense tensor, got layout {array.layout}")
    return array
