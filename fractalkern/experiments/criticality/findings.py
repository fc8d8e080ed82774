"""What the runs of a study say: each arm at its best rate, beside no regularisation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fractalkern.experiments.criticality.config import CriticalityConfig
from fractalkern.experiments.statistics import Comparison, compare
from fractalkern.experiments.study import Study

OUTCOMES = ("test_accuracy", "test_nll")
Key = tuple[str, str, float]  # setting, arm, rate


@dataclass(frozen=True, eq=False)
class Row:
    """An arm in a setting, at the rate of the least mean validation loss.

    Attributes:
        setting: its name.
        arm: its name.
        rate: the one that was chosen.
        last: the last measurement by name `[seeds]`; NaN where a run was frozen.
        curves: all measurements by name `[seeds, T]`.
        comparisons: by outcome, against no regularisation; none for that arm itself.
    """

    setting: str
    arm: str
    rate: float
    last: Mapping[str, Tensor]
    curves: Mapping[str, Tensor]
    comparisons: dict[str, Comparison]

    @property
    def frozen(self) -> int:
        """Runs that turned non-finite."""
        return int((~self.last["test_nll"].isfinite()).sum())

    def mean(self, name: str) -> float:
        """Over the seeds whose run was not frozen; NaN if the metric was not taken."""
        return float(self.last[name].nanmean()) if name in self.last else math.nan

    def spread(self, name: str) -> float:
        """Standard deviation over the same seeds."""
        values = self.last[name][self.last[name].isfinite()]
        return float(values.std()) if len(values) > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Findings:
    """Of a study.

    Attributes:
        rows: an arm in a setting each, in the order of the study.
        times: epochs of the measurements.
        same_weights: largest difference of a final weight between the arms of a seed, where they
            were kept and are finite; None otherwise.
        dimensions: the last boundary of each run by (arm, seed): estimate, interval, p; where made.
        grids: logits on the window by (arm, seed), `[side, side]`, where kept.
    """

    rows: list[Row]
    times: list[int]
    same_weights: float | None
    dimensions: dict[tuple[str, int], list[float]]
    grids: dict[tuple[str, int], Tensor]

    def row(self, arm: str, setting: str | None = None) -> Row:
        """That of an arm, in the first setting by default."""
        return next(r for r in self.rows if r.arm == arm and setting in (None, r.setting))


def find(config: CriticalityConfig, study: Study) -> Findings:
    """Reads the finished study."""
    curves, every_end, times = _read(study)
    rows = []
    for setting in dict.fromkeys(key[0] for key in curves):
        for arm in dict.fromkeys(key[1] for key in curves if key[0] == setting):
            rates = [key[2] for key in curves if key[:2] == (setting, arm)]
            rate = min(rates, key=lambda r: _validation(curves[setting, arm, r]))
            mine = curves[setting, arm, rate]
            last = {name: values[:, -1] for name, values in mine.items()}
            rows.append(Row(setting, arm, rate, last, mine, {}))
    _compare(rows)
    chosen = {(row.arm, row.rate) for row in rows}
    ends = {(k.arm, k.seed): a for k, a in every_end.items() if (k.arm, k.rate) in chosen}
    weights: dict[int, list[Tensor]] = {}
    for (_, seed), arrays in ends.items():
        if "weights" in arrays and arrays["weights"].isfinite().all():
            weights.setdefault(seed, []).append(arrays["weights"])
    differences = [(w - mine[0]).abs().max() for mine in weights.values() for w in mine[1:]]
    return Findings(
        rows,
        times,
        float(torch.stack(differences).max()) if differences else None,
        {k: a["dimensions"].tolist() for k, a in ends.items() if "dimensions" in a},
        {k: a["grid"] for k, a in ends.items() if "grid" in a},
    )


Curves = dict[Key, dict[str, Tensor]]


class _End(NamedTuple):
    """A run of the one setting whose ends are kept."""

    arm: str
    rate: float
    seed: int


def _read(study: Study) -> tuple[Curves, dict[_End, dict[str, Tensor]], list[int]]:
    """Measurements by (setting, arm, rate), seeds in order; arrays of each run; times."""
    values: dict[Key, list[tuple[int, dict[str, Tensor]]]] = {}
    ends: dict[_End, dict[str, Tensor]] = {}
    times: list[int] = []
    for number, part in enumerate(study.parts):
        series, arrays = study.load(number)
        times = list(series["measured"].steps)
        for place, label in enumerate(part.runs):
            arm, seed, rate = str(label["arm"]), int(str(label["seed"])), float(str(label["rate"]))
            mine = {n: v[place].double() for n, v in series["measured"].scalars.items()}
            for name, trained in series["training"].scalars.items():
                if name == "penalty":
                    mine[name] = trained[place, [t - 1 for t in times]].double()
            values.setdefault((str(label["setting"]), arm, rate), []).append((seed, mine))
            ends[_End(arm, rate, seed)] = {name: array[place] for name, array in arrays.items()}
    curves: Curves = {}
    for key, found in sorted(values.items(), key=lambda item: _place(study, item[0])):
        runs = [mine for _, mine in sorted(found, key=lambda pair: pair[0])]
        names = dict.fromkeys((*OUTCOMES, *(name for run in runs for name in run)))
        # A part whose runs were all frozen before the first measurement has none.
        none = torch.full((len(times),), math.nan, dtype=torch.float64)
        curves[key] = {n: torch.stack([run.get(n, none) for run in runs]) for n in names}
    return curves, ends, times


def _place(study: Study, key: Key) -> int:
    """The number of the first run of a key: the order of the study."""
    return min(
        int(str(label["run"]))
        for part in study.parts
        for label in part.runs
        if (label["setting"], label["arm"], label["rate"]) == key
    )


def _validation(curves: Mapping[str, Tensor]) -> float:
    """What a rate is chosen by: a frozen run rules it out."""
    if "validation_nll" not in curves:
        return 0.0
    value = float(curves["validation_nll"][:, -1].mean())
    return value if math.isfinite(value) else math.inf


def _compare(rows: list[Row]) -> None:
    """All arms against no regularisation, both outcomes, as one family."""
    controls = {row.setting: row for row in rows if row.arm == "none"}
    family, whose = {}, []
    for row in rows:
        for outcome in OUTCOMES:
            mine, theirs = row.last[outcome], controls[row.setting].last[outcome]
            pairs = mine.isfinite() & theirs.isfinite()
            if row.arm != "none" and int(pairs.sum()) >= 2:
                name = f"{row.setting} {row.arm} {outcome}"
                family[name] = (mine[pairs].tolist(), theirs[pairs].tolist())
                whose.append((row, outcome))
    for (row, outcome), comparison in zip(whose, compare(family), strict=True):
        row.comparisons[outcome] = comparison
