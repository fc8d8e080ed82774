"""What the runs say: final losses of the sub-models, and how far they are from their twins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fractalkern.experiments.fractalformer.config import FractalFormerConfig, SubModel
from fractalkern.experiments.fractalformer.training import Job, jobs, scalar_name
from fractalkern.experiments.statistics import Comparison, compare
from fractalkern.experiments.study import Series

Key = TypeVar("Key", SubModel, int)


@dataclass(frozen=True, eq=False)
class Findings:
    """Losses in nats a character; NaN where a run was not finite.

    Attributes:
        steps: those of the evaluations, 0 the first.
        validation: by sub-model `[seeds, times]`.
        train: by sub-model `[seeds, times]`, on windows of the text that is trained on.
        twins: by level `[seeds, times]`, on the validation text; empty without twins.
        by_frequency: what guessing by the frequencies of characters alone costs.
        gaps: each sub-model less its twin at the end, over seeds; empty with one seed, without
            twins, or if a run was not finite.
        level_gaps: the same of the mean over a level's sub-models.
    """

    steps: Sequence[int]
    validation: dict[SubModel, Tensor]
    train: dict[SubModel, Tensor]
    twins: dict[int, Tensor]
    by_frequency: float
    gaps: dict[SubModel, Comparison]
    level_gaps: dict[int, Comparison]

    def last(self, submodel: SubModel) -> list[float]:
        """Final validation losses, a seed each."""
        return _last(self.validation[submodel])

    def last_of_twins(self, level: int) -> list[float]:
        """Final validation losses of a level's twins, a seed each."""
        return _last(self.twins[level])


def find(config: FractalFormerConfig, by_frequency: float, found: Sequence[Series]) -> Findings:
    """Joins the series of all jobs, which are in the order of `training.jobs`."""
    plan = list(zip(jobs(config), found, strict=True))
    validation, train = (
        {one: _joined(plan, None, scalar_name(part, one)) for one in config.submodels}
        for part in ("validation", "train")
    )
    levels = sorted({job.level for job, _ in plan if job.level is not None})
    twins = {level: _joined(plan, level, scalar_name("validation", None)) for level in levels}
    pairs = {one: (_last(validation[one]), _last(twins[one[0]])) for one in validation if twins}
    means = {
        level: (
            torch.stack([v[:, -1] for one, v in validation.items() if one[0] == level])
            .mean(dim=0)
            .tolist(),
            _last(twin),
        )
        for level, twin in twins.items()
    }
    return Findings(
        steps=found[0].steps,
        validation=validation,
        train=train,
        twins=twins,
        by_frequency=by_frequency,
        gaps=_compared(pairs),
        level_gaps=_compared(means),
    )


def _compared(pairs: Mapping[Key, tuple[list[float], list[float]]]) -> dict[Key, Comparison]:
    values = [value for both in pairs.values() for side in both for value in side]
    if len(values) <= 2 * len(pairs) or not all(map(math.isfinite, values)):
        return {}
    names = {str(key): key for key in pairs}
    family = compare({str(key): both for key, both in pairs.items()})
    return {names[one.name]: one for one in family}


def _joined(plan: Sequence[tuple[Job, Series]], level: int | None, name: str) -> Tensor:
    return torch.cat([series.scalars[name] for job, series in plan if job.level == level])


def _last(curves: Tensor) -> list[float]:
    found: list[float] = curves[:, -1].tolist()
    return found
