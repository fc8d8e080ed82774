"""What a fit gives back."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Result:
    """Everything recorded of R runs, on the CPU; NaN where a run was frozen.

    Attributes:
        losses: `[R, steps]`, without penalties, before each step's update.
        scalars: by name `[R, steps]`: "penalty", and what the loss returned besides.
        metrics: by name `[R, times, ...]`.
        times: the steps done when the metrics were taken.
        frozen_at: int64 `[R]`, the first step in which a run's parameters, loss or gradient were
            not finite, `steps` if the last update made them so; -1: none.
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
