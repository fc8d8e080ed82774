"""Trains the arms of a study into a run folder."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fractalkern.ensemble import Adam, BinaryCrossEntropy, CrossEntropy, Data, Ensemble
from fractalkern.ensemble.result import Result
from fractalkern.experiments.criticality import figures, report
from fractalkern.experiments.criticality.arms import Arm, arms_of
from fractalkern.experiments.criticality.boundaries import last_dimension
from fractalkern.experiments.criticality.config import CriticalityConfig, Setting
from fractalkern.experiments.criticality.findings import find
from fractalkern.experiments.criticality.metrics import Metrics
from fractalkern.experiments.criticality.model import Layers, affine_layers, network
from fractalkern.experiments.criticality.penalty import SigmaPenalty
from fractalkern.experiments.criticality.tasks import data_sets, task_named
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.study import Part, Series, Study, Tracker

KIND = "criticality"
_RUNS_OF_A_PART = 40


@dataclass(frozen=True)
class Run:
    """One network to train."""

    number: int
    setting: Setting
    arm: Arm
    rate: float
    seed: int

    def label(self) -> dict[str, object]:
        """What rows of runs.jsonl begin with."""
        return {
            "run": self.number,
            "setting": self.setting.name,
            "arm": self.arm.name,
            "rate": self.rate,
            "seed": self.seed,
        }


def run(config: CriticalityConfig, out: Path, tracker: Tracker | None = None) -> str:
    """Computes what `out` lacks, writes the files of `study.Study` and figures, returns the report.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold this study.
        KeyboardInterrupt: after saying how to go on; finished parts are kept.
    """
    config.checked()
    for setting in config.settings:  # data that are absent are known of before anything is trained
        data_sets(task_named(setting.task), [0], config.samples, config.noise, config.shares)
    plan = parts(config)
    named = [Part(_name(runs), tuple(run.label() for run in runs)) for runs in plan]
    with Study(out, KIND, config, named, tracker=tracker) as study:
        for number in study.missing():
            started = time.perf_counter()
            title = f"{KIND} part {number + 1} of {len(plan)}"
            series, arrays = train(config, plan[number], study.checkpoint(number), title)
            study.commit(number, series, arrays, time.perf_counter() - started)
        found = find(config, study)
        text = report.text(config, found)
        pictures = figures.all_of(config, found)
        study.finish(report.summary(config, found, study), text, pictures)
        return text


def parts(config: CriticalityConfig) -> list[list[Run]]:
    """All runs, in parts of one setting and one shape of module."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for number, (setting, arm, rate, seed) in enumerate(_all_runs(config)):
        key = (setting, arm.shape, arm.learnable)
        groups.setdefault(key, []).append(Run(number, setting, arm, rate, seed))
    return [
        group[start : start + _RUNS_OF_A_PART]
        for group in groups.values()
        for start in range(0, len(group), _RUNS_OF_A_PART)
    ]


def _all_runs(config: CriticalityConfig) -> Iterator[tuple[Setting, Arm, float, int]]:
    for setting in config.settings:
        for arm in arms_of(config):
            for rate in config.rates:
                for seed in config.seed_list:
                    yield setting, arm, rate, seed


def _name(runs: list[Run]) -> str:
    return f"{runs[0].setting.name}: runs {runs[0].number} to {runs[-1].number}"


def train(
    config: CriticalityConfig,
    runs: list[Run],
    checkpoint: Path | None = None,
    title: str | None = None,
) -> tuple[dict[str, Series], dict[str, Tensor]]:
    """Trains the runs of one part; their scalars, and what the report looks at besides.

    Training that takes minutes keeps its state in the file `checkpoint` and goes on from it. With
    a title its progress is shown.
    """
    setting, arms = runs[0].setting, [run.arm for run in runs]
    task, published = task_named(setting.task), config.protocol == "published"
    data = data_sets(task, config.seed_list, config.samples, config.noise, config.shares)
    data = data.to(config.device)
    of_run = torch.tensor([config.seed_list.index(run.seed) for run in runs])
    penalty = SigmaPenalty(arms, setting.depth, config.epochs)
    metrics = Metrics(
        *(task, data, config.seed_list, of_run, arms[0], setting.depth, config.grid, published)
    )

    def build(place: int) -> nn.Module:
        return network(arms[place], task.dims, setting.depth, setting.width, task.logits)

    rates, decays = [run.rate for run in runs], [run.arm.weight_decay for run in runs]
    ensemble = Ensemble(
        build,
        BinaryCrossEntropy() if task.logits == 1 else CrossEntropy(),
        Adam(lr=rates, weight_decay=decays),
        seeds=[run.seed for run in runs],
        penalty=penalty if penalty.needed else None,
        device=config.device,
    )
    x, y = data.train
    result = ensemble.fit(
        Data(x, y.float() if task.logits == 1 else y, of_run=of_run),
        config.epochs,
        metrics=metrics,
        every=config.every,
        progress=title,
        checkpoint=checkpoint,
        config={"settings": to_toml(config), "runs": [run.label() for run in runs]},
    )
    arrays: dict[str, Tensor] = {}
    if config.study == "baseline":
        layers = affine_layers(result.parameters, result.buffers, arms[0], setting.depth)
        arrays = _ends(config, metrics, layers)
    return _series(result, config.epochs), arrays


def _series(result: Result, epochs: int) -> dict[str, Series]:
    """Of every step, and of every measurement."""
    every_step = {"loss": result.losses, **result.scalars}
    return {
        "training": Series(list(range(1, epochs + 1)), every_step),
        "measured": Series(result.times, result.metrics),
    }


def _ends(config: CriticalityConfig, metrics: Metrics, layers: Layers) -> dict[str, Tensor]:
    """Of the trained networks: weights, what they say on the grid, their boundaries' dimensions."""
    flat = torch.cat([tensor.flatten(1) for layer in layers for tensor in layer], dim=1)
    arrays = {"weights": flat}
    with torch.no_grad():
        grid = metrics.grid_logits(layers)
    if grid is None:
        return arrays
    arrays["grid"] = grid
    if config.null_draws and config.protocol == "fixed":
        found = [last_dimension(one, config.null_draws) for one in grid]
        rows = [
            [float("nan")] * 4
            if one is None
            else [float(t) for t in (one.dimension, one.ci_low, one.ci_high, one.p_value)]
            for one in found
        ]
        arrays["dimensions"] = torch.tensor(rows, dtype=torch.float64)
    return arrays
