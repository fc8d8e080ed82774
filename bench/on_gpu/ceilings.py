"""What the card can do at most: a copy's bandwidth, a matrix product's rate."""

from collections.abc import Callable, Iterator

import torch

from bench.on_gpu.rows import Case, Contender

_COPY_BYTES = 2 * 2**30
_SIDE = 8192


def _copy() -> Callable[[], torch.Tensor]:
    source = torch.randint(0, 256, (_COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _matmul(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """One large product in plain float32 or float64."""
    a, b = torch.randn(2, _SIDE, _SIDE, dtype=dtype, device="cuda")
    return lambda: a @ b


COPY = "copy of 2 GiB"


def matmul_case(dtype: str) -> str:
    """The name of a matrix product's case."""
    return f"matrix product, {_SIDE}³, {dtype}"


def cases() -> Iterator[Case]:
    """One case a ceiling."""
    bytes_moved = 2 * _COPY_BYTES
    yield Case("ceiling", COPY, "B/s", [Contender("copy_", _copy, bytes_moved, role="floor")])
    for dtype in ("float64", "float32"):
        one = Contender(
            "mm", lambda dtype=dtype: _matmul(getattr(torch, dtype)), 2.0 * _SIDE**3, role="floor"
        )
        yield Case("ceiling", matmul_case(dtype), "flop/s", [one])
