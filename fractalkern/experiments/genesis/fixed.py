"""Trains one part of the controlled study: own held-out operands a seed, scored while training."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fractalkern.ensemble import AdamW, Data, Ensemble, View
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.evaluate import answer_scores
from fractalkern.experiments.genesis.problems import drawn, split
from fractalkern.experiments.genesis.runs import Run, start
from fractalkern.experiments.genesis.texts import Texts, encode, longest
from fractalkern.experiments.genesis.tokenizer import Tokenizer
from fractalkern.experiments.study import Series
from fractalkern.experiments.token_loss import spoken_loss

# Of the training texts, one in so many is scored.
_TRAIN_STRIDE = 8
# What the logits of a scoring may take.
_SCORING_BYTES = 256 * 2**20

Stacks = dict[str, tuple[Tensor, Tensor]]  # name -> tokens and answers, each [S, N, T]


def train(
    config: GenesisConfig,
    runs: Sequence[Run],
    tokenizer: Tokenizer,
    checkpoint: Path | None = None,
    title: str | None = None,
) -> tuple[dict[str, Series], dict[str, Tensor]]:
    """The scalars of the runs, with the loss of every step up to the last evaluation."""
    vocabulary = config.vocabulary or tokenizer.size
    length = longest(tokenizer)
    seeds = sorted({run.seed for run in runs})
    of_run = torch.tensor([seeds.index(run.seed) for run in runs])
    sets = [_texts(config, seed, tokenizer, length) for seed in seeds]
    training = [one["train"] for one in sets]
    tokens, spoken = (
        torch.stack([getattr(texts, name) for texts in training]) for name in ("tokens", "spoken")
    )
    ensemble = Ensemble(
        lambda place: start(config, runs[place], vocabulary),
        spoken_loss,
        AdamW(lr=[run.rate for run in runs], weight_decay=config.weight_decay),
        seeds=[run.seed for run in runs],
        clip_norm=config.clip_norm,
        device=config.device,
    )
    result = ensemble.fit(
        Data(tokens, spoken, of_run=of_run, batch_size=config.batch),
        config.steps,
        metrics=_metrics(_stacked(sets, config.device), of_run, vocabulary),
        every=config.every,
        progress=title,
        checkpoint=checkpoint,
        config=dataclasses.asdict(config),
    )
    whole = result.losses[:, : len(result.times) * config.every]
    windows = whole.reshape(len(runs), -1, config.every)
    scalars = {"loss": windows.mean(-1)}
    for name in (f"{texts}_{score}" for texts in sets[0] for score in ("exact", "loss")):
        # Where all runs were frozen before the first evaluation there are none.
        absent = torch.full(windows.shape[:2], torch.nan, dtype=torch.float64)
        scalars[name] = result.metrics.get(name, absent)
    return {"measured": Series(result.times, scalars, {"losses": windows})}, {}


def _texts(config: GenesisConfig, seed: int, tokenizer: Tokenizer, length: int) -> dict[str, Texts]:
    parts = split(seed)
    problems = {
        "train": drawn(parts.train, config.texts, seed),
        "validation": parts.validation,
        "test": parts.test,
        "outside": parts.outside,
    }
    return {name: encode(some, tokenizer, length) for name, some in problems.items()}


def _stacked(sets: Sequence[dict[str, Texts]], device: str) -> Stacks:
    stacks = {}
    for name in sets[0]:
        step = _TRAIN_STRIDE if name == "train" else 1
        stacks[name] = (
            torch.stack([one[name].tokens[::step] for one in sets]).to(device),
            torch.stack([one[name].answers[::step] for one in sets]).to(device),
        )
    return stacks


def _metrics(
    stacks: Stacks, of_run: Tensor, vocabulary: int
) -> Callable[[View], Mapping[str, Tensor]]:
    """Share of exact answers and their tokens' mean loss, for each of the sets of texts."""

    def measure(view: View) -> dict[str, Tensor]:
        values = {}
        for name, (tokens, answers) in stacks.items():
            mine = of_run[view.runs].to(tokens.device)
            row_bytes = len(mine) * tokens.shape[2] * vocabulary * 8
            size = max(1, _SCORING_BYTES // row_bytes)
            scores = [
                view.apply(answer_scores, some[mine], which[mine], own=True)
                for some, which in zip(
                    torch.split(tokens, size, 1), torch.split(answers, size, 1), strict=True
                )
            ]
            exact, loss = (torch.cat(part, dim=1) for part in zip(*scores, strict=True))
            values[f"{name}_exact"] = exact.double().mean(dim=1)
            values[f"{name}_loss"] = loss.mean(dim=1)
        return values

    return measure
