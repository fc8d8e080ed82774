"""The joint training of all sub-models, and that of twins: models of a level's width alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fractalkern.ensemble import AdamW, Data, Ensemble, Result, Schedule
from fractalkern.experiments.fractalformer.config import FractalFormerConfig, SubModel
from fractalkern.experiments.fractalformer.corpus import Corpus
from fractalkern.experiments.fractalformer.model import FractalFormer
from fractalkern.experiments.study import Series

Model = Callable[..., Any]

_WARMUP = 20  # of so many parts of the steps, one
_PROMPT, _SAID = 24, 40  # characters of a sample: most given, and added


@dataclass(frozen=True)
class Job:
    """Runs of one kind that are trained together: the whole model, or the twins of a level."""

    level: int | None
    runs: tuple[int, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """For people."""
        what = "joint" if self.level is None else f"twins of level {self.level}"
        return f"{what}, seeds {self.seeds[0]} to {self.seeds[-1]}"

    def labels(self) -> tuple[dict[str, object], ...]:
        """What the rows of runs.jsonl begin with."""
        kind: dict[str, object] = (
            {"kind": "joint"} if self.level is None else {"kind": "twin", "level": self.level}
        )
        return tuple(
            {"run": run, **kind, "seed": seed}
            for run, seed in zip(self.runs, self.seeds, strict=True)
        )


def jobs(config: FractalFormerConfig) -> list[Job]:
    """The joint runs; with the fixed protocol a twin for each level and seed.

    The sub-models of a level are of one size and see the same tokens, so independent twins of
    theirs would differ by the seed alone: one a seed stands for all of them.
    """
    levels = [None, *(range(config.levels) if config.protocol == "fixed" else ())]
    seeds = range(config.seed, config.seed + config.seeds)
    found: list[Job] = []
    count = 0
    for level in levels:
        for start in range(0, len(seeds), config.group):
            some = tuple(seeds[start : start + config.group])
            found.append(Job(level, tuple(range(count, count + len(some))), some))
            count += len(some)
    return found


def build(config: FractalFormerConfig, vocabulary: int, level: int | None = None) -> FractalFormer:
    """The whole model, or a twin of the sub-models of a level."""
    return FractalFormer(
        vocabulary,
        config.context,
        config.width_of(level or 0),
        config.heads,
        config.layers,
        config.levels if level is None else 1,
        scaled=config.scaled,
        first_output_norm=config.protocol == "published",
        dropout=config.dropout,
    )


def losses(model: Model, windows: Tensor, level: int, one: int | None = None) -> Tensor:
    """Mean cross-entropy in nats of `windows` `[B, T + 1]` behind their first, for each sub-model.

    Returns:
        `[2^level]`, or a scalar of sub-model `one`.
    """
    logits = model(windows[:, :-1], level, one)
    targets = windows[:, 1:].expand(logits.shape[:-1])
    found = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return found.view(*logits.shape[:-3], -1).mean(dim=-1)


def joint_loss(config: FractalFormerConfig, model: Model, windows: Tensor) -> Tensor:
    """The weighted sum over all sub-models that have a loss.

    The original computes each of its losses once a level; without dropout they are equal, so each
    is computed once here and counted as often.
    """
    total = windows.new_zeros((), dtype=torch.float32)
    for level in range(config.levels):
        weights = [config.weight((level, number)) for number in range(2**level)]
        if all(weights):
            total = total + weights[0] * losses(model, windows, level).sum()
        else:
            for number, weight in enumerate(weights):
                if weight:
                    total = total + weight * losses(model, windows, level, number)
    return total


def evaluated(model: Model, probes: Tensor, levels: int) -> Tensor:
    """Losses `[2, S]` of all sub-models, level by level, on `probes` `[2, P, T + 1]`."""
    found = []
    for windows in probes:
        each = [losses(model, windows, level) for level in range(levels)]
        found.append(torch.cat(each))
    return torch.stack(found)


def train(
    config: FractalFormerConfig,
    corpus: Corpus,
    job: Job,
    title: str | None = None,
    checkpoint: Path | None = None,
) -> tuple[Series, dict[str, Tensor]]:
    """Losses of the job's runs over time, and samples of all sub-models of its first run.

    Scalars are train_L_M and validation_L_M of sub-model (L, M), of a twin train and validation,
    always in evaluation mode; NaN from where a run was not finite.
    """
    train_text, context = corpus.train.to(config.device), config.context
    offsets = torch.arange(context + 1, device=config.device)
    probes = corpus.probes().to(config.device)
    levels = config.levels if job.level is None else 1

    def loss(model: Model, places: Tensor) -> Tensor:
        windows = train_text[places[:, None] + offsets]
        if job.level is None:
            return joint_loss(config, model, windows)
        return losses(model, windows, 0, 0)

    ensemble = Ensemble(
        lambda run: build(config, len(corpus.alphabet), job.level),
        loss,
        AdamW(lr=config.learning_rate, weight_decay=config.weight_decay),
        seeds=job.seeds,
        schedule=_schedule(config),
        device=config.device,
    )
    result = ensemble.fit(
        # Each epoch of a run passes all places of the text, in an order by its seed.
        Data(torch.arange(corpus.places), batch_size=config.batch),
        config.steps,
        metrics=lambda view: {
            "probes": view.apply(lambda model, x: evaluated(model, x, levels), probes)
        },
        every=config.every,
        at_start=True,
        progress=title,
        checkpoint=checkpoint,
        config={"job": job.name, "protocol": config.protocol},
    )
    series = Series(result.times, _named(config, job, result.metrics["probes"].double()))
    return series, {} if job.level is not None else {"samples": _samples(config, corpus, result)}


def _named(config: FractalFormerConfig, job: Job, curves: Tensor) -> dict[str, Tensor]:
    """`curves` `[R, times, 2, S]` by scalar."""
    return {
        scalar_name(part, submodel): curves[:, :, row, column]
        for row, part in enumerate(("train", "validation"))
        for column, submodel in enumerate(config.submodels if job.level is None else [None])
    }


def scalar_name(part: str, submodel: SubModel | None) -> str:
    """Of the loss on a part of the text, of a sub-model or of a twin."""
    return part if submodel is None else f"{part}_{submodel[0]}_{submodel[1]}"


def _schedule(config: FractalFormerConfig) -> Schedule | None:
    if config.schedule == "constant":
        return None
    return Schedule("cosine", steps=config.steps, warmup=config.steps // _WARMUP)


def _samples(config: FractalFormerConfig, corpus: Corpus, result: Result) -> Tensor:
    """The likeliest continuations by each sub-model of the first run, int64 `[S, T]`."""
    module = build(config, len(corpus.alphabet)).eval()
    module.load_state_dict({name: stack[0] for name, stack in result.parameters.items()})
    given = corpus.validation[: prompt_length(config)]
    return torch.stack([continued(module, given, submodel, _SAID) for submodel in config.submodels])


def prompt_length(config: FractalFormerConfig) -> int:
    """Characters of a sample that are given."""
    return min(_PROMPT, config.context)


def continued(model: FractalFormer, given: Tensor, submodel: SubModel, count: int) -> Tensor:
    """`given` `[T]` and `count` further tokens, each the likeliest behind the last `context`."""
    context = model.mask.shape[0]
    tokens = given
    with torch.no_grad():
        for _ in range(count):
            logits = model(tokens[None, -context:], *submodel)[0, -1]
            tokens = torch.cat((tokens, logits.argmax()[None]))
    return tokens
