"""How much memory a call or a run may use, and the refusal of what would not fit."""

from pathlib import Path

import torch

from fractalkern.errors import InputError

# Below this the answer is not worth the reading of /proc.
_SURELY_THERE = 64 * 2**20
_CPU = torch.device("cpu")


def available_bytes() -> int:
    """What the machine can give without swapping, or the container's limit if that is less.

    The page cache counts as available: it is given back on demand.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":") for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return available
    return min(available, int(limit)) if limit.isdigit() else available


def human_bytes(count: int) -> str:
    """`count` in the largest unit that leaves a number above 1."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.0f} PiB"


def device_bytes(device: torch.device) -> int:
    """What a new tensor can have on a CUDA device: what is free, and what torch holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held


def require_memory(what: str, needed: int, device: torch.device = _CPU) -> None:
    """Raises, naming `what`, if a device has less than `needed` bytes of memory available."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if needed <= _SURELY_THERE or capturing:
        return
    available = device_bytes(device) if device.type == "cuda" else available_bytes()
    if needed > available:
        place = f"{device}'s memory" if device.type == "cuda" else "memory"
        raise InputError(
            f"{what} must fit in {place}, but would need {human_bytes(needed)} "
            f"and {human_bytes(available)} are available"
        )
