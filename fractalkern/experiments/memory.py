"""How much memory a run may use."""

from pathlib import Path


def available_bytes() -> int:
    """What the machine has free now, or the container allows, whichever is less."""
    limits = [_meminfo_available()]
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    used = _read_number(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None:
        limits.append(max(limit - used, 0))
    return min(limits)


def human_bytes(count: int) -> str:
    """`count` in the largest unit that leaves a number above 1."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.0f} PiB"


def _meminfo_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _read_number(path: Path) -> int | None:
    """None where there is no such limit: no file, or the word `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
