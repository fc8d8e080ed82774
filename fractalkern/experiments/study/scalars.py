"""Scalars of many runs over time: as arrays in a part's file, as rows of JSON Lines for readers."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractalkern.errors import InputError

Label = Mapping[str, object]
Arrays = dict[str, NDArray]  # type: ignore[type-arg]  # each array has its own dtype

# What separates a series' name from a scalar's in a part's file.
_JOIN = "/"
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Series:
    """Scalars that are taken at the same steps.

    Attributes:
        steps: `[T]`, ascending.
        scalars: by name `[R, T]`, a row a run; what is not finite becomes null.
        windows: by name `[R, T, W]`, what was taken at each of the W steps up to those: lists in
            the rows, to `_DIGITS` digits.
    """

    steps: Sequence[int]
    scalars: Mapping[str, Tensor]
    windows: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self, name: str, runs: int) -> None:
        """Raises unless every scalar is `[runs, T]`, and every window `[runs, T, W]`."""
        expected = [runs, len(self.steps)]
        for scalar, values in {**self.scalars, **self.windows}.items():
            shape = list(values.shape)
            if shape[:2] != expected or len(shape) != 2 + (scalar in self.windows):
                raise InputError(
                    f"Study: scalar {scalar!r} of series {name!r} must have shape "
                    f"{expected}, got {shape}"
                )


def to_arrays(series: Mapping[str, Series]) -> Arrays:
    """One array a scalar or window, `NAME/SCALAR`, and the steps as `NAME/steps`."""
    arrays: Arrays = {}
    for name, one in series.items():
        arrays[f"{name}{_JOIN}steps"] = np.asarray(one.steps, dtype=np.int64)
        for scalar, values in {**one.scalars, **one.windows}.items():
            arrays[f"{name}{_JOIN}{scalar}"] = values.detach().cpu().numpy()
    return arrays


def from_arrays(arrays: Arrays) -> tuple[dict[str, Series], dict[str, Tensor]]:
    """The series in a part's file, and the arrays that belong to none."""
    steps: dict[str, list[int]] = {}
    scalars: dict[str, dict[str, Tensor]] = {}
    windows: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, values in arrays.items():
        name, joined, scalar = key.partition(_JOIN)
        if not joined:
            others[key] = torch.from_numpy(values)
        elif scalar == "steps":
            steps[name] = values.tolist()
        else:
            kind = scalars if values.ndim == 2 else windows
            kind.setdefault(name, {})[scalar] = torch.from_numpy(values)
    series = {
        name: Series(taken, scalars.get(name, {}), windows.get(name, {}))
        for name, taken in steps.items()
    }
    return series, others


def rows(place: int, series: Mapping[str, Series]) -> Iterator[tuple[int, dict[str, float | None]]]:
    """(step, scalars by name) of the run in that place, series by series, by name."""
    for _, one in sorted(series.items()):  # a part's file does not keep another order
        columns = {name: values[place].tolist() for name, values in sorted(one.scalars.items())}
        for t, step in enumerate(one.steps):
            yield step, {name: finite(column[t]) for name, column in columns.items()}


def lines(runs: Sequence[Label], series: Mapping[str, Series]) -> Iterator[str]:
    """One JSON object for each run and step: the run's label, the step, the scalars."""
    for place, label in enumerate(runs):
        windows = _windows(place, series)
        for (step, scalars), lists in zip(rows(place, series), windows, strict=True):
            yield json.dumps({**label, "step": step, **scalars, **lists}, allow_nan=False) + "\n"


def _windows(place: int, series: Mapping[str, Series]) -> Iterator[dict[str, list[float | None]]]:
    """The windows of the run in that place, in the order of `rows`."""
    for _, one in sorted(series.items()):
        for t in range(len(one.steps)):
            yield {
                name: [finite(float(f"{value:.{_DIGITS}g}")) for value in values[place, t].tolist()]
                for name, values in sorted(one.windows.items())
            }


def finite(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if math.isfinite(value) else None
