"""How much memory a call or a run may use, and the refusal of what would not fit."""

from pathlib import Path

from fractalkern.errors import InputError

# Below this the answer is not worth the reading of /proc.
_SURELY_THERE = 64 * 2**20


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


def require_memory(what: str, needed: int) -> None:
    """Raises, naming `what`, if the machine has less than `needed` bytes of memory available."""
    if needed <= _SURELY_THERE:
        return
    available = available_bytes()
    if needed > available:
        raise InputError(
            f"{what} must fit in memory, but would need {human_bytes(needed)} "
            f"and {human_bytes(available)} are available"
        )
