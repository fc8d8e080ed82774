"""The rules by which a zoom's windows are chosen; a window is LO0 HI0 LO1 HI1 in powers of ten."""

import math

import torch
from torch import Tensor

from fractalkern.random import uniform

Window = tuple[float, float, float, float]

# The original widens its final window until the smaller side reaches this many decades.
ORIGINAL_WIDTH = 6.0
_PATH_STREAM = 7


def sides(window: Window) -> tuple[float, float]:
    """Decades along the first and the second axis."""
    return window[1] - window[0], window[3] - window[2]


def smaller_side(window: Window) -> float:
    """Decades along the narrower axis."""
    return min(sides(window))


def about_final(final: Window, factor: float) -> list[Window]:
    """The final window and its enlargements about its centre, widest first."""
    middle = (final[0] + final[1]) / 2, (final[2] + final[3]) / 2
    path, scale = [final], factor
    while smaller_side(path[0]) < ORIGINAL_WIDTH and math.isfinite(scale):
        half0, half1 = (side * scale / 2 for side in sides(final))
        low, high = (middle[0] - half0, middle[0] + half0), (middle[1] - half1, middle[1] + half1)
        path.insert(0, (*low, *high))
        scale *= factor
    return path


def random_window(
    window: Window, edges: Tensor, factor: float, *, seed: int, path: int, level: int
) -> Window:
    """About a boundary cell of the frame `window`, each equally likely, for that path and level.

    `edges` is `boundary` of the frame `[N, N]`, so `[N - 1, N - 1]`, with at least one set. The
    new window is shifted, where it must be, to lie inside the old one.
    """
    cells = edges.nonzero()
    turn = uniform((path + 1, level + 1), seed=seed, stream=_PATH_STREAM)[path, level]
    row, column = cells[int(turn * len(cells))].tolist()
    return _about(window, row + 0.5, column + 0.5, len(edges), factor)


def densest_window(window: Window, edges: Tensor, factor: float) -> Window:
    """The place in the frame `window` with most boundary cells; the first of equals."""
    side = max(1, round(len(edges) / factor))
    total = torch.nn.functional.pad(edges.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    inside += total[:-side, :-side]
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return _about(window, row + side / 2, column + side / 2, len(edges), factor)


def _about(window: Window, row: float, column: float, blocks: int, factor: float) -> Window:
    """The window about a place in cells of the frame, where 0 and `blocks` are its outer cells."""
    low0, high0 = _span(window[0], window[1], column / blocks, factor)
    low1, high1 = _span(window[2], window[3], row / blocks, factor)
    return low0, high0, low1, high1


def _span(low: float, high: float, place: float, factor: float) -> tuple[float, float]:
    side = (high - low) / factor
    start = min(max(low + place * (high - low) - side / 2, low), high - side)
    return start, start + side
