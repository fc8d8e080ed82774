"""The pictures of both protocols."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fractalkern.experiments.genesis.arms import beta_of, meaning
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.findings import Findings, mean_and_interval
from fractalkern.experiments.pictures import STYLE, png
from fractalkern.experiments.statistics import Comparison

_BLUE, _RED, _GREY = "#3b5ba5", "#b5443c", "#8a8a8a"


def study(config: GenesisConfig, found: Findings) -> bytes:
    """PNG: the arms' scores, the tested differences, the sweep of beta, and learning curves."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, 11), dpi=110, layout="constrained")
        top, bottom = figure.subplots(2, 2, gridspec_kw={"width_ratios": (1.15, 1)})
        _scores(top[0], found)
        _differences(top[1], found.exact)
        _curves(bottom[0], found)
        _sweep(bottom[1], config, found)
        word, _ = found.verdict
        figure.suptitle(
            f"Does $1/f^\\beta$ noise in the weights help a small GPT-2? Here: {word}\n"
            f"{_size(config)}, {config.seeds} seeds, held-out arithmetic",
            fontsize=14,
        )
        meanings = [f"{name}: {meaning(name)}" for name in found.arms if beta_of(name) is None]
        if any(beta_of(name) is not None for name in found.arms):
            meanings.append("beta-NUMBER: genesis with that exponent")
        figure.supxlabel("\n".join(meanings), x=0.01, ha="left", fontsize=9)
        return png(figure)


def _scores(axes: Axes, found: Findings) -> None:
    names = list(found.arms)[::-1]
    for row, name in enumerate(names):
        values = [100 * value for value in found.arms[name].values("test_exact")]
        colour = _RED if _is_fractal(name) else _BLUE
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.35, markersize=5)
        axes.plot(np.mean(values), row, "|", color=colour, markersize=16, markeredgewidth=2.5)
    labels = [f"{name}  (rate {found.arms[name].rate:g})" for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("exact answers to held-out problems, % (dot: a seed, bar: their mean)")
    axes.set_title("Every arm at the rate its validation texts choose (red: fractal noise)")
    axes.grid(axis="x", alpha=0.3)


def _is_fractal(arm: str) -> bool:
    return arm.startswith(("genesis", "fractal")) or bool(beta_of(arm))


def _differences(axes: Axes, family: Sequence[Comparison]) -> None:
    rows = list(family)[::-1]
    for row, item in enumerate(rows):
        colour = _RED if item.significant() else _GREY
        axes.plot([100 * item.low, 100 * item.high], [row, row], color=colour, linewidth=2)
        axes.plot(100 * item.difference, row, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [item.name for item in rows])
    axes.set_xlabel("difference in exact answers, points, with 95 % interval")
    axes.set_title("Differences (red: significant after Holm's correction)")
    axes.grid(axis="x", alpha=0.3)


def _curves(axes: Axes, found: Findings) -> None:
    shown = [name for name in found.arms if beta_of(name) is None]
    colours = matplotlib.colormaps["tab10"]
    for number, name in enumerate(shown):
        curves = np.array([run.curves["test_exact"] for run in found.arms[name].runs])
        colour = colours(number % 10)
        line = "-" if _is_fractal(name) else "--"
        axes.plot(found.steps, 100 * curves.mean(axis=0), line, color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("exact answers to held-out problems, %")
    axes.set_title("Learning at those rates, mean over seeds (dashed: no fractal noise)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _sweep(axes: Axes, config: GenesisConfig, found: Findings) -> None:
    points = {beta_of(name): arm for name, arm in found.arms.items()}
    if "genesis" in found.arms:
        points[config.beta] = found.arms["genesis"]
    betas = sorted(beta for beta in points if beta is not None)
    for scores, colour, label in (
        ("test_exact", _RED, "held-out"),
        ("train_exact", _GREY, "training texts"),
    ):
        found_values = [
            mean_and_interval([100 * value for value in points[beta].values(scores)])
            for beta in betas
        ]
        rows = [row for row in found_values if row is not None]
        if len(rows) == len(betas) and rows:
            mean, low, high = (np.array(column) for column in zip(*rows, strict=True))
            axes.errorbar(
                betas,
                mean,
                [mean - low, high - mean],
                fmt="o-",
                color=colour,
                label=label,
                capsize=3,
            )
    axes.set_xlabel("beta of the noise (0: white), at the scales of genesis")
    axes.set_ylabel("exact answers, %")
    axes.set_title("The exponent of the noise, with 95 % intervals")
    axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 1))  # room for the legend
    if betas and config.seeds > 1:
        axes.legend(loc="upper right", ncols=2)
    axes.grid(alpha=0.3)


def learning_dynamics(config: GenesisConfig, record: Mapping[str, Mapping[str, Any]]) -> bytes:
    """PNG of the original's four panels: loss, accuracy, histogram of losses, final accuracy."""
    arms = zip(record, config.arms, config.learning_rates, strict=True)
    starts = [f"{name} = {meaning(arm)}; rate {rate:g}" for name, arm, rate in arms]
    colours = dict(zip(record, ("blue", "red", "green", "orange", "purple"), strict=False))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 10), dpi=300, layout="constrained")
        axes = figure.subplots(2, 2).flatten()
        for name, arm in record.items():
            colour = colours.get(name, "grey")
            losses = [loss for loss in arm["training_losses"] if loss is not None]
            axes[0].plot(arm["steps"][: len(losses)], losses, color=colour, label=name)
            axes[1].plot(arm["steps"], arm["evaluation_accuracies"], color=colour, label=name)
            if losses:
                axes[2].hist(losses, bins=20, alpha=0.7, density=True, color=colour, label=name)
            bar = axes[3].bar(name, arm["final_accuracy"], color=colour, alpha=0.7)
            axes[3].bar_label(bar, fmt="%.2f", padding=3)
        for panel in (1, 3):
            axes[panel].set_ylim(-0.02, 1.02)
        for panel, title, x, y in (
            (0, "Training loss", "step", "mean loss since the last evaluation"),
            (1, "Accuracy on the four prompts", "step", "share right (substring)"),
            (2, "Logged losses", "loss", "density"),
            (3, "After training", "", "share right of the four prompts"),
        ):
            axes[panel].set_title(title)
            axes[panel].set_xlabel(x)
            axes[panel].set_ylabel(y)
            axes[panel].grid(alpha=0.3)
            axes[panel].set_axisbelow(True)
            if panel < 3:
                axes[panel].legend()
        title = f"Published protocol, one seed: {_size(config)}"
        figure.suptitle("\n".join([title, *starts]), fontsize=13)
        return png(figure)


def _size(config: GenesisConfig) -> str:
    layers = f"{config.layers} layer{'s' * (config.layers > 1)}"
    return f"{layers} of width {config.width}, {config.steps:,} steps of {config.batch} texts"
