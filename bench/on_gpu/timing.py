"""Times work on a CUDA device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# More than any current L2; a write of it between calls leaves nothing of the inputs there.
_FLUSH_BYTES = 256 * 2**20
_LEAST, _MOST = 3, 30


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over `calls`."""

    median: float
    lower: float
    upper: float
    calls: int


def by_events(call: Callable[[], Any], seconds: float) -> Timing:
    """Device events around each call, the L2 cache flushed before it, for about `seconds`."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    call()
    torch.cuda.synchronize()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _LEAST or (len(times) < _MOST and time.perf_counter() - start < seconds):
        flush.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return _summary(times)


def by_clock(call: Callable[[], Any], seconds: float) -> Timing:
    """The host's clock around calls that wait for their result themselves."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < _LEAST or (len(times) < _MOST and time.perf_counter() - start < seconds):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return _summary(times)


def _summary(times: list[float]) -> Timing:
    lower, median, upper = np.quantile(times, [0.25, 0.5, 0.75])
    return Timing(float(median), float(lower), float(upper), len(times))
