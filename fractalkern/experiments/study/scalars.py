"""Scalars of many runs over time: as arrays in a part's file, as rows of JSON Lines for readers."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractalkern.errors import InputError

Label = Mapping[str, object]
Arrays = dict[str, NDArray]  # type: ignore[type-arg]  # each array has its own dtype

# What separates a series' name from a scalar's in a part's file.
_JOIN = "/"


@dataclass(frozen=True, eq=False)
class Series:
    """Scalars that are taken at the same steps.

    Attributes:
        steps: `[T]`, ascending.
        scalars: by name `[R, T]`, a row a run; what is not finite becomes null.
    """

    steps: Sequence[int]
    scalars: Mapping[str, Tensor]

    def check(self, name: str, runs: int) -> None:
        """Raises unless every scalar is `[runs, T]`."""
        for scalar, values in self.scalars.items():
            if tuple(values.shape) != (runs, len(self.steps)):
                raise InputError(
                    f"Study: scalar {scalar!r} of series {name!r} must have shape "
                    f"{[runs, len(self.steps)]}, got {list(values.shape)}"
                )


def to_arrays(series: Mapping[str, Series]) -> Arrays:
    """One array a scalar, `NAME/SCALAR`, and the steps as `NAME/steps`."""
    arrays: Arrays = {}
    for name, one in series.items():
        arrays[f"{name}{_JOIN}steps"] = np.asarray(one.steps, dtype=np.int64)
        for scalar, values in one.scalars.items():
            arrays[f"{name}{_JOIN}{scalar}"] = values.detach().cpu().numpy()
    return arrays


def from_arrays(arrays: Arrays) -> tuple[dict[str, Series], dict[str, Tensor]]:
    """The series in a part's file, and the arrays that belong to none."""
    steps: dict[str, list[int]] = {}
    scalars: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, values in arrays.items():
        name, joined, scalar = key.partition(_JOIN)
        if not joined:
            others[key] = torch.from_numpy(values)
        elif scalar == "steps":
            steps[name] = values.tolist()
        else:
            scalars.setdefault(name, {})[scalar] = torch.from_numpy(values)
    return {name: Series(steps[name], scalars.get(name, {})) for name in steps}, others


def rows(place: int, series: Mapping[str, Series]) -> Iterator[tuple[int, dict[str, float | None]]]:
    """(step, scalars by name) of the run in that place, series by series, by name."""
    for _, one in sorted(series.items()):  # a part's file does not keep another order
        columns = {name: values[place].tolist() for name, values in sorted(one.scalars.items())}
        for t, step in enumerate(one.steps):
            yield step, {name: finite(column[t]) for name, column in columns.items()}


def lines(runs: Sequence[Label], series: Mapping[str, Series]) -> Iterator[str]:
    """One JSON object for each run and step: the run's label, the step, the scalars."""
    for place, label in enumerate(runs):
        for step, scalars in rows(place, series):
            yield json.dumps({**label, "step": step, **scalars}, allow_nan=False) + "\n"


def finite(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if math.isfinite(value) else None
