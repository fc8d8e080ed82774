"""How many runs a batched call takes, and how many are in memory at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fractalkern.memory import available_bytes

# What the activations of a batched call may take on a CPU: larger ones only miss the caches.
_CPU_BLOCK_BYTES = 64 * 2**20
_COPIES = 8  # of the parameters: themselves, gradient, two moments, temporaries


def choose(
    ensemble: Any, runs: Sequence[int], sample: tuple[Tensor, ...], shared: bool
) -> tuple[int, int]:
    """Width and chunk for these runs: what the ensemble was told, else by memory."""
    parameters = sum(p.numel() * p.element_size() for p in ensemble.gradients.training.parameters())
    total = _total_bytes(ensemble.device)
    width = ensemble.width
    if width is None:
        activations = _activation_bytes(ensemble, sample, shared)
        budget = _CPU_BLOCK_BYTES if ensemble.device.type == "cpu" else total // 4
        most = max(1, min(len(runs), budget // max(activations, 1)))
        # Blocks of equal width, so few rows repeat a run.
        width = -(-len(runs) // -(-len(runs) // most))
    chunk = ensemble.chunk
    if chunk is None:
        chunk = max(width, int(total // 2 // (parameters * _COPIES)) // width * width)
    return width, chunk


def _total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def _activation_bytes(ensemble: Any, sample: tuple[Tensor, ...], shared: bool) -> int:
    """What one run keeps for its backward pass."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = sample if shared else tuple(tensor[0] for tensor in sample)
    model = ensemble.gradients.training
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        ensemble.gradients.alone(batch)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for place, size in seen.items() if place not in own)
