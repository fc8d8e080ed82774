"""Collects what the runs of all chunks leave behind."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fractalkern.ensemble.result import Result
from fractalkern.ensemble.rows import Rows


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


class Recorder:
    """Series of every kind, and the steps in which runs froze."""

    def __init__(
        self, runs: int, steps: int, every: int, record: dict[str, Any], at_start: bool = False
    ) -> None:
        self.steps, self.every, self.record, self.at_start = steps, every, record, at_start
        self.times = list(range(0 if at_start else every, steps + 1, every))
        self.series = {
            "scalars": Series(runs, steps),
            "metrics": Series(runs, len(self.times)),
            "parameters": Series(runs, 1),
            "buffers": Series(runs, 1),
        }
        self.frozen_at = torch.full((runs,), -1)

    def log(self, rows: Rows, losses: Tensor, extra: Mapping[str, Tensor]) -> None:
        """Losses and further scalars `[rows]` of the step that is being done."""
        live = rows.live
        for name, values in {"loss": losses, **extra}.items():
            self.series["scalars"].put(name, rows.runs[live], rows.step, values[live])

    def measure(self, rows: Rows, values: Mapping[str, Tensor]) -> None:
        """Metrics `[rows, ...]` after the step just done, or before the first."""
        place = rows.step // self.every - (not self.at_start)
        for name, value in values.items():
            self.series["metrics"].put(name, rows.runs[rows.live], place, value[rows.live])

    def freeze(self, rows: Rows, bad: Sequence[int]) -> None:
        """The runs in the rows `bad` stop here."""
        self.frozen_at[rows.runs[bad]] = rows.step
        self.keep(rows, torch.tensor(bad, dtype=torch.int64))

    def keep(self, rows: Rows, which: Tensor) -> None:
        """The parameters and buffers of the rows `which`, a mask or numbers, are final."""
        for kind, stacks in (("parameters", rows.parameters()), ("buffers", rows.buffers)):
            for name, stack in stacks.items():
                self.series[kind].put(name, rows.runs[which], 0, stack[which])

    def finish(self) -> Result:
        """Everything recorded."""
        values = {kind: series.values for kind, series in self.series.items()}
        scalars = dict(values["scalars"])
        return Result(
            losses=scalars.pop("loss"),
            scalars=scalars,
            metrics=values["metrics"],
            times=self.times,
            frozen_at=self.frozen_at,
            parameters={name: stack[:, 0] for name, stack in values["parameters"].items()},
            buffers={name: stack[:, 0] for name, stack in values["buffers"].items()},
            record=self.record,
        )


class Forgetful(Recorder):
    """Keeps nothing but the steps in which runs froze: for loops that take what they want."""

    def __init__(self, runs: int) -> None:
        super().__init__(runs, 1, 1, {})

    def log(self, rows: Rows, losses: Tensor, extra: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def keep(self, rows: Rows, which: Tensor) -> None:
        """Nothing."""
