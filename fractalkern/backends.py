"""Which implementation of an op runs: `native` (compiled), `reference` (PyTorch)."""

from collections.abc import Iterator
from contextlib import contextmanager

from fractalkern.errors import BackendError, InputError

BACKENDS = ("native", "reference", "triton")

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


def resolve(backend: str | None) -> str:
    """The backend of a call: its argument, else the enclosing `use_backend`, else `native`."""
    if backend is not None:
        return _check(backend)
    return _forced or "native"


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
