"""Schedules: a factor on the learning rate for each run and step, as torch.optim.lr_scheduler's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fractalkern.ensemble.optimizers import PerRun, per_run
from fractalkern.errors import InputError

KINDS = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True)
class Schedule:
    """Warm-up from 0 to 1 in `warmup` steps, then from 1 to `final` at step `steps`, then `final`.

    Args:
        kind: "constant", "linear", "cosine" or "exponential"; one for all runs, or one a run.
        steps: a number, or one a run; not needed for "constant".
        warmup: a number, or one a run; step t of it, 0 the first, has the factor (t + 1) / warmup.
        final: a number, or one a run; above 0 for "exponential".

    >>> from fractalkern.ensemble import Schedule
    >>> Schedule("linear", steps=4, final=[0.0, 0.5]).factors(2, 2).tolist()
    [0.5, 0.75]
    """

    kind: str | tuple[str, ...] = "constant"
    steps: PerRun = 0
    warmup: PerRun = 0
    final: PerRun = 0.0

    _owner: ClassVar[str] = "Schedule"

    def _kinds(self, runs: int) -> list[str]:
        kinds = [self.kind] * runs if isinstance(self.kind, str) else list(self.kind)
        if len(kinds) != runs:
            raise InputError(
                f"{self._owner}: kind must be one name or one for each of the {runs} runs, "
                f"got {len(kinds)}"
            )
        for kind in kinds:
            if kind not in KINDS:
                raise InputError(
                    f"{self._owner}: kind must be one of {', '.join(KINDS)}, got {kind!r}"
                )
        return kinds

    def _numbers(self, runs: int) -> Mapping[str, Tensor]:
        names = ("steps", "warmup", "final")
        return {n: per_run(self._owner, n, getattr(self, n), runs) for n in names}

    def check(self, runs: int) -> None:
        """Raises unless there is one of everything for each of `runs` runs."""
        numbers = self._numbers(runs)
        for run, kind in enumerate(self._kinds(runs)):
            steps, warmup, final = (float(numbers[n][run]) for n in ("steps", "warmup", "final"))
            if warmup < 0:
                raise InputError(
                    f"{self._owner}: warmup must be at least 0, got {warmup:g} for run {run}"
                )
            if kind != "constant" and steps <= warmup:
                raise InputError(
                    f"{self._owner}: steps must be above warmup for {kind!r}, "
                    f"got {steps:g} and {warmup:g} for run {run}"
                )
            if final < 0 or (kind == "exponential" and final == 0):
                raise InputError(
                    f"{self._owner}: final must be at least 0, and above it for 'exponential', "
                    f"got {final:g} for run {run}"
                )

    def settings(self, runs: int) -> dict[str, Any]:
        """Everything that the factors depend on, as JSON values."""
        return {
            "kind": self._kinds(runs),
            **{name: values.tolist() for name, values in self._numbers(runs).items()},
        }

    def factors(self, step: int, runs: int) -> Tensor:
        """The factor of each run in step `step`, 0 the first: float64 `[runs]`."""
        numbers = self._numbers(runs)
        rows = zip(self._kinds(runs), *(numbers[n].tolist() for n in numbers), strict=True)
        return torch.tensor([_factor(step, *row) for row in rows], dtype=torch.float64)


def _factor(step: int, kind: str, steps: float, warmup: float, final: float) -> float:
    if step < warmup:
        return min((step + 1) / warmup, 1.0)
    if kind == "constant":
        return 1.0
    done = min((step - warmup) / (steps - warmup), 1.0)
    if kind == "linear":
        return 1 + (final - 1) * done
    if kind == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
    return math.pow(final, done)
