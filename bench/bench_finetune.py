"""A step of runs of the finetune grid beside a plain PyTorch loop over them.

The loop trains one model after the other by `torch.optim`, as a process for each pair of rates
would. Both start from the same weights and see the same texts in order; the losses of the third
step are checked to 2 %, as Muon's iterations are in bfloat16. One call is one step of every run.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from bench.harness import Contender, Race

KERNEL = "finetune"
_RUNS = 16
_CHECKED_STEPS = 3


@functools.cache
def setting(optimizer: str) -> Any:
    """Settings, texts, weights to start from, and cells along a diagonal of the grid."""
    from fractalkern.experiments.finetune.config import preset
    from fractalkern.experiments.finetune.corpus import corpus
    from fractalkern.experiments.finetune.training import cells, pretrain

    # The warm-up is over before the steps that are timed; no rate then changes between calls.
    config = dataclasses.replace(
        preset("published", quick=False), optimizer=optimizer, schedule="constant", pretraining=50
    )
    texts = corpus(config)
    some = [one for one in cells(config) if one.row == one.column][:: 64 // _RUNS]
    return config, texts, pretrain(config, texts, None), some


def ours(optimizer: str) -> Callable[[], list[float]]:
    """All runs at once."""
    from fractalkern.experiments.finetune.training import together

    ensemble, data = together(*setting(optimizer))
    steps = ensemble.steps(data)

    def run() -> list[float]:
        losses: list[float] = next(steps).losses.tolist()
        return losses

    return _after_the_first(run)


def loop(optimizer: str) -> Callable[[], list[float]]:
    """One model after the other, each with optimisers of its own."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from fractalkern.experiments.finetune.model import Transformer
    from fractalkern.experiments.finetune.training import HEAD_DECAY
    from fractalkern.experiments.token_loss import spoken_loss

    config, texts, start, some = setting(optimizer)
    sizes = len(texts.alphabet), texts.length, config.width, config.layers, config.heads
    models, rules = [], []
    for cell in some:
        model = Transformer(*sizes, config.soft_cap)
        model.load_state_dict(start)
        model.embedding.weight.requires_grad_(False)
        blocks, rate = list(model.blocks.parameters()), cell.matrix_rate
        matrices: Any = torch.optim.SGD(blocks, lr=rate)
        if optimizer == "muon":
            matrices = torch.optim.Muon(blocks, lr=rate, weight_decay=0.0)
        head = torch.optim.AdamW(
            model.head.parameters(),
            lr=cell.head_rate * config.head_factor,
            betas=(0.8, 0.95),
            eps=1e-10,
            weight_decay=HEAD_DECAY,
        )
        models.append(model)
        rules.append([(one, LambdaLR(one, _warming(config.warmup))) for one in (matrices, head)])
    batches = itertools.cycle(
        zip(
            texts.tuning.tokens.split(config.batch),
            texts.tuning.counted.split(config.batch),
            strict=True,
        )
    )

    def run() -> list[float]:
        losses = []
        batch = next(batches)
        for model, pairs in zip(models, rules, strict=True):
            loss = spoken_loss(model, *batch)
            loss.backward()
            for one, schedule in pairs:
                one.step()
                schedule.step()
                one.zero_grad()
            losses.append(loss.item())
        return losses

    return _after_the_first(run)


def _warming(steps: int) -> Callable[[int], float]:
    return lambda step: min((step + 1) / steps, 1.0)


def _after_the_first(run: Callable[[], list[float]]) -> Callable[[], list[float]]:
    for _ in range(_CHECKED_STEPS - 1):
        run()
    return run


@functools.cache
def _expected(optimizer: str) -> list[float]:
    return loop(optimizer)()


def races(threads: int) -> Iterator[Race]:
    for optimizer in ("muon", "sgd"):

        def check(contender: Contender, losses: list[float], optimizer: str = optimizer) -> None:
            for found, expected in zip(losses, _expected(optimizer), strict=True):
                assert abs(found / expected - 1) < 0.02, (contender.name, found, expected)

        work = {"network_steps": float(_RUNS)}
        yield Race(
            KERNEL,
            f"steps: {_RUNS} runs of width 32, 2 layers, matrices by {optimizer}",
            "float32",
            [
                Contender("ensemble", ours, (optimizer,), work, role="ours"),
                Contender("loop over models", loop, (optimizer,), work, package="torch"),
            ],
            "network_steps",
            "network_steps",
            check,
        )
