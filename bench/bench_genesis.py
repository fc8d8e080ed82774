"""Steps of the Genesis experiment beside a plain `transformers` loop like the original's.

The loop trains one model after the other with GPT2LMHeadModel, AdamW and clip_grad_norm_, and
evaluates prompt by prompt with `generate`. Both start from the same weights and see the same texts;
dropout draws differ, so losses are checked to 2 %. One call is one step of every run, or one
evaluation of every run.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from bench.harness import Contender, Race

KERNEL = "genesis"
# Case -> protocol, size, and how many runs are trained.
STEPS = {
    "published, 2 arms, 17.67 M parameters": ("published", "full", 2),
    "published --quick, 2 arms, width 64, 2 layers": ("published", "quick", 2),
    "fixed --quick, 20 runs, width 32, 2 layers": ("fixed", "quick", 20),
    "fixed, 20 runs, width 128, 4 layers": ("fixed", "default", 20),
}
EVALUATIONS = {
    "4 prompts of 2 arms, 17.67 M parameters": ("published", "full", 2),
    "4 prompts of 2 arms, width 64, 2 layers": ("published", "quick", 2),
}


@functools.cache
def setting(protocol: str, size: str, count: int) -> Any:
    """Settings, runs, tokenizer, and the encoded texts that all runs share here."""
    from fractalkern.experiments.genesis.config import PUBLISHED_LENGTH, preset
    from fractalkern.experiments.genesis.problems import drawn, drawn_as_published, split
    from fractalkern.experiments.genesis.runs import parts
    from fractalkern.experiments.genesis.texts import encode, everything, longest
    from fractalkern.experiments.genesis.tokenizer import tokenizer_of

    config = dataclasses.replace(preset(protocol, size), group=count)
    tokenizer = tokenizer_of("", everything(), config.vocabulary)
    if protocol == "published":
        texts = encode(drawn_as_published(config.texts, 0), tokenizer, PUBLISHED_LENGTH)
    else:
        problems = drawn(split(0).train, config.texts, 0)
        texts = encode(problems, tokenizer, longest(tokenizer))
    # The library's start for all: an arm's is no part of a step.
    runs = [dataclasses.replace(run, arm="default") for run in parts(config)[0]]
    return config, runs, tokenizer, texts


def _started(key: tuple[Any, ...], place: int) -> Any:
    from fractalkern.experiments.genesis.runs import start

    config, runs, tokenizer, _ = setting(*key)
    return start(config, runs[place], config.vocabulary or tokenizer.size)


def _ours(key: tuple[Any, ...]) -> Iterator[Any]:
    """A view of all runs in one ensemble after each step, as the experiment trains them."""
    from fractalkern.ensemble import AdamW, Data, Ensemble
    from fractalkern.experiments.genesis.evaluate import published_loss
    from fractalkern.experiments.token_loss import spoken_loss

    config, runs, _, texts = setting(*key)
    keys = int(texts.lengths.max())

    def as_published(model: Any, tokens: Any, padding: Any) -> Any:
        return published_loss(model, tokens, padding, keys)

    published = config.protocol == "published"
    ensemble = Ensemble(
        lambda place: _started(key, place),
        as_published if published else spoken_loss,
        AdamW(lr=[run.rate for run in runs], weight_decay=config.weight_decay),
        seeds=[0] * len(runs),
        clip_norm=config.clip_norm,
    )
    which = texts.padding if published else texts.spoken
    # An own data set a run, as in the experiment.
    data = Data(texts.tokens[None], which[None], of_run=[0] * len(runs), batch_size=config.batch)
    return ensemble.steps(data)


def ours_steps(*key: Any) -> Callable[[], float]:
    """All runs at once."""
    steps = _ours(key)
    return lambda: float(next(steps).losses[0])


def _theirs(key: tuple[Any, ...], place: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config, _, tokenizer, _ = setting(*key)
    warnings.simplefilter("ignore")
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocabulary or tokenizer.size,
            n_positions=config.positions,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=tokenizer.end,
            eos_token_id=tokenizer.end,
        )
    )
    model.load_state_dict(_started(key, place).state_dict(), strict=False)
    return model


def transformers_steps(*key: Any) -> Callable[[], float]:
    """One model after the other."""
    import torch

    config, runs, _, texts = setting(*key)
    models = [_theirs(key, place).train() for place in range(len(runs))]
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=config.weight_decay)
        for model, run in zip(models, runs, strict=True)
    ]
    labels = texts.tokens.clone()
    if config.protocol == "fixed":
        labels[~texts.spoken] = -100
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            batch = torch.randint(len(labels), (config.batch,), generator=generator)
            out = model(
                input_ids=texts.tokens[batch],
                attention_mask=(~texts.padding[batch]).long(),
                labels=labels[batch],
            )
            optimizer.zero_grad()
            out.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            losses.append(out.loss.item())
        return losses[0]

    return run


def ours_evaluation(*key: Any) -> Callable[[], Any]:
    """All prompts of all arms at once, after one step."""
    from fractalkern.experiments.genesis.published import prompts_of, sampled

    _, runs, tokenizer, _ = setting(*key)
    prompts = prompts_of(tokenizer, "cpu")
    view = next(_ours(key))

    def run() -> Any:
        new = sampled(view, prompts, [0] * len(runs))
        return [[tokenizer.decode(tokens) for tokens in arm] for arm in new.tolist()]

    return run


def transformers_evaluation(*key: Any) -> Callable[[], Any]:
    """`generate`, prompt by prompt and arm by arm."""
    import torch

    from fractalkern.experiments.genesis.problems import PUBLISHED

    _, runs, tokenizer, _ = setting(*key)
    models = [_theirs(key, place).eval() for place in range(len(runs))]
    prompts = [torch.tensor([tokenizer.encode(problem.prompt)]) for problem in PUBLISHED]

    @torch.no_grad()
    def run() -> Any:
        said = []
        for model in models:
            said.append([])
            for prompt in prompts:
                out = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_length=prompt.shape[1] + 5,
                    temperature=0.1,
                    do_sample=True,
                    pad_token_id=tokenizer.end,
                )
                said[-1].append(tokenizer.decode(out[0, prompt.shape[1] :].tolist()))
        return said

    return run


def races(threads: int) -> Iterator[Race]:
    for case, key in STEPS.items():
        yield _race(f"steps: {case}", key, ours_steps, transformers_steps, _check_loss(key))
    for case, key in EVALUATIONS.items():
        yield _race(
            f"evaluation: {case}", key, ours_evaluation, transformers_evaluation, _check_answers
        )


def _race(case: str, key: Any, ours: Any, theirs: Any, check: Any) -> Race:
    work = {"network_steps" if case.startswith("steps") else "evaluations": float(key[2])}
    (unit,) = work
    contenders = [
        Contender("ensemble", ours, key, work, role="ours"),
        Contender("loop over models", theirs, key, work, package="transformers"),
    ]
    return Race(KERNEL, case, "float32", contenders, unit, unit, check)


@functools.cache
def _first_loss(key: Any) -> float:
    """Of the starting weights, without dropout."""
    import torch

    from fractalkern.experiments.genesis.evaluate import published_loss
    from fractalkern.experiments.token_loss import spoken_loss

    config, _, _, texts = setting(*key)
    model, some = _started(key, 0).eval(), slice(0, 2000, 250)
    with torch.no_grad():
        if config.protocol == "published":
            keys = int(texts.lengths.max())
            return float(published_loss(model, texts.tokens[some], texts.padding[some], keys))
        return float(spoken_loss(model, texts.tokens[some], texts.spoken[some]))


def _check_loss(key: Any) -> Callable[[Contender, float], None]:
    def check(contender: Contender, loss: float) -> None:
        assert abs(loss / _first_loss(key) - 1) < 0.02, (contender.name, loss, _first_loss(key))

    return check


def _check_answers(contender: Contender, said: list[list[str]]) -> None:
    assert [len(arm) for arm in said] == [4] * len(said), contender.name
