"""Computes a trainability grid into a run folder."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fractalkern.experiments.environment import arithmetic, environment
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.trainability import figures, report
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.findings import find
from fractalkern.experiments.trainability.training import axes, tile_trainer
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.grid import tiles
from fractalkern.sweeps.progress import Meter, display
from fractalkern.sweeps.runner import run_tiles
from fractalkern.sweeps.store import Store

Grid = dict[str, Tensor]


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
    with Store(out, "trainability", identity(config)) as store:
        write_atomically(out / "config.toml", to_toml(config).encode())
        write_atomically(out / "environment.json", _json(environment()))
        try:
            _compute(config, store)
            return _report(config, store)
        except KeyboardInterrupt:
            kept = f"{len(store.finished())} of {config.tile_count} tiles"
            explain_interrupt(config, store, kept)
            raise


def identity(config: TrainabilityConfig) -> dict[str, object]:
    """Everything that the bits of the results depend on, which a resumed run must share."""
    return {**dataclasses.asdict(config), **arithmetic(config.device)}


def _compute(config: TrainabilityConfig, store: Store) -> None:
    n = config.resolution
    finished = store.finished()
    all_tiles = list(tiles(n, config.rows_per_tile))
    done = n * sum(tile.stop - tile.start for tile in all_tiles if tile.index in finished)
    with display(f"trainability {config.condition}", Meter(n * n, done, config.steps)) as shown:
        for damage in store.damaged:
            shown.note(f"{damage}; computing it again")
        run_tiles(store, all_tiles, tile_trainer(config), n, shown)


def _assemble(config: TrainabilityConfig, store: Store) -> Grid:
    """All tiles as `[N, N]` arrays, row = second axis, and both axes."""
    n = config.resolution
    grid: Grid = {}
    for tile in tiles(n, config.rows_per_tile):
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


def explain_interrupt(config: TrainabilityConfig, store: Store, kept: str, *options: str) -> None:
    """Says on stderr what of a run is kept and which command goes on with it."""
    command = ["fractalkern", "trainability", *options]
    command += ["--config", str(store.folder / "config.toml"), "--out", str(store.folder)]
    print(
        f"Interrupted: {kept} are finished and kept. To go on: {shlex.join(command)}",
        file=sys.stderr,
    )
