"""Pictures of the studies that vary targets: test accuracy over the target, and over a pair."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from fractalkern.experiments.criticality.arms import PAIR_TARGETS, WEIGHTS, Arm, arms_of
from fractalkern.experiments.criticality.config import CriticalityConfig
from fractalkern.experiments.criticality.findings import Findings

_DODGE = 0.012  # of neighbouring lines, so that no error bar hides another
_COLOURS = ("#5f8f3f", "#3b5ba5", "#b5443c")


def over_targets(config: CriticalityConfig, found: Findings) -> Figure:
    """Test accuracy over the target, a line for each weight, dashed with the output layer held."""
    arms = [arm for arm in arms_of(config) if arm.targets]
    figure = Figure(figsize=(8, 5.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    none = found.row("none")
    mean, spread = none.mean("test_accuracy"), none.spread("test_accuracy")
    axes.axhspan(mean - spread, mean + spread, color="#8a8a8a", alpha=0.3, linewidth=0)
    axes.axhline(mean, color="#555555", linewidth=1, label="no regularisation")
    lines = itertools.product(zip(WEIGHTS, _COLOURS, strict=True), ((False, "o-"), (True, "s--")))
    for place, ((weight, colour), (output, line)) in enumerate(lines):
        mine = [a for a in arms if (a.weight, a.output) == (weight, output)]
        mine.sort(key=lambda arm: arm.targets[0])
        rows = [found.row(arm.name) for arm in mine]
        if rows:
            axes.errorbar(
                [arm.targets[0] + (place - 2.5) * _DODGE for arm in mine],
                [row.mean("test_accuracy") for row in rows],
                [row.spread("test_accuracy") for row in rows],
                fmt=line,
                color=colour,
                markersize=4,
                linewidth=1.3,
                elinewidth=0.8,
                label=f"λ = {weight:g}, output layer {'held too' if output else 'free'}",
            )
    axes.set_xlabel("target of the top singular values")
    axes.set_ylabel("test accuracy")
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    finding = ["The tighter singular values are held, the worse"] if _falls(found, arms) else []
    setting = f"{config.settings[0].words}, after {config.epochs} epochs"
    bars = f"mean ± 1 standard deviation over {config.seeds} seeds"
    axes.set_title("\n".join([*finding, setting, bars]), fontsize=12)
    return figure


def _falls(found: Findings, arms: list[Arm]) -> bool:
    """Whether accuracy grows with the target at the largest weight, output free."""
    mine = [a for a in arms if a.weight == WEIGHTS[-1] and not a.output]
    mine.sort(key=lambda arm: arm.targets[0])
    means = [found.row(arm.name).mean("test_accuracy") for arm in mine]
    return len(means) > 2 and bool((np.diff(means) > 0).all())


def over_pairs(config: CriticalityConfig, found: Findings) -> Figure:
    """Difference of test accuracy to no regularisation in points, over both layers' targets."""
    figure = Figure(figsize=(6.4, 5.4), dpi=130, layout="constrained")
    axes = figure.subplots()
    values = np.full((len(PAIR_TARGETS), len(PAIR_TARGETS)), np.nan)
    starred = np.zeros(values.shape, dtype=bool)
    for arm in arms_of(config):
        if arm.targets:
            first, second = arm.layer_targets(2)
            comparison = found.row(arm.name).comparisons.get("test_accuracy")
            if comparison is not None:
                place = PAIR_TARGETS.index(second), PAIR_TARGETS.index(first)
                values[place] = 100 * comparison.difference
                starred[place] = comparison.significant()
    largest = max(np.nanmax(np.abs(values)), 1e-9) if np.isfinite(values).any() else 1.0
    image = axes.imshow(values, cmap="RdBu", vmin=-largest, vmax=largest, origin="lower")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * largest else "black"
            words = f"{value:+.1f}{'*' * bool(starred[row, column])}"
            axes.text(column, row, words, ha="center", va="center", color=colour)
    labels = [f"{target:g}" for target in PAIR_TARGETS]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("target of the first hidden layer's top singular value")
    axes.set_ylabel("target of the second hidden layer's")
    axes.set_title(
        f"{config.settings[0].words} after {config.epochs} epochs, {config.seeds} seeds\n"
        "*: significant after Holm's correction",
        fontsize=11,
    )
    figure.colorbar(image, label="test accuracy less that without regularisation, points")
    return figure
