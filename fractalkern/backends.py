"""Which implementation of an op runs: `native` (compiled), `reference` (PyTorch)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fractalkern import _native
from fractalkern.errors import BackendError, InputError

BACKENDS = ("native", "reference", "triton")

# Each kernel and an op that the library registers for it. What it registers for CUDA is looked up
# once: torch.compile cannot trace the question.
_KERNELS = {
    "box_count": "box_count",
    "box_mass": "box_mass",
    "fractal_noise": "fractal_noise_spectrum",
    "power_iteration": "power_iteration",
    "train_sweep": "train_sweep",
}
CUDA_KERNELS = tuple(
    kernel
    for kernel, op in _KERNELS.items()
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"fractalkern::{op}", "CUDA")
)
_CUDA_BUILT = bool(_native.build_info()["cuda_architectures"])

# A plain global and not a ContextVar: torch.compile guards on the one and cannot trace the other.
_forced: str | None = None


def unavailable_reason(name: str) -> str | None:
    """Why backend `name` cannot run here, or None if it can."""
    if name == "triton":
        return "this version of fractalkern has no Triton kernels yet"
    return None


def _check(name: str) -> str:
    if name not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    reason = unavailable_reason(name)
    if reason is not None:
        raise BackendError(f"backend {name!r} is not available: {reason}")
    return name


def resolve(kernel: str, backend: str | None, device: torch.device) -> str:
    """The backend of a call: its argument, else the enclosing `use_backend`, else `native`.

    Raises:
        InputError: no such backend.
        BackendError: it is not available here, or has no such kernel for `device`.
    """
    name = _forced or "native" if backend is None else _check(backend)
    if name == "native" and device.type != "cpu":
        reason = no_native_kernel_reason(kernel, device.type)
        if reason is not None:
            raise BackendError(
                f"{kernel}: the native backend cannot run on {device}: {reason}; "
                'backend="reference" runs it as plain PyTorch'
            )
    return name


def no_native_kernel_reason(kernel: str, device_type: str) -> str | None:
    """Why a kernel is not compiled for a kind of device, or None if it is."""
    if device_type == "cpu":
        return None
    if device_type != "cuda":
        return "compiled kernels are for cpu and cuda tensors"
    if not _CUDA_BUILT:
        return (
            "this build has no CUDA kernels (reinstall it with FRACTALKERN_CUDA=1 where nvcc is on "
            "the PATH)"
        )
    return None if kernel in CUDA_KERNELS else "this kernel is not written in CUDA yet"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Forces `name` for every op called inside the block, in all threads of the process.

    >>> import fractalkern as fk, torch
    >>> with fk.use_backend("reference"):
    ...     fk.box_count(torch.ones(4, 4, dtype=torch.bool)).counts.tolist()
    [16, 4, 1]

    Raises:
        InputError: no such backend.
        BackendError: it is not available here; the message says why.
    """
    global _forced  # noqa: PLW0603
    before, _forced = _forced, _check(name)
    try:
        yield
    finally:
        _forced = before
