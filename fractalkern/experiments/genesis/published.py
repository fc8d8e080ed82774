"""Trains the arms of the published protocol, and writes what the original writes.

Faithful: texts by its generator and another draw for each arm, padding that counts in the loss, its
learning rates, dropout, weight decay and clipping, and an evaluation every 50 steps that samples 5
tokens after four prompts and looks for the answer anywhere in them. Ours: all random numbers, which
the original did not key; all arms and prompts go at once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fractalkern import random
from fractalkern.ensemble import AdamW, Data, Ensemble, View
from fractalkern.experiments.genesis.config import PUBLISHED_LENGTH, GenesisConfig
from fractalkern.experiments.genesis.evaluate import (
    continued,
    published_loss,
    sampling_draws,
    until_end,
)
from fractalkern.experiments.genesis.problems import PUBLISHED, drawn_as_published
from fractalkern.experiments.genesis.runs import Run, start
from fractalkern.experiments.genesis.texts import Texts, encode
from fractalkern.experiments.genesis.tokenizer import Tokenizer
from fractalkern.experiments.study import Series
from fractalkern.experiments.token_loss import Model

NAMES = {"standard-all": "Standard", "genesis-all": "Genesis"}
_NEW_TOKENS = 5
_DATA_STREAM = 0x67656E40


def train(
    config: GenesisConfig,
    runs: Sequence[Run],
    tokenizer: Tokenizer,
    checkpoint: Path | None = None,
    title: str | None = None,
) -> tuple[dict[str, Series], dict[str, Tensor], dict[str, Tensor]]:
    """The scalars of the arms with every step's loss, the final answers' tokens; the
    trained parameters `[R, ...]`.
    """
    vocabulary = config.vocabulary or tokenizer.size
    texts = [_texts(config, run, tokenizer) for run in runs]
    keys = max(int(one.lengths.max()) for one in texts)
    tokens = torch.stack([one.tokens for one in texts])
    padding = torch.stack([one.padding for one in texts])
    prompts = prompts_of(tokenizer, config.device)

    def loss(model: Model, tokens: Tensor, padding: Tensor) -> Tensor:
        return published_loss(model, tokens, padding, keys)

    ensemble = Ensemble(
        lambda place: start(config, runs[place], vocabulary),
        loss,
        AdamW(lr=[run.rate for run in runs], weight_decay=config.weight_decay),
        seeds=[_data_seed(config, run) for run in runs],
        clip_norm=config.clip_norm,
        device=config.device,
    )
    result = ensemble.fit(
        Data(tokens, padding, of_run="own", batch_size=config.batch),
        config.steps,
        metrics=_metrics(prompts, runs, tokenizer),
        every=config.every,
        progress=title,
        checkpoint=checkpoint,
        config=dataclasses.asdict(config),
    )
    per_epoch = config.texts // config.batch
    losses = _logged(result.losses, result.times, per_epoch)
    # Where all arms were frozen before the first evaluation there is none.
    accuracy = result.metrics.get("accuracy", torch.full_like(losses, torch.nan))
    scalars = {"loss": losses, "accuracy": accuracy}
    finals = _finals(result.parameters, start(config, runs[0], vocabulary), prompts, runs, config)
    whole = result.losses[:, : len(result.times) * config.every]
    windows = {"losses": whole.reshape(len(runs), -1, config.every)}
    series = {"measured": Series(result.times, scalars, windows)}
    return series, {"finals": finals}, result.parameters


def record(
    runs: Sequence[Run], series: Series, finals: Tensor, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The content of deep_genesis_training_results.json, an entry an arm."""
    content = {}
    for place, run in enumerate(runs):
        responses, right = [], 0
        for problem, new in zip(PUBLISHED, finals[place].tolist(), strict=True):
            text = tokenizer.decode(until_end(new, tokenizer.end))
            right += _is_right(problem.answer, text)
            responses.append(
                {
                    "prompt": problem.prompt,
                    "response": problem.prompt + text,
                    "answer": text.strip(),
                }
            )
        content[NAMES.get(run.arm, run.arm)] = {
            "training_losses": _numbers(series.scalars["loss"][place]),
            "evaluation_accuracies": _numbers(series.scalars["accuracy"][place]),
            "steps": list(series.steps),
            "final_accuracy": right / len(PUBLISHED),
            "final_responses": responses,
        }
    return content


def _numbers(values: Tensor) -> list[float | None]:
    return [value if abs(value) < float("inf") else None for value in values.tolist()]


def _is_right(answer: str, continuation: str) -> bool:
    """The original's rule: 19 is right where 9 is expected."""
    return answer in continuation


def _data_seed(config: GenesisConfig, run: Run) -> int:
    place = config.arms.index(run.arm)
    return random.derived_seed(run.seed, place, stream=_DATA_STREAM)


def _texts(config: GenesisConfig, run: Run, tokenizer: Tokenizer) -> Texts:
    problems = drawn_as_published(config.texts, _data_seed(config, run))
    return encode(problems, tokenizer, PUBLISHED_LENGTH)


def prompts_of(tokenizer: Tokenizer, device: str) -> tuple[Tensor, Tensor]:
    """Tokens `[4, T]` with room for the new ones, and the prompts' lengths `[4]`."""
    tokens = [tokenizer.encode(problem.prompt) for problem in PUBLISHED]
    lengths = torch.tensor([len(prompt) for prompt in tokens])
    grid = torch.full((len(tokens), int(lengths.max()) + _NEW_TOKENS), tokenizer.end)
    for row, prompt in enumerate(tokens):
        grid[row, : len(prompt)] = torch.tensor(prompt)
    return grid.to(device), lengths.to(device)


def sampled(view: View, prompts: tuple[Tensor, Tensor], seeds: Sequence[int]) -> Tensor:
    """New tokens `[rows, 4, 5]` behind the prompts, of a view whose rows have these seeds."""
    draws = sampling_draws(seeds, view.step, len(PUBLISHED), _NEW_TOKENS).to(prompts[0].device)

    def forward(grown: Tensor, at: Tensor) -> Tensor:
        logits: Tensor = view.apply(lambda m, t, place: m(t, at=place), grown, at, own=True)
        return logits

    return continued(forward, *prompts, draws, _NEW_TOKENS)


def _metrics(
    prompts: tuple[Tensor, Tensor], runs: Sequence[Run], tokenizer: Tokenizer
) -> Callable[[View], Mapping[str, Tensor]]:
    """Accuracy on the four prompts."""

    def measure(view: View) -> dict[str, Tensor]:
        new = sampled(view, prompts, [runs[place].seed for place in view.runs.tolist()])
        return {"accuracy": torch.tensor([_accuracy(row, tokenizer) for row in new.tolist()])}

    return measure


def _accuracy(new: list[list[int]], tokenizer: Tokenizer) -> float:
    right = [
        _is_right(problem.answer, tokenizer.decode(until_end(tokens, tokenizer.end)))
        for problem, tokens in zip(PUBLISHED, new, strict=True)
    ]
    return sum(right) / len(right)


def _logged(losses: Tensor, times: Sequence[int], per_epoch: int) -> Tensor:
    """Means of the steps since the last evaluation, but of the current epoch only: `[R, times]`."""
    every = times[0]
    starts = [max(time - every, (time - 1) // per_epoch * per_epoch) for time in times]
    pieces = zip(starts, times, strict=True)
    return torch.stack([losses[:, start:time].mean(dim=1) for start, time in pieces], dim=1)


def _finals(
    parameters: Mapping[str, Tensor],
    model: torch.nn.Module,
    prompts: tuple[Tensor, Tensor],
    runs: Sequence[Run],
    config: GenesisConfig,
) -> Tensor:
    """New tokens `[R, 4, 5]` of one more evaluation after the training, with draws of its own."""
    model = model.eval()
    grid, lengths = (tensor.cpu() for tensor in prompts)
    draws = sampling_draws(
        [run.seed for run in runs], config.steps + 1, len(PUBLISHED), _NEW_TOKENS
    )

    @torch.no_grad()
    def forward(grown: Tensor, at: Tensor) -> Tensor:
        logits = []
        for row, (tokens, places) in enumerate(zip(grown, at, strict=True)):
            mine = {name: stack[row] for name, stack in parameters.items()}
            logits.append(functional_call(model, mine, (tokens,), {"at": places}))
        return torch.stack(logits)

    return continued(forward, grid, lengths, draws, _NEW_TOKENS)
