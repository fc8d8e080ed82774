"""Computes a trainability grid into a run folder."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fractalkern import build_info, train_sweep
from fractalkern.experiments.environment import environment
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.trainability import figures, report
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.data import Shared, activation, shared
from fractalkern.experiments.trainability.findings import find
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.grid import Tile, log_axis, tiles
from fractalkern.sweeps.progress import Meter, display
from fractalkern.sweeps.runner import run_tiles
from fractalkern.sweeps.store import Arrays, Store

Grid = dict[str, Tensor]

# Floating-point operations and networks of one call of train_sweep; fewer would idle the cores.
_WORK_PER_CALL, _LEAST_PER_CALL = 5 * 10**10, 128
_RESULTS = ("value", "converged", "final_loss", "steps_run")


def run(config: TrainabilityConfig, out: Path) -> str:
    """Computes what `out` lacks, writes the files below, returns the report's text.

    config.toml       all settings
    environment.json  versions, instruction set, threads, commit of the last sitting
    grid.safetensors  value, converged, final_loss, steps_run `[N, N]`; axis0, axis1 `[N]` float64
    summary.json      see `report.summary`
    fractal.png       the grid; dimension.png: box counts, fit, local slopes, control
    tiles/, state.sqlite, .lock    see `sweeps.store`

    Row r, column c of the grid has the rate axis1[r] in the output layer and axis0[c] in the input
    layer; for the init-offset conditions axis0 is the offset and axis1 the rate of both layers.
    The grid's bytes do not depend on interruptions or threads.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold this run.
        KeyboardInterrupt: after printing how to go on; finished tiles are kept.
    """
    config.checked()
    with Store(out, "trainability", _identity(config)) as store:
        write_atomically(out / "config.toml", to_toml(config).encode())
        write_atomically(out / "environment.json", _json(environment()))
        try:
            _compute(config, store)
            return _report(config, store)
        except KeyboardInterrupt:
            _explain_interrupt(config, store)
            raise


def axes(config: TrainabilityConfig) -> tuple[Tensor, Tensor]:
    """The rates (or offsets) along the columns and along the rows, float64 `[N]` each."""
    low0, high0, low1, high1 = config.window
    n = config.resolution
    return log_axis(low0, high0, n), log_axis(low1, high1, n)


def _identity(config: TrainabilityConfig) -> dict[str, object]:
    """Everything that the bits of the results depend on, which a resumed run must share."""
    info = build_info()
    return {
        **dataclasses.asdict(config),
        "fractalkern": info["version"],
        "instruction_set": info["instruction_set"],
    }


def _compute(config: TrainabilityConfig, store: Store) -> None:
    n = config.resolution
    finished = store.finished()
    all_tiles = list(tiles(n, config.tile_rows))
    done = n * sum(tile.stop - tile.start for tile in all_tiles if tile.index in finished)
    with display(f"trainability {config.condition}", Meter(n * n, done, config.steps)) as shown:
        for damage in store.damaged:
            shown.note(f"{damage}; computing it again")
        run_tiles(store, all_tiles, _trainer(config), n, shown)


def _trainer(config: TrainabilityConfig) -> Callable[[Tile], Arrays]:
    data, n = shared(config), config.resolution

    # An interrupt is heard between calls: about half a second apart, whatever a tile takes.
    work = config.steps * config.data_rows * 4 * config.width**2
    size = max(_LEAST_PER_CALL, _WORK_PER_CALL // work)

    def compute(tile: Tile) -> Arrays:
        (x, y, w0, w1, lr0, lr1), options = sweep_arguments(config, data, tile)
        offset = options.pop("offset")
        parts = []
        for first in range(0, len(lr0), size):
            cells = slice(first, first + size)
            part = None if offset is None else offset[cells]
            rates = lr0[cells], lr1[cells]
            parts.append(train_sweep(x, y, w0, w1, *rates, offset=part, **options))
        return {
            name: torch.cat([getattr(part, name) for part in parts]).reshape(-1, n).numpy()
            for name in _RESULTS
        }

    return compute


def sweep_arguments(
    config: TrainabilityConfig, data: Shared, tile: Tile
) -> tuple[list[Tensor], dict[str, Any]]:
    """The positional and keyword arguments of `train_sweep` for the cells of a tile, row by row."""
    axis0, axis1 = axes(config)
    first = axis0.repeat(tile.stop - tile.start).to(data.x.dtype)
    second = axis1[tile.start : tile.stop].repeat_interleave(len(axis0)).to(data.x.dtype)
    with_offset = config.condition.startswith("init-offset")
    rates = [second if with_offset else first, second]
    options = {
        "steps": config.steps,
        "activation": activation(config),
        "batches": data.batches,
        "offset": first if with_offset else None,
        "offset_every_step": config.condition == "init-offset-published",
        "protocol": config.protocol,
    }
    return [data.x, data.y, data.w0, data.w1, *rates], options


def _assemble(config: TrainabilityConfig, store: Store) -> Grid:
    """All tiles as `[N, N]` arrays, row = second axis, and both axes."""
    n = config.resolution
    grid: Grid = {}
    for tile in tiles(n, config.tile_rows):
        for name, rows in store.load(tile.index).items():
            part = torch.from_numpy(rows)
            if name not in grid:
                grid[name] = part.new_empty((n, n))
            grid[name][tile.start : tile.stop] = part
    grid["axis0"], grid["axis1"] = axes(config)
    return grid


def _report(config: TrainabilityConfig, store: Store) -> str:
    out, grid = store.folder, _assemble(config, store)
    # A single metadata entry: the writer does not keep several in a fixed order.
    metadata = {"config": to_toml(config)}
    write_atomically(out / "grid.safetensors", safetensors.torch.save(grid, metadata))
    findings = find(grid["value"], grid["converged"], config.seed)
    write_atomically(out / "fractal.png", figures.fractal(config, grid["value"], findings))
    write_atomically(out / "dimension.png", figures.dimension(config, findings))
    summary = report.summary(config, findings, store.compute_seconds(), store.seconds())
    write_atomically(out / "summary.json", _json(summary))
    return report.text(config, findings, summary, out)


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _explain_interrupt(config: TrainabilityConfig, store: Store) -> None:
    command = ["fractalkern", "trainability", "--config", str(store.folder / "config.toml")]
    command += ["--out", str(store.folder)]
    print(
        f"Interrupted: {len(store.finished())} of {config.tile_count} tiles are finished and kept. "
        f"To go on: {shlex.join(command)}",
        file=sys.stderr,
    )
