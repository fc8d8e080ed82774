"""What a run was computed with."""

import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path

import torch

import fractalkern
from fractalkern.errors import BackendError
from fractalkern.ops._inputs import absent_device_reason

_PACKAGES = ("torch", "numpy", "safetensors", "matplotlib")


def environment() -> dict[str, object]:
    """Versions, instruction set, threads, machine and, in a source checkout, the commit."""
    return {
        "fractalkern": fractalkern.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "build": fractalkern.build_info(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "commit": _commit(),
        "written_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def arithmetic(device: str) -> dict[str, object]:
    """What the bits of a training depend on besides its settings: the library, and what ran it.

    Of a card also the multiprocessors, which decide what a tile is.
    """
    info = fractalkern.build_info()
    if device == "cuda":
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        return {
            "fractalkern": info["version"],
            "gpu": card.name,
            "multiprocessors": card.multi_processor_count,
        }
    return {"fractalkern": info["version"], "instruction_set": info["instruction_set"]}


def require_device(device: str) -> None:
    """Raises unless torch can train on "cpu" or "cuda" here.

    Raises:
        BackendError: there is no such device.
    """
    reason = absent_device_reason(torch.device(device))
    if reason is not None:
        raise BackendError(reason)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _commit() -> str | None:
    """The checkout's commit, `+` if changed since; None outside one, or without git."""
    root = Path(fractalkern.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return commit and commit + ("+" if _git(root, "status", "--porcelain") else "")


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
