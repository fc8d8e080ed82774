"""Log-spaced axes of a grid and its division into tiles of whole rows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows `start` to `stop` (exclusive) of a grid: what is computed and stored at once."""

    index: int
    start: int
    stop: int


def tiles(rows: int, tile_rows: int) -> Iterator[Tile]:
    """The tiles of a grid of `rows` rows; the last may be lower."""
    for index, start in enumerate(range(0, rows, tile_rows)):
        yield Tile(index, start, min(start + tile_rows, rows))


def tile_count(rows: int, tile_rows: int) -> int:
    """How many tiles `tiles` yields."""
    return -(-rows // tile_rows)


def log_axis(low: float, high: float, points: int) -> Tensor:
    """10^low to 10^high `[points]`, float64, log-spaced, both ends included (points >= 2)."""
    step = (high - low) / (points - 1)
    exponents = [low + i * step for i in range(points - 1)] + [high]
    return torch.tensor([10.0**exponent for exponent in exponents], dtype=torch.float64)
