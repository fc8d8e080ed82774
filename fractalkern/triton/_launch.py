"""Where a kernel in Triton runs."""

import torch
from torch import Tensor


def current_device_of(tensor: Tensor) -> torch.accelerator.device_index:
    """Makes the tensor's device the current one: Triton launches there, wherever tensors are."""
    return torch.accelerator.device_index(None if tensor.is_cpu else tensor.get_device())
