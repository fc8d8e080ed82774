"""What a fit gives back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Result:
    """Everything recorded of R runs, on the CPU; NaN where a run was frozen.

    Attributes:
        losses: `[R, steps]`, without penalties, before each step's update.
        scalars: by name `[R, steps]`: "penalty", and what the loss returned besides.
        metrics: by name `[R, times, ...]`.
        times: the steps done when the metrics were taken.
        frozen_at: int64 `[R]`, the step in which a run's loss or gradient was not finite; -1: none.
        parameters: by name `[R, ...]`, the last ones; of a frozen run those that it froze with.
        buffers: by name `[R, ...]`.
        record: what a repetition needs, as JSON values: seeds, chunks of runs, width, threads ...
    """

    losses: Tensor
    scalars: dict[str, Tensor]
    metrics: dict[str, Tensor]
    times: list[int]
    frozen_at: Tensor
    parameters: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)
    record: dict[str, Any] = field(repr=False)

    @property
    def finite(self) -> Tensor:
        """Bool `[R]`: the runs that were never frozen."""
        return self.frozen_at < 0


class Series:
    """Named values of runs over time, put in as they come: by name `[R, length, ...]`."""

    def __init__(self, runs: int, length: int) -> None:
        self.runs, self.length = runs, length
        self.values: dict[str, Tensor] = {}

    def put(self, name: str, runs: Tensor, place: int, values: Tensor) -> None:
        """`values` `[rows, ...]` of the runs `runs` at time `place`."""
        values = values.detach().to("cpu")
        if not values.is_floating_point():
            values = values.double()
        if name not in self.values:
            shape = (self.runs, self.length, *values.shape[1:])
            self.values[name] = torch.full(shape, torch.nan, dtype=values.dtype)
        self.values[name][runs, place] = values
