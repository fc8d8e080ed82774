"""The frames of a zoom: computed tile by tile into a store, and written as one file each."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.experiments.settings import from_toml, to_toml
from fractalkern.experiments.trainability.training import axes, tile_trainer
from fractalkern.experiments.zoom.config import ZoomConfig
from fractalkern.experiments.zoom.measure import Measured, measure
from fractalkern.experiments.zoom.rounding import flipped
from fractalkern.experiments.zoom.windows import Window
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.grid import Tile, tiles
from fractalkern.sweeps.progress import Display
from fractalkern.sweeps.runner import run_tiles
from fractalkern.sweeps.store import Store


@dataclass(frozen=True, eq=False)
class Frame:
    """What was computed for one window: `value` and `converged` `[N, N]`, row = second axis."""

    path: int
    level: int
    window: Window
    value: Tensor
    converged: Tensor


class FrameStore:
    """Computes frames into a store and takes from it what is there."""

    def __init__(self, config: ZoomConfig, store: Store, shown: Display) -> None:
        self._config, self._store, self._shown = config, store, shown
        # One number more than tiles: that of the test for rounding.
        self._per_frame = config.view(config.first_window).tile_count + 1

    def frame(self, path: int, level: int, window: Window) -> Frame:
        """The frame, from the store or computed, also written to frames/."""
        config, n = self._config.view(window), self._config.resolution
        first = self._first_number(path, level)
        numbered = [
            Tile(first + tile.index, tile.start, tile.stop)
            for tile in tiles(n, config.rows_per_tile)
        ]
        run_tiles(self._store, numbered, tile_trainer(config), n, self._shown)
        parts = [self._store.load(tile.index) for tile in numbered]
        value, converged = (
            torch.cat([torch.from_numpy(part[name]) for part in parts])
            for name in ("value", "converged")
        )
        frame = Frame(path, level, window, value, converged)
        self._write(frame)
        return frame

    def flipped_share(self, frame: Frame, edges: Tensor) -> float:
        """Share of the labels beside the boundary that rounding of the rates decides."""
        number = self._first_number(frame.path, frame.level) + self._per_frame - 1
        if number not in self._store.finished():
            started = time.perf_counter()
            config = self._config.view(frame.window)
            flips = flipped(config, frame.converged, edges, self._config.flips_sample)
            self._store.commit(number, {"flips": flips.numpy()}, time.perf_counter() - started)
        return float(self._store.load(number)["flips"].mean())

    def measured(self, frame: Frame) -> Measured:
        """The frame's dimensions, from the store or measured: a null takes seconds."""
        # Behind the numbers of all frames, so that those of older folders stand.
        number = self._config.frame_count * self._per_frame
        number += self._frame_number(frame.path, frame.level)
        if number not in self._store.finished():
            started = time.perf_counter()
            text = measure(frame.converged).to_json().encode()
            arrays = {"measured": np.frombuffer(text, np.uint8)}
            self._store.commit(number, arrays, time.perf_counter() - started)
        return Measured.from_json(self._store.load(number)["measured"].tobytes().decode())

    def _frame_number(self, path: int, level: int) -> int:
        """The first frame is that of every path."""
        return 0 if level == 0 else 1 + path * self._config.depth + level - 1

    def _first_number(self, path: int, level: int) -> int:
        """Of a frame's tiles."""
        return self._frame_number(path, level) * self._per_frame

    def _write(self, frame: Frame) -> None:
        path = frame_path(self._store.folder, frame.path, frame.level)
        axis0, axis1 = axes(self._config.view(frame.window))
        arrays = {
            "value": frame.value,
            "converged": frame.converged,
            "axis0": axis0,
            "axis1": axis1,
        }
        place = {"window": frame.window, "path": frame.path, "level": frame.level}
        # A single metadata entry: the writer does not keep several in a fixed order.
        metadata = {"zoom": json.dumps({"settings": to_toml(self._config), **place})}
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, safetensors.torch.save(arrays, metadata))


def frame_path(folder: Path, path: int, level: int) -> Path:
    """Where a frame is written; the first is shared by all paths."""
    return folder / "frames" / f"path{0 if level == 0 else path:02d}-level{level:03d}.safetensors"


def load_config(folder: Path) -> ZoomConfig:
    """The settings of a finished or unfinished zoom.

    Raises:
        InputError: the folder holds none.
    """
    if not (folder / "config.toml").is_file() or not (folder / "frames").is_dir():
        raise InputError(f"zoom must be the folder of a zoom with frames, got {folder}")
    return from_toml(ZoomConfig(), folder / "config.toml")


def load_path(folder: Path, path: int) -> list[Frame]:
    """The frames of one path, widest first, from the files in frames/.

    Raises:
        InputError: there is no such path, or a frame was computed with other settings than the
            folder's.
    """
    config = load_config(folder)
    if not 0 <= path < config.path_count:
        raise InputError(f"path must be from 0 to {config.path_count - 1}, got {path}")
    frames = []
    for level in range(config.depth + 1):
        file = frame_path(folder, path, level)
        if not file.exists():
            break
        frames.append(_load(file, config, path, level))
    if not frames:
        raise InputError(f"zoom must be the folder of a zoom with frames, but {folder} has none")
    return frames


def _load(file: Path, config: ZoomConfig, path: int, level: int) -> Frame:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            place = json.loads((opened.metadata() or {}).get("zoom", "{}"))
            value, converged = opened.get_tensor("value"), opened.get_tensor("converged")
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"zoom must hold readable frames, but {file}: {error}") from error
    if place.get("settings") != to_toml(config):
        raise InputError(
            f"zoom must hold frames of the settings in its config.toml, but {file} was computed "
            "with others"
        )
    return Frame(path, level, tuple(place["window"]), value, converged)
