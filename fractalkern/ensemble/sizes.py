"""How many runs a batched call takes, and how many are in memory at a time."""

import torch
from torch import Tensor, nn

from fractalkern.ensemble.data import Data
from fractalkern.ensemble.training import Rules
from fractalkern.memory import available_bytes

# On a CPU batching saves the cost of calling an operation, and costs caches. Where the tensors that
# one run keeps are as large as this on average, it saves less than it costs (measured on a GPT-2 of
# widths 32 to 128 and an MLP with BatchNorm of 200 and 1,500 points: bench/NOTES.md).
_CPU_LARGE_BYTES = 100 * 2**10
_CPU_BLOCK_BYTES = 64 * 2**20  # of the activations of a batched call
_COPIES = 8  # of the parameters: themselves, gradient, two moments, temporaries


def width(rules: Rules, runs: int, data: Data) -> int:
    """Runs a batched call: as many as activations have room for, in blocks of equal size."""
    kept = _activation_bytes(rules, data)
    size = max(sum(kept), 1)
    if rules.device.type != "cpu":
        room = _memory(rules.device) // 4
    else:
        room = _CPU_BLOCK_BYTES if size < _CPU_LARGE_BYTES * len(kept) else 0
    most = max(1, min(runs, room // size))
    blocks = -(-runs // most)
    return -(-runs // blocks)


def chunk(template: nn.Module, device: torch.device, width: int) -> int:
    """Runs in memory at a time: whole blocks in half of what is there."""
    parameters = sum(p.numel() * p.element_size() for p in template.parameters())
    most = _memory(device) // 2 // max(parameters * _COPIES, 1)
    return max(1, most // width) * width


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def _activation_bytes(rules: Rules, data: Data) -> list[int]:
    """Of each tensor that one run keeps for its backward pass, its parameters aside."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        rules.gradients.alone(data.of_one_row())
    own = {p.untyped_storage().data_ptr() for p in rules.gradients.training.parameters()}
    return [size for place, size in kept.items() if place not in own]
