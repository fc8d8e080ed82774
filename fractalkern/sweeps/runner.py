"""Computes the tiles that a store lacks, one after the other."""

import time
from collections.abc import Callable, Iterable

from fractalkern.sweeps.grid import Tile
from fractalkern.sweeps.progress import Display
from fractalkern.sweeps.store import Arrays, Store


def run_tiles(
    store: Store,
    tiles: Iterable[Tile],
    compute: Callable[[Tile], Arrays],
    columns: int,
    display: Display,
) -> None:
    """Computes and commits each tile (rows of `columns` cells) that is not finished yet.

    An exception or an interrupt loses the tile being computed and nothing else.
    """
    finished = store.finished()
    for tile in tiles:
        if tile.index in finished:
            continue
        started = time.perf_counter()
        arrays = compute(tile)
        store.commit(tile.index, arrays, time.perf_counter() - started)
        display.advance((tile.stop - tile.start) * columns)
