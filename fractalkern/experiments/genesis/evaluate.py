"""Losses and scores of one run; all are made for `torch.func.vmap`, so all runs go at once."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fractalkern import random
from fractalkern.experiments.token_loss import Model, next_token_losses

_SAMPLE_STREAM = 0x67656E30


def published_loss(model: Model, tokens: Tensor, padding: Tensor, keys: int) -> Tensor:
    """As published: padding is not looked at, but counts as a target like any text."""
    logits = model(tokens[:, :-1], padding[:, :-1], min(keys, tokens.shape[1] - 1))
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def answer_scores(model: Model, tokens: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """For each text `[N]`: is the greedy answer exactly right, and the mean loss of its tokens.

    The greedy continuation of a prompt is the answer and the end if and only if, with the true text
    before it, each of these tokens is the likeliest; so one pass takes the place of a generation.
    """
    logits = model(tokens[:, :-1])
    losses, counted = next_token_losses(logits, tokens, answers)
    right = (logits.argmax(-1) == tokens[:, 1:]) | ~answers[:, 1:]
    return right.all(dim=1), (losses * counted).sum(dim=1) / counted.sum(dim=1)


def continued(
    forward: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    prompts: Tensor,
    draws: Tensor | None,
    count: int,
    *,
    temperature: float = 0.1,
    top: int = 50,
) -> Tensor:
    """Continues all prompts of all runs together, by `count` tokens.

    Args:
        forward: tokens `[R, N, T]` and a place `[R, N]` in each to the logits `[R, N, V]` there.
        tokens: int64 `[N, T]`, prompts with room behind them.
        prompts: int64 `[N]`, their lengths.
        draws: uniform numbers `[R, N, count]`; None: the likeliest token each time, for one run.
        count: how many tokens.
        temperature: of the sampling.
        top: only so many likeliest tokens are sampled.

    Returns:
        The new tokens `[R, N, count]`.
    """
    runs = 1 if draws is None else len(draws)
    grown = tokens.expand(runs, *tokens.shape).clone()
    places = prompts.expand(runs, -1)
    longest = int(prompts.max())
    new = []
    for step in range(count):
        last = forward(grown[..., : longest + step], places + step - 1)
        token = last.argmax(-1) if draws is None else _sampled(
            last / temperature, draws[..., step], top
        )  # fmt: skip
        grown.scatter_(2, places[..., None] + step, token[..., None])
        new.append(token)
    return torch.stack(new, dim=-1)


def _sampled(logits: Tensor, draw: Tensor, top: int) -> Tensor:
    """A token of the `top` likeliest, by where `draw` falls in their summed probabilities."""
    best, tokens = logits.topk(min(top, logits.shape[-1]), dim=-1)
    sums = best.double().softmax(-1).cumsum(-1)
    place = (sums < draw[..., None]).sum(-1, keepdim=True).clamp(max=tokens.shape[-1] - 1)
    return tokens.gather(-1, place)[..., 0]


def sampling_draws(seeds: Sequence[int], step: int, prompts: int, count: int) -> Tensor:
    """Uniform numbers `[R, prompts, count]` of the evaluation after `step` steps."""
    keys = [random.derived_seed(seed, step, stream=_SAMPLE_STREAM) for seed in seeds]
    shape = (prompts, count)
    return torch.stack([random.uniform(shape, seed=key, stream=_SAMPLE_STREAM) for key in keys])


def until_end(tokens: Sequence[int], end: int) -> list[int]:
    """What a generation that stops at the end token would have made."""
    found = list(tokens)
    return found[: found.index(end)] if end in found else found
