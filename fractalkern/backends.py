"""Which implementation of an op runs: `native` (compiled), `reference` (PyTorch) or `triton`."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fractalkern import _native
from fractalkern.errors import BackendError, InputError

BACKENDS = ("native", "reference", "triton")

# What the library registered for CUDA, looked up once: torch.compile cannot trace the question. The
# ops of a kernel begin with its name.
CUDA_OPS = tuple(
    sorted(
        name.removeprefix("fractalkern::")
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
        if name.startswith("fractalkern::")
    )
)
# Those of fractalkern.triton.
TRITON_KERNELS = ("box_count", "fractal_noise", "power_iteration")
_OLDEST_TRITON = (3, 4)
_CUDA_BUILT = bool(_native.build_info()["cuda_architectures"])

# A plain global and not a ContextVar: torch.compile guards on the one and cannot trace the other.
_forced: str | None = None


def unavailable_reason(name: str) -> str | None:
    """Why backend `name` cannot run here, or None if it can."""
    return _no_triton_reason() if name == "triton" else None


def _no_triton_reason() -> str | None:
    """Why there is no Triton, or None once its kernels are registered."""
    needed = ".".join(map(str, _OLDEST_TRITON))
    wanted = f"it needs triton {needed} or later (pip install 'fractalkern[triton]')"
    try:
        version = importlib.import_module("triton").__version__
    except ImportError as error:
        return f"{wanted}, and there is none ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TRITON:
        return f"{wanted}, and found {version}"
    importlib.import_module("fractalkern.triton")
    return None


# What torch.compiler.assume_constant_result does, which for it imports the whole compiler: over
# a second at every import of fractalkern.
_no_triton_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
    if name == "triton":
        reason = _no_triton_kernel_reason(kernel, device)
        if reason is not None:
            raise BackendError(f"{kernel}: the triton backend cannot run on {device}: {reason}")
    return name


def _no_triton_kernel_reason(kernel: str, device: torch.device) -> str | None:
    if kernel not in TRITON_KERNELS:
        return "this kernel is not written in Triton"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "CPU tensors need TRITON_INTERPRET=1 in the environment, which is slow and for tests"
    return None


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
    if any(op.startswith(kernel) for op in CUDA_OPS):
        return None
    return "this kernel is not written in CUDA yet"


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
