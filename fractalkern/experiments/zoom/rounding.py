"""Where a zoom must end because rounding, not training, makes its picture."""

import torch
from torch import Tensor

from fractalkern.experiments.trainability.config import TrainabilityConfig, distinct_rates
from fractalkern.experiments.trainability.training import axes, cell_trainer
from fractalkern.random import integers

_SAMPLE_STREAM = 8


def rates_are_distinct(config: TrainabilityConfig) -> bool:
    """Whether neighbouring cells have different rates in the number type of the training."""
    low0, high0, low1, high1 = config.window
    return all(
        distinct_rates(low, high, config.resolution, config.dtype)
        for low, high in ((low0, high0), (low1, high1))
    )


def flipped(config: TrainabilityConfig, converged: Tensor, edges: Tensor, sample: int) -> Tensor:
    """Which of `sample` cells beside the boundary change their label one unit in the last place on.

    Both rates (or offset and rate) are moved to the next larger number. The cells are drawn with
    replacement, each cell that touches a set one of `edges` `[N - 1, N - 1]` equally likely.
    """
    beside = torch.zeros_like(converged)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            beside[rows, columns] |= edges
    cells = beside.flatten().nonzero().flatten()
    drawn = integers((sample,), len(cells), seed=config.seed, stream=_SAMPLE_STREAM)
    chosen = cells[drawn]
    n = config.resolution
    axis0, axis1 = (
        torch.nextafter(rates, torch.full_like(rates, torch.inf))
        for rates in (axis.to(getattr(torch, config.dtype)) for axis in axes(config))
    )
    moved = cell_trainer(config)(axis0[chosen % n], axis1[chosen // n])["converged"]
    return torch.from_numpy(moved) != converged.flatten()[chosen]
