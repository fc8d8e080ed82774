"""The controlled study in words and numbers."""

import statistics
from collections.abc import Sequence

from fractalkern.experiments.genesis.arms import meaning
from fractalkern.experiments.genesis.config import GenesisConfig, shrunk
from fractalkern.experiments.genesis.findings import Arm, Findings, mean_and_interval
from fractalkern.experiments.statistics import Comparison
from fractalkern.experiments.study import Study


def text(config: GenesisConfig, found: Findings, tokens: int) -> str:
    """The content of report.md."""
    word, why = found.verdict
    smaller = shrunk(config)
    size = "as the original's" if not smaller else "; ".join(smaller) + " (in brackets: original)"
    lines = [
        "# Genesis: does 1/f^beta noise in the weights help a small GPT-2 to learn arithmetic?",
        "",
        f"**{word.capitalize()}.** {why}",
        "",
        f"Fixed protocol: {len(config.arms)} arms x {len(config.learning_rates)} learning rates "
        f"x {config.seeds} seeds, {config.steps:,} steps of {config.batch} texts, beta = "
        f"{config.beta:g}. Size: {size}. The tokenizer gives {tokens} different tokens.",
        "",
        "Per seed, 20 % of the operand combinations of each kind are in no training text (test), "
        "and 10 % choose the learning rate (validation). Padding does not count in the loss. An "
        "answer is right if the greedy continuation is exactly it and the end. All arms of a seed "
        "share texts, their order and dropout.",
        "",
        "## Arms",
        "",
        "Shares in %, mean over seeds at the rate chosen by validation texts, 95 % bootstrap "
        "interval (of fewer than 5 seeds Student's) in brackets; a star: the rate is at an end of "
        "the list.",
        "",
        "| arm | rate | exact, test | exact, mean of all rates | exact, training texts | "
        "exact, operands out of range | answer loss, test (nats) | steps to 90 % | frozen |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_arm_row(config, arm, found.steps) for arm in found.arms.values()),
        "",
        *(f"- `{name}`: {meaning(name)}" for name in found.arms),
        "",
        "## Comparisons",
        "",
        "Differences over seeds: interval of each as above, Hedges' g of the pairs, Student's p, "
        "and p after Holm's correction for all lines of a table.",
        "",
        *_table("Exact test answers at the chosen rate, points (decides the verdict)", found.exact),
        *_table("Exact test answers, mean over all rates, points", found.averaged),
        *_table(
            "Answer loss on test texts at the chosen rate, nats: less is better", found.loss, 1
        ),
        "## Beside the published result",
        "",
        "| | published | here |",
        "| --- | --- | --- |",
        "| standard arm | 50 % of 4 prompts, 1 seed | " + _published(found, "standard-all") + " |",
        "| genesis arm | 75 % of 4 prompts, 1 seed | " + _published(found, "genesis-all") + " |",
        "",
        "Published: substring scoring of sampled answers, three of four prompts probably in the "
        "training texts, 50,000 steps, a learning rate of its own for each arm.",
        "",
        "A run that turned non-finite counts as no exact answer and as the loss of guessing.",
        "",
    ]
    return "\n".join(lines)


def summary(config: GenesisConfig, found: Findings, study: Study) -> dict[str, object]:
    """The content of summary.json."""
    word, why = found.verdict
    return {
        "verdict": word,
        "because": why,
        "smaller_than_published": shrunk(config),
        "arms": {name: _arm_numbers(arm, found.steps) for name, arm in found.arms.items()},
        "comparisons": {
            "test_exact": [_numbers(item) for item in found.exact],
            "test_exact_mean_of_rates": [_numbers(item) for item in found.averaged],
            "test_answer_loss": [_numbers(item) for item in found.loss],
        },
        "run_steps_per_second": _run_steps(config) / max(study.compute_seconds(), 1e-9),
        "compute_seconds": study.compute_seconds(),
        "seconds": study.seconds(),
    }


def _run_steps(config: GenesisConfig) -> int:
    return len(config.arms) * len(config.learning_rates) * config.seeds * config.steps


def _arm_row(config: GenesisConfig, arm: Arm, steps: Sequence[int]) -> str:
    reached = arm.steps_to_enough(steps)
    times = [time for time in reached if time is not None]
    to_enough = (
        f"{statistics.median(times):,.0f} ({len(times)} of {len(reached)})" if times else "-"
    )
    cells = [
        f"`{arm.name}`",
        f"{arm.rate:g}{'*' * arm.edge}",
        _share(arm.values("test_exact")),
        _share(arm.averaged),
        _share(arm.values("train_exact")),
        _share(arm.values("outside_exact")),
        _number(arm.values("test_loss")),
        to_enough,
        f"{arm.frozen} of {config.seeds * len(config.learning_rates)}",
    ]
    return f"| {' | '.join(cells)} |"


def _share(values: Sequence[float]) -> str:
    return _number([100 * value for value in values], ".1f")


def _number(values: Sequence[float], form: str = ".3f") -> str:
    found = mean_and_interval(values)
    if found is None:
        return f"{values[0]:{form}}"
    mean, low, high = found
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def _table(title: str, family: Sequence[Comparison], scale: float = 100) -> list[str]:
    if not family:
        return []
    form = "+.1f" if scale == 100 else "+.3f"
    rows = [
        f"| {item.name} | {scale * item.difference:{form}} "
        f"[{scale * item.low:{form}}, {scale * item.high:{form}}] | {item.effect:+.2f} | "
        f"{item.p:.2g} | {item.p_holm:.2g}{' *' * item.significant()} |"
        for item in family
    ]
    return [
        f"### {title}",
        "",
        "| arms | difference | g | p | p, Holm |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _published(found: Findings, arm: str) -> str:
    if arm not in found.arms:
        return "not trained"
    values = found.arms[arm].values("test_exact")
    return f"{_share(values)} % of held-out texts, {len(values)} seeds"


def _numbers(item: Comparison) -> dict[str, object]:
    return {
        "name": item.name,
        "pairs": item.pairs,
        "difference": item.difference,
        "interval": [item.low, item.high],
        "effect": item.effect if abs(item.effect) < float("inf") else None,
        "p": item.p,
        "p_holm": item.p_holm,
    }


def _arm_numbers(arm: Arm, steps: Sequence[int]) -> dict[str, object]:
    return {
        "rate": arm.rate,
        "rate_is_at_an_end": arm.edge,
        "last": {name: arm.values(name) for name in arm.runs[0].curves},
        "test_exact_mean_of_rates": list(arm.averaged),
        "steps_to_90_percent": arm.steps_to_enough(steps),
        "frozen_runs": arm.frozen,
    }
