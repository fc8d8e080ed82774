"""Trains cells of a grid: whole tiles, or any cells by their rates."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fractalkern import train_sweep
from fractalkern.experiments.trainability.card import Card
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.data import Shared, activation, shared
from fractalkern.sweeps.grid import Tile, log_axis

if TYPE_CHECKING:  # the store's packages are not needed to train
    from fractalkern.sweeps.store import Arrays

# Floating-point operations of one call of train_sweep, and its least networks on a CPU: fewer
# would idle the cores.
_WORK_PER_CALL = {"cpu": 5 * 10**10, "cuda": 10**13}
_LEAST_PER_CALL = 128
_RESULTS = ("value", "converged", "final_loss", "steps_run")


def axes(config: TrainabilityConfig) -> tuple[Tensor, Tensor]:
    """The rates (or offsets) along the columns and along the rows, float64 `[N]` each."""
    low0, high0, low1, high1 = config.window
    n = config.resolution
    return log_axis(low0, high0, n), log_axis(low1, high1, n)


def tile_trainer(config: TrainabilityConfig) -> Callable[[Tile], "Arrays"]:
    """A function that trains a tile: the results of `cell_trainer` as `[rows, N]`."""
    train, n = cell_trainer(config), config.resolution

    def compute(tile: Tile) -> "Arrays":
        return {
            name: flat.reshape(-1, n) for name, flat in train(*tile_cells(config, tile)).items()
        }

    return compute


def cell_trainer(config: TrainabilityConfig) -> Callable[[Tensor, Tensor], "Arrays"]:
    """A function of the first and second axis' values of P cells (in the training's dtype).

    It gives value, converged, final_loss, steps_run `[P]`.
    """
    data, size = shared(config).to(config.device), networks_of_a_call(config)

    def compute(first: Tensor, second: Tensor) -> "Arrays":
        cells_of = (axis.to(config.device) for axis in (first, second))
        (x, y, w0, w1, lr0, lr1), options = sweep_arguments(config, data, *cells_of)
        offset = options.pop("offset")
        parts = []
        for start in range(0, len(lr0), size):
            cells = slice(start, start + size)
            part = None if offset is None else offset[cells]
            rates = lr0[cells], lr1[cells]
            parts.append(train_sweep(x, y, w0, w1, *rates, offset=part, **options))
        return {
            name: torch.cat([getattr(part, name) for part in parts]).cpu().numpy()
            for name in _RESULTS
        }

    return compute


def networks_of_a_call(config: TrainabilityConfig) -> int:
    """How many networks are trained between two moments at which an interrupt is heard.

    They are about half a second apart, whatever a tile takes.
    """
    work = config.steps * config.data_rows * 4 * config.width**2
    least = 2 * Card.current().networks_at_once if config.device == "cuda" else _LEAST_PER_CALL
    return max(least, _WORK_PER_CALL[config.device] // work)


def tile_cells(config: TrainabilityConfig, tile: Tile) -> tuple[Tensor, Tensor]:
    """The first and second axis' values of a tile's cells, row by row."""
    axis0, axis1 = axes(config)
    dtype = getattr(torch, config.dtype)
    first = axis0.repeat(tile.stop - tile.start).to(dtype)
    second = axis1[tile.start : tile.stop].repeat_interleave(len(axis0)).to(dtype)
    return first, second


def sweep_arguments(
    config: TrainabilityConfig, data: Shared, first: Tensor, second: Tensor
) -> tuple[list[Tensor], dict[str, Any]]:
    """The positional and keyword arguments of `train_sweep` for cells with these axes' values."""
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
