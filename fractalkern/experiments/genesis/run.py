"""Trains the runs of a study into a run folder."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from fractalkern.experiments.genesis import (
    figures,
    fixed,
    published,
    published_report,
    report,
)
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.findings import find
from fractalkern.experiments.genesis.runs import Run, parts
from fractalkern.experiments.genesis.saved import model_files
from fractalkern.experiments.genesis.texts import everything
from fractalkern.experiments.genesis.tokenizer import Tokenizer, tokenizer_of
from fractalkern.experiments.study import Part, Study, Tracker

KIND = "genesis"


def run(config: GenesisConfig, out: Path, tracker: Tracker | None = None) -> str:
    """Computes what `out` lacks, writes the files of `study.Study` and figures, returns the report.

    fixed: study.png. published: in the original's form deep_genesis_training_results.json,
    learning_dynamics.png and a folder an arm with its model and tokenizer, of the first seed; of
    others with the seed in the name.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold this study.
        KeyboardInterrupt: after saying how to go on; finished parts are kept, and an unfinished one
            goes on from its last checkpoint.
    """
    config.checked()
    tokenizer = tokenizer_of(config.tokenizer, everything(), config.vocabulary)
    plan = parts(config)
    named = [Part(_name(runs), tuple(run.label() for run in runs)) for runs in plan]
    if config.protocol == "published":
        tokenizer.files()  # what cannot be saved is known of before anything is trained
    with Study(out, KIND, config, named, tracker=tracker) as study:
        for number in study.missing():
            started = time.perf_counter()
            title = f"{KIND} part {number + 1} of {len(plan)}"
            place = study.checkpoint(number)
            files: Iterable[tuple[str, bytes]] = ()
            if config.protocol == "fixed":
                series, arrays = fixed.train(config, plan[number], tokenizer, place, title)
            else:
                series, arrays, parameters = published.train(
                    config, plan[number], tokenizer, place, title
                )
                files = model_files(config, plan[number], parameters, tokenizer)
            study.commit(number, series, arrays, time.perf_counter() - started, files)
        if config.protocol == "published":
            return _finish_published(config, study, plan, tokenizer)
        return _finish_fixed(config, study, tokenizer)


def _name(runs: list[Run]) -> str:
    return f"runs {runs[0].number} to {runs[-1].number}"


def _finish_fixed(config: GenesisConfig, study: Study, tokenizer: Tokenizer) -> str:
    found = find(config, study, config.vocabulary or tokenizer.size)
    text = report.text(config, found, tokenizer.size)
    pictures = {"study.png": figures.study(config, found)}
    study.finish(report.summary(config, found, study), text, pictures)
    return text


def _finish_published(
    config: GenesisConfig, study: Study, plan: list[list[Run]], tokenizer: Tokenizer
) -> str:
    records, files = {}, {}
    for number, runs in enumerate(plan):
        series, arrays = study.load(number)
        record = published.record(runs, series["measured"], arrays["finals"], tokenizer)
        records[runs[0].seed] = record
        suffix = f"-{runs[0].seed}" if number else ""
        content = json.dumps(record, indent=2, allow_nan=False).encode()
        files[f"deep_genesis_training_results{suffix}.json"] = content
        files[f"learning_dynamics{suffix}.png"] = figures.learning_dynamics(config, record)
    text = published_report.text(config, records)
    numbers = published_report.summary(config, records)
    steps = len(config.arms) * config.seeds * config.steps
    numbers["run_steps_per_second"] = steps / max(study.compute_seconds(), 1e-9)
    numbers["seconds"] = study.seconds()
    study.finish(numbers, text, files)
    return text
