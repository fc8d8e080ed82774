"""The losses as JSON, and as a report that sets the published ones beside them."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from fractalkern.experiments.fractalformer.config import (
    FractalFormerConfig,
    SubModel,
    differences,
)
from fractalkern.experiments.fractalformer.corpus import Corpus
from fractalkern.experiments.fractalformer.findings import Findings
from fractalkern.experiments.fractalformer.model import parameters_of
from fractalkern.experiments.fractalformer.reference import (
    CHARACTERS_PER_TOKEN,
    LOGGED_TRAIN,
    LOGGED_VALIDATION,
)
from fractalkern.experiments.fractalformer.training import prompt_length
from fractalkern.experiments.statistics import Comparison, interval
from fractalkern.experiments.study import Study

Samples = Mapping[SubModel, str]


def name(submodel: SubModel) -> str:
    """As the original writes it: (level, model)."""
    return f"({submodel[0]}, {submodel[1]})"


def samples(config: FractalFormerConfig, corpus: Corpus, tokens: Tensor) -> Samples:
    """What each sub-model of the first seed says, prompt first, `tokens` `[S, T]`."""
    return dict(zip(config.submodels, map(corpus.said, tokens), strict=True))


def summary(config: FractalFormerConfig, found: Findings, study: Study) -> dict[str, object]:
    """The content of summary.json."""
    return {
        "protocol": config.protocol,
        "nats_a_character_by_frequencies": found.by_frequency,
        "submodels": {
            name(one): {
                "weight_of_its_loss": config.weight(one),
                "validation": _finite(found.last(one)),
                "train": _finite(found.train[one][:, -1].tolist()),
                "gap_to_twin": _numbers(found.gaps.get(one)),
            }
            for one in config.submodels
        },
        "levels": {
            str(level): {
                "twins_validation": _finite(found.last_of_twins(level)),
                "gap_of_the_mean": _numbers(found.level_gaps.get(level)),
            }
            for level in found.twins
        },
        "compute_seconds": study.compute_seconds(),
        "seconds": study.seconds(),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _numbers(item: Comparison | None) -> dict[str, float] | None:
    if item is None:
        return None
    return {
        "difference": item.difference,
        "low": item.low,
        "high": item.high,
        "p": item.p,
        "p_holm": item.p_holm,
    }


def text(config: FractalFormerConfig, found: Findings, corpus: Corpus, said: Samples) -> str:
    """The report, in Markdown."""
    parts = [
        f"# FractalFormer: models inside a model, protocol {config.protocol}",
        _what(config, corpus),
        "## Verdict",
        "\n".join(f"- {line}" for line in verdict(config, found)),
        "## Validation losses",
        _table(config, found, corpus),
        _beside(),
        "## Samples",
        _samples(config, said),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(config: FractalFormerConfig, found: Findings) -> list[str]:
    """What the losses say, a sentence or two each."""
    with_loss = [one for one in config.submodels if config.weight(one)]
    without = [one for one in config.submodels if not config.weight(one)]
    lines = []
    if config.protocol == "published":
        lines.append(
            f"The loss is a sum of {len(with_loss) * config.levels} terms, but of "
            f"{len(with_loss)} different ones, {_and([name(one) for one in with_loss])}, each "
            f"{config.levels} times: the loop that collects them runs over the widths and not "
            f"over the models of a level."
        )
    lines.append(f"With a loss: {_ends(with_loss, found)}.")
    if without:
        lines.append(
            f"Without one: {_ends(without, found)}. What of their weights was trained served other "
            f"models; nothing asked for predictions of their own."
        )
    elif all(_below(one, found) for one in with_loss):
        lines.append(f"So joint training does train all {len(with_loss)}.")
    return lines + [_gap(level, found, config) for level in found.twins]


def _ends(some: Sequence[SubModel], found: Findings) -> str:
    ends = _and([f"{name(one)} {_mean(found.last(one))}" for one in some])
    above = [one for one in some if not _below(one, found)]
    if not above:
        where = "below"
    elif len(above) == len(some):
        where = "not below"
    else:
        where = f"but for {_and([name(one) for one in above])} below"
    return (
        f"{ends} nats a character at the end, {where} the {found.by_frequency:.2f} that "
        f"guessing by the frequencies of characters costs"
    )


def _below(submodel: SubModel, found: Findings) -> bool:
    values = found.last(submodel)
    return sum(values) / len(values) < found.by_frequency  # no NaN is


def _gap(level: int, found: Findings, config: FractalFormerConfig) -> str:
    what = f"Level {level}, width {config.width_of(level)}: "
    item = found.level_gaps.get(level)
    if item is None:
        why = "one seed" if config.seeds == 1 else "a loss that is not finite"
        return f"{what}no interval of the gap to twins that are trained alone, for {why}."
    of = "the mean of its sub-models" if level else "the whole model"
    verb = "is not shown to differ from"
    if item.significant():
        verb = "is worse than" if item.difference > 0 else "is better than"
    return (
        f"{what}{of} {verb} a twin that is trained alone on the same windows: "
        f"{item.difference:+.3f} nats a character [{item.low:+.3f}, {item.high:+.3f}], "
        f"p = {item.p_holm:.2g} after Holm's correction for the levels."
    )


def _what(config: FractalFormerConfig, corpus: Corpus) -> str:
    sizes = [
        f"{2**level} of width {config.width_of(level)} ({_parameters(config, corpus, level):,} "
        f"parameters)"
        for level in range(config.levels)
    ]
    of = f"the text of {config.text}" if config.text else "generated records"
    several = "s" * (config.seeds > 1)
    lines = [
        f"Models: {_and(sizes)}, the smaller ones slices of the larger. Characters of {of}: "
        f"{len(corpus.train):,} to train, the {len(corpus.validation):,} behind them for "
        f"validation, {len(corpus.alphabet)} different ones. {config.steps:,} steps of "
        f"{config.batch} windows of {config.context} characters, AdamW, {config.seeds} "
        f"seed{several}."
    ]
    if config.protocol == "published":
        lines.append(
            "As the original: logits unscaled, no dropout, and the norm of the output embedding "
            "takes its scale from model 0 of a level. Equal terms of the loss are computed once."
        )
    else:
        scale = "over the root of the width" if config.scaled else "unscaled"
        weights = ", ".join(f"{weight:g}" for weight in config.level_weights)
        lines.append(
            f"Logits {scale}; dropout {config.dropout:g} on what a layer adds; a loss for every "
            f"sub-model, of weight {weights} by level. A twin is a model of a level's width alone, "
            f"started by the same seed, which at level 0 gives the same weights, and trained on "
            f"the same windows at the same rate. The sub-models of a level are of one size, so one "
            f"twin a seed stands beside all of them."
        )
    lines.append(
        f"Other than the original's (in brackets): "
        f"{'; '.join(differences(config, len(corpus.alphabet)))}."
    )
    lines.append(
        "Losses are of 64 windows spread over each text; samples are the likeliest tokens."
    )
    return "\n\n".join(lines)


def _parameters(config: FractalFormerConfig, corpus: Corpus, level: int) -> int:
    return parameters_of(len(corpus.alphabet), config.width_of(level), config.heads, config.layers)


def _table(config: FractalFormerConfig, found: Findings, corpus: Corpus) -> str:
    lines = [
        "Nats a character, means over seeds, 95 % intervals in brackets (of fewer than 5 seeds "
        "Student's).",
        "",
    ]
    header = ["sub-model", "weight of its loss", "at the start", "validation", "training text"]
    if found.twins:
        header += ["its twin", "gap to it", "p, Holm"]
    lines += [_row(header), _row(["---"] * len(header))]
    for one in config.submodels:
        row = [
            name(one),
            f"{config.weight(one):g}" if config.weight(one) else "none",
            f"{found.validation[one][:, 0].mean():.2f}",
            _with_interval(found.last(one)),
            _mean(found.train[one][:, -1].tolist()),
        ]
        if found.twins:
            row += [_mean(found.last_of_twins(one[0])), *_gap_cells(one, found)]
        lines.append(_row(row))
    return "\n".join(lines)


def _gap_cells(submodel: SubModel, found: Findings) -> list[str]:
    """The gap to the twin and its p; of one seed the gap alone."""
    item = found.gaps.get(submodel)
    if item is not None:
        gap = f"{item.difference:+.3f} [{item.low:+.3f}, {item.high:+.3f}]"
        return [gap, f"{item.p_holm:.2g}"]
    values, twins = found.last(submodel), found.last_of_twins(submodel[0])
    only = values[0] - twins[0]
    return [f"{only:+.3f}" if len(values) == 1 and math.isfinite(only) else "-", "-"]


def _beside() -> str:
    characters = (value / CHARACTERS_PER_TOKEN for value in (LOGGED_TRAIN, LOGGED_VALIDATION))
    return (
        f"Published after 15,000 steps, mean of the three with a loss: {LOGGED_TRAIN} (train) and "
        f"{LOGGED_VALIDATION} (validation) nats a token of 128 byte pairs, at "
        f"{CHARACTERS_PER_TOKEN} characters a token "
        f"{' and '.join(f'{value:.2f}' for value in characters)} a character; the other four had "
        f"no loss and repeat one letter. Texts and tokens differ, so what compares is which "
        f"sub-models learn, not the height of a loss."
    )


def _samples(config: FractalFormerConfig, said: Samples) -> str:
    lines = ["The likeliest continuations, first seed; validation text up to the bar.", ""]
    given = prompt_length(config)
    for one, words in said.items():
        shown = f"{words[:given]}|{words[given:]}".replace("\n", "⏎")
        lines.append(f"    {name(one)}  {shown}")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float], digits: int = 2) -> str:
    if not all(map(math.isfinite, values)):
        return "not finite"
    return f"{sum(values) / len(values):.{digits}f}"


def _with_interval(values: Sequence[float]) -> str:
    mean = _mean(values, 3)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean
    low, high = interval(values)
    return f"{mean} [{low:.3f}, {high:.3f}]"


def _and(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
