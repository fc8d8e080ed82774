"""The published protocol's numbers beside those of the original."""

import statistics
from collections.abc import Mapping
from typing import Any

from fractalkern.experiments.genesis.config import GenesisConfig, shrunk

Record = Mapping[str, Mapping[str, Any]]

# From the original's public results file.
_ORIGINAL = {
    "Standard": {
        "final accuracy": "0.50",
        "loss at step 50": "10.51",
        "loss at step 500": "0.399",
        "loss at step 1,000": "0.118",
        "loss at step 5,000": "0.0679",
        "loss at step 50,000": "0.0539",
        "first step with loss < 0.5": "400",
        "first step with loss < 0.1": "1,150",
        "first step with a right answer": "1,000",
        "evaluations at 0 / 0.25 / 0.5 / 0.75 / 1": "147 / 195 / 458 / 200 / 0",
        "mean accuracy of the last 100 evaluations": "0.610",
        "longest run of evaluations at 0.75 or more": "9",
    },
    "Genesis": {
        "final accuracy": "0.75",
        "loss at step 50": "10.11",
        "loss at step 500": "4.577",
        "loss at step 1,000": "0.351",
        "loss at step 5,000": "0.0736",
        "loss at step 50,000": "0.0546",
        "first step with loss < 0.5": "850",
        "first step with loss < 0.1": "2,500",
        "first step with a right answer": "3,000",
        "evaluations at 0 / 0.25 / 0.5 / 0.75 / 1": "167 / 132 / 258 / 439 / 4",
        "mean accuracy of the last 100 evaluations": "0.703",
        "longest run of evaluations at 0.75 or more": "15",
    },
}
_LOSS_STEPS = (50, 500, 1000, 5000, 50_000)


def text(config: GenesisConfig, records: Mapping[int, Record]) -> str:
    """The content of report.md; `records` by seed."""
    smaller = shrunk(config)
    lines = [
        "# Genesis: the published protocol",
        "",
        "Four prompts, substring scoring of sampled answers, padding in the loss, a learning rate "
        "for each arm: what follows repeats the original's measurement and says nothing about "
        "whether fractal noise helps. The fixed protocol tests that.",
        "",
        "Size: " + ("; ".join(smaller) + " (in brackets: original)" if smaller else "original."),
        "",
    ]
    for seed, record in records.items():
        names = list(record)
        head = [f"{name}, {where}" for name in names for where in ("original", "here")]
        lines += [
            f"## Seed {seed}",
            "",
            f"| | {' | '.join(head)} |",
            "| --- " * (len(head) + 1) + "|",
        ]
        facts = {name: _facts(arm) for name, arm in record.items()}
        for fact in _ORIGINAL["Standard"]:
            cells = [
                cell
                for name in names
                for cell in (_ORIGINAL.get(name, {}).get(fact, "-"), facts[name][fact])
            ]
            lines.append(f"| {fact} | {' | '.join(cells)} |")
        lines.append("")
        for name, arm in record.items():
            said = "; ".join(
                f"{one['prompt']} **{one['answer']}**" for one in arm["final_responses"]
            )
            lines += [f"{name} at the end: {said}", ""]
    return "\n".join(lines)


def summary(config: GenesisConfig, records: Mapping[int, Record]) -> dict[str, object]:
    """The content of summary.json, but for times."""
    return {
        "smaller_than_published": shrunk(config),
        "seeds": {
            str(seed): {name: _facts(arm) for name, arm in record.items()}
            for seed, record in records.items()
        },
    }


def _facts(arm: Mapping[str, Any]) -> dict[str, str]:
    steps, accuracies = arm["steps"], [a or 0.0 for a in arm["evaluation_accuracies"]]
    losses = dict(zip(steps, arm["training_losses"], strict=True))

    def first(condition: Any) -> str:
        found = next((step for step in steps if condition(step)), None)
        return "never" if found is None else f"{found:,}"

    def below(limit: float) -> str:
        return first(lambda step: losses[step] is not None and losses[step] < limit)

    right = dict(zip(steps, accuracies, strict=True))
    levels = [sum(abs(a - level) < 0.1 for a in accuracies) for level in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "final accuracy": f"{arm['final_accuracy']:.2f}",
        **{f"loss at step {step:,}": _loss(losses.get(step)) for step in _LOSS_STEPS},
        "first step with loss < 0.5": below(0.5),
        "first step with loss < 0.1": below(0.1),
        "first step with a right answer": first(lambda step: right[step] > 0),
        "evaluations at 0 / 0.25 / 0.5 / 0.75 / 1": " / ".join(map(str, levels)),
        "mean accuracy of the last 100 evaluations": f"{statistics.fmean(accuracies[-100:]):.3f}",
        "longest run of evaluations at 0.75 or more": str(_longest(accuracies)),
    }


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _longest(accuracies: list[float]) -> int:
    longest = run = 0
    for accuracy in accuracies:
        run = run + 1 if accuracy >= 0.75 else 0
        longest = max(longest, run)
    return longest
