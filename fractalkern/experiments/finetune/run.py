"""Trains the model before the grid and the runs of the grid into a run folder."""

import time
from pathlib import Path

import torch

from fractalkern.experiments.finetune import figures, report
from fractalkern.experiments.finetune.config import FinetuneConfig
from fractalkern.experiments.finetune.corpus import corpus
from fractalkern.experiments.finetune.findings import find
from fractalkern.experiments.finetune.training import Cell, cells, pretrain, train
from fractalkern.experiments.study import Part, Series, Study, Tracker

KIND = "finetune"


def run(config: FinetuneConfig, out: Path, tracker: Tracker | None = None) -> str:
    """Computes what `out` lacks, writes the files of `study.Study` and figures, returns the report.

    Part 0 is the model before the grid, the others are runs of the grid.

    Args:
        config: what to train; `checked()`.
        out: the run folder.
        tracker: where the scalars go besides.

    Raises:
        InputError: the folder cannot be used; a text that cannot be read.
        KeyboardInterrupt: interrupted; what is finished is kept.
    """
    texts = corpus(config)
    everything = cells(config)
    groups = [everything[i : i + config.group] for i in range(0, len(everything), config.group)]
    parts = [Part("the model before", ()), *map(_part, groups)]
    with Study(out, KIND, config, parts, inputs=texts.inputs, tracker=tracker) as study:
        for number in study.missing():
            started = time.perf_counter()
            title = f"{KIND} part {number} of {len(groups)}"
            if number == 0:
                start = pretrain(config, texts, f"{KIND}, the model before the grid")
                study.commit(0, {}, start, time.perf_counter() - started)
                continue
            start = study.load(0)[1]
            series = train(config, texts, start, groups[number - 1], title)
            study.commit(number, {"run": series}, {}, time.perf_counter() - started)
        found = [study.load(number)[0]["run"] for number in range(1, len(parts))]
        scalars = {
            name: torch.cat([one.scalars[name] for one in found]) for name in found[0].scalars
        }
        findings = find(config, Series(found[0].steps, scalars), everything)
        text = report.text(config, findings, texts)
        pictures = {"grids.png": figures.grids(config, findings)}
        study.finish(report.summary(config, findings, study), text, pictures)
    return text


def _part(group: list[Cell]) -> Part:
    name = f"runs {group[0].number} to {group[-1].number}"
    return Part(name, tuple(cell.label() for cell in group))
