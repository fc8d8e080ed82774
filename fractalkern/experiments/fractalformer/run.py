"""Trains the whole models and their twins into a run folder."""

import time
from pathlib import Path

from fractalkern.experiments.fractalformer import figures, report
from fractalkern.experiments.fractalformer.config import FractalFormerConfig
from fractalkern.experiments.fractalformer.corpus import corpus
from fractalkern.experiments.fractalformer.findings import find
from fractalkern.experiments.fractalformer.training import jobs, train
from fractalkern.experiments.study import Part, Study, Tracker

KIND = "fractalformer"


def run(config: FractalFormerConfig, out: Path, tracker: Tracker | None = None) -> str:
    """Computes what `out` lacks, writes the files of `study.Study` and a figure; the report.

    Args:
        config: what to train; `checked()`.
        out: the run folder; a part that was stopped goes on from its last checkpoint.
        tracker: where the scalars go besides.

    Raises:
        InputError: the folder cannot be used; a text that cannot be read or is too short.
        KeyboardInterrupt: interrupted; what is finished is kept.
    """
    texts = corpus(config)
    plan = jobs(config)
    parts = [Part(job.name, job.labels()) for job in plan]
    with Study(out, KIND, config, parts, inputs=texts.inputs, tracker=tracker) as study:
        for number in study.missing():
            started = time.perf_counter()
            title = f"{KIND} {config.protocol}, {plan[number].name}"
            series, arrays = train(config, texts, plan[number], title, study.checkpoint(number))
            study.commit(number, {"run": series}, arrays, time.perf_counter() - started)
        loaded = [study.load(number) for number in range(len(plan))]
        findings = find(config, texts.by_frequency(), [series["run"] for series, _ in loaded])
        said = report.samples(config, texts, loaded[0][1]["samples"])
        text = report.text(config, findings, texts, said)
        pictures = {"losses.png": figures.losses(config, findings)}
        study.finish(report.summary(config, findings, study), text, pictures)
    return text
