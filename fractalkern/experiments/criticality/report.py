"""The numbers of a study as JSON, and as a report that sets what was known beside them."""

import math
from collections.abc import Sequence

from fractalkern.experiments.criticality.config import CriticalityConfig
from fractalkern.experiments.criticality.findings import OUTCOMES, Findings, Row
from fractalkern.experiments.criticality.published import REFERENCE_COST, REFERENCES, SPECTRA
from fractalkern.experiments.study import Study
from fractalkern.experiments.study.scalars import finite

_LEVEL = 0.05
_MOST_NAMES = 12  # in a sentence of the verdict


def summary(config: CriticalityConfig, found: Findings, study: Study) -> dict[str, object]:
    """The content of summary.json."""
    runs = sum(len(part.runs) for part in study.parts)
    return {
        "study": config.study,
        "protocol": config.protocol,
        "runs": runs,
        "epochs": config.epochs,
        "rows": [_json(row) for row in found.rows],
        "dimensions": [
            {"arm": arm, "seed": seed, **dict(zip(_DIMENSION, map(finite, values), strict=True))}
            for (arm, seed), values in found.dimensions.items()
        ],
        "largest_difference_of_weights_between_arms": found.same_weights,
        "verdict": verdict(config, found),
        "run_epochs_per_second": runs * config.epochs / max(study.compute_seconds(), 1e-9),
        "compute_seconds": study.compute_seconds(),
        "seconds": study.seconds(),
    }


_DIMENSION = ("dimension", "low", "high", "p")


def _json(row: Row) -> dict[str, object]:
    return {
        "setting": row.setting,
        "arm": row.arm,
        "rate": row.rate,
        "frozen": row.frozen,
        "mean": {name: finite(row.mean(name)) for name in row.last},
        "spread": {name: finite(row.spread(name)) for name in row.last},
        "against_none": {
            outcome: {
                "pairs": c.pairs,
                "difference": c.difference,
                "low": c.low,
                "high": c.high,
                "effect": finite(c.effect),
                "p": c.p,
                "p_holm": c.p_holm,
            }
            for outcome, c in row.comparisons.items()
        },
    }


def text(config: CriticalityConfig, found: Findings) -> str:
    """The report, in Markdown."""
    parts = [f"# Spectral criticality: {config.study}, protocol {config.protocol}", _what(config)]
    parts += ["## Verdict", "\n".join(f"- {line}" for line in verdict(config, found))]
    parts += ["## Arms", _table(config, found), _legend(config)]
    if config.protocol == "fixed":
        parts += ["## Against no regularisation", _comparisons(found), _COMPARED]
    if beside := _reference(config, found):
        parts += ["## Beside what was measured before", beside]
    if spectra := SPECTRA.get(config.study):
        parts += [
            "## As published by SPECTRA (accuracy on the training set, percent)",
            "\n".join(f"- {line}" for line in spectra),
        ]
    if found.dimensions:
        parts += ["## Boundaries after training", _boundaries(found)]
    return "\n\n".join(parts) + "\n"


def verdict(config: CriticalityConfig, found: Findings) -> list[str]:
    """What the study says, a sentence each."""
    if config.protocol == "published":
        return _published_verdict(found)
    lines = []
    fixed = [row for row in found.rows if row.arm == "target-1"]
    if len(fixed) == 1 and fixed[0].comparisons:
        lines.append(_cost(config, fixed[0]))
    better, worse, open_ = _sorted(found, "test_accuracy")
    lines += [
        "Better than no regularisation in test accuracy, after the correction: "
        f"{_names(better, found)}.",
        f"Worse: {_names(worse, found)}.",
        f"Not told apart at {config.seeds} seeds: {_names(open_, found)}.",
    ]
    calmer, surer, _ = _sorted(found, "test_nll")
    lines.append(f"Better in test NLL: {_names(calmer, found)}; worse: {_names(surer, found)}.")
    better = [row for row in found.rows if row in better or row in calmer]
    better = [row for row in better if row not in worse and row not in surer]
    if targets := [row for row in better if _has_target(row.arm)]:
        lines.append(
            "So holding singular values at a target helps in one outcome and costs nothing in the "
            f"other here: {_names(targets, found)}."
        )
    else:
        lines.append(
            "So nothing here shows that holding singular values at a target helps in one outcome "
            "without a cost in the other."
        )
    return lines


def _published_verdict(found: Findings) -> list[str]:
    lines = []
    if found.same_weights is not None:
        word = "the same to the last bit" if found.same_weights == 0 else "not the same"
        lines.append(
            f"The published penalty has no gradient: the final weights of the arms are {word} "
            f"(largest difference {found.same_weights:g}). Nothing can follow about regularisation."
        )
    row = found.rows[0]
    lines.append(
        f"The published dead rate is {row.mean('published_dead_rate'):.1%}, while "
        f"{row.mean('dead_rate'):.1%} of the hidden units fire for no training point."
    )
    return lines


def _cost(config: CriticalityConfig, row: Row) -> str:
    c = row.comparisons["test_accuracy"]
    found = "not told apart from none"
    if c.significant(_LEVEL):
        found = "a cost" if c.difference < 0 else "a gain"
    line = (
        f"A fixed target of 1 changes test accuracy by {_points(c.difference)} points, 95 % "
        f"interval {_points(c.low)} to {_points(c.high)} (Holm p = {c.p_holm:.2g}): {found}."
    )
    if _is_e50(config):
        line += f" The check before had {_points(REFERENCE_COST)} with seeds 0 to 4"
        if config.seed_list == list(range(5)):
            inside = "inside" if c.low <= REFERENCE_COST <= c.high else "outside"
            line += f", {inside} the interval"
        line += "."
    return line


def _is_e50(config: CriticalityConfig) -> bool:
    """Whether the training is that of the reference numbers."""
    e50 = CriticalityConfig()
    names = ("task", "samples", "noise", "depth", "width", "epochs", "weight")
    same = all(getattr(config, name) == getattr(e50, name) for name in names)
    return same and config.rates == e50.rates and config.study in ("baseline", "targets")


def _sorted(found: Findings, outcome: str) -> tuple[list[Row], list[Row], list[Row]]:
    """Arms that are better, worse, and neither."""
    lists: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
    for row in found.rows:
        if c := row.comparisons.get(outcome):
            good = c.difference > 0 if outcome == "test_accuracy" else c.difference < 0
            lists[2 if not c.significant(_LEVEL) else 0 if good else 1].append(row)
    return lists


def _names(rows: Sequence[Row], found: Findings) -> str:
    settings = len({row.setting for row in found.rows}) > 1
    names = [f"{row.arm} ({row.setting})" if settings else row.arm for row in rows]
    if len(names) > _MOST_NAMES:
        return f"{len(names)} arms, see the table"
    return ", ".join(names) or "none"


def _has_target(arm: str) -> bool:
    return arm.startswith("target") or arm in ("linear", "exponential", "steps", "learnable")


def _what(config: CriticalityConfig) -> str:
    settings = ", ".join(setting.name for setting in config.settings)
    rates = ", ".join(f"{rate:g}" for rate in config.rates)
    train = 1 - sum(config.shares)
    return (
        f"{config.seeds} seeds (data, split and start all vary), {config.epochs} full-batch epochs "
        f"of Adam at {rates}; {config.samples} points, {train:.0%} of them to train; "
        f"lambda {config.weight:g} where an arm does not say another. Networks: {settings}."
    )


_COLUMNS = (
    ("test accuracy", "test_accuracy", 4),
    ("test NLL", "test_nll", 4),
    ("train accuracy", "train_accuracy", 4),
    ("dead units", "dead_rate", 3),
    ("sensitivity", "sensitivity", 2),
    ("ln gain", "log_gain", 2),
    ("sigma 1", "sigma_1", 2),
    ("sigma 2", "sigma_2", 2),
    ("sigma out", "sigma_output", 2),
    ("D published", "published_dimension", 2),
    ("D edges", "edge_dimension", 2),
)


def _table(config: CriticalityConfig, found: Findings) -> str:
    shown = [c for c in _COLUMNS if any(math.isfinite(r.mean(c[1])) for r in found.rows)]
    head = ["setting", "arm", "rate", *(title for title, _, _ in shown), "frozen"]
    lines = [head, ["---"] * len(head)]
    for row in found.rows:
        cells = [_pm(row, name, digits) for _, name, digits in shown]
        lines.append([row.setting, row.arm, f"{row.rate:g}", *cells, str(row.frozen)])
    return _markdown(lines)


def _pm(row: Row, name: str, digits: int) -> str:
    if not math.isfinite(row.mean(name)):
        return "none"
    spread = row.spread(name)
    found = f"{row.mean(name):.{digits}f}"
    return f"{found} ± {spread:.{digits}f}" if math.isfinite(spread) else f"{found} (one run)"


def _legend(config: CriticalityConfig) -> str:
    gain = (
        "ln gain: mean over hidden layers of ln chi, chi = mean squared Jacobian gain, 0 critical."
    )
    chosen = "The rate is the one of least mean validation NLL." if len(config.rates) > 1 else ""
    return (
        "Mean ± standard deviation over seeds, after the last epoch. Dead units: hidden units "
        "whose activation is 0 on the whole training set. Sensitivity: mean "
        "|f(x + 1e-3 u) - f(x)| / 1e-3 over random directions. D published: box dimension of the "
        "steepest 1 % of the probability map, within 0.79 to 1.50 whatever the boundary is; "
        f"D edges: of the boundary itself. {gain} {chosen}"
    ).strip()


def _comparisons(found: Findings) -> str:
    head = ["setting", "arm", "test accuracy", "p", "Holm p", "test NLL", "p", "Holm p", "g"]
    lines = [head, ["---"] * len(head)]
    for row in found.rows:
        if row.arm != "none":
            cells = [row.setting, row.arm]
            for outcome in OUTCOMES:
                c = row.comparisons.get(outcome)
                if c is None:
                    cells += ["too few finite runs", "", ""]
                else:
                    cells.append(f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]")
                    cells += [f"{c.p:.2g}", f"{c.p_holm:.2g}"]
            accuracy = row.comparisons.get("test_accuracy")
            lines.append([*cells, f"{accuracy.effect:.1f}" if accuracy else ""])
    return _markdown(lines)


_COMPARED = (
    "Differences to no regularisation over the same seeds, with bootstrap 95 % intervals (of fewer "
    "than 5 pairs Student's), each on its own; p by Student's paired test, corrected by Holm over "
    "all arms and both outcomes. g: Hedges' effect size of the accuracy."
)


def _reference(config: CriticalityConfig, found: Findings) -> str:
    """Ours beside the reference, for arms that it has."""
    if not _is_e50(config):
        return ""
    names = ["test_accuracy", "sensitivity", "sigma_1", "sigma_2", "sigma_output"]
    names += ["published_dimension", "edge_dimension"]
    titles = {name: title for title, name, _ in _COLUMNS}
    head = ["arm", *(titles[n] for n in names)]
    lines = [head, ["---"] * len(head)]
    for row in found.rows:
        # Without a gradient every arm is that without regularisation.
        key = "none" if config.protocol == "published" else row.arm
        key = key.removesuffix(f"-lambda-{config.weight:g}")
        if key in REFERENCES:
            cells, reference = [], REFERENCES[key]
            for name in names:
                theirs = f"{getattr(reference, name):g}"
                ours = f"{row.mean(name):.4g}" if math.isfinite(row.mean(name)) else "not taken"
                if name == "test_accuracy":
                    ours += f" ± {row.spread(name):.2g}"
                    if reference.accuracy_spread is not None:
                        theirs += f" ± {reference.accuracy_spread:g}"
                cells.append(f"{theirs} / {ours}")
            lines.append([row.arm, *cells])
    return (
        _markdown(lines) + "\n\nReference / ours. The authors kept no results of this code; the "
        "reference is an independent check of its description (5 seeds, 75 % to train, a penalty "
        "with a gradient)."
    )


def _boundaries(found: Findings) -> str:
    lines = [["arm", "seed", "D", "95 % interval", "p against smooth"], ["---"] * 5]
    for (arm, seed), (dimension, low, high, p) in found.dimensions.items():
        if math.isfinite(dimension):
            interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else "none is honest"
            lines.append([arm, str(seed), f"{dimension:.3f}", interval, f"{p:.3f}"])
        else:
            lines.append([arm, str(seed), "no boundary to fit", "", ""])
    ps = [values[3] for values in found.dimensions.values() if math.isfinite(values[3])]
    rejected = sum(p <= _LEVEL for p in ps)
    return _markdown(lines) + (
        f"\n\nThe null of a smooth boundary of the same course is refused in {rejected} of "
        f"{len(ps)}; by chance about {_LEVEL * len(ps):.1f} would be."
    )


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
