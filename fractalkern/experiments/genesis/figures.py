"""The pictures of both protocols."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fractalkern.experiments.genesis.arms import beta_of
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.findings import Findings, mean_and_interval
from fractalkern.experiments.statistics import Comparison

_BLUE, _RED, _GREY = "#3b5ba5", "#b5443c", "#8a8a8a"
_STYLE: Any = {"font.family": "DejaVu Sans", "axes.linewidth": 0.8}


def study(config: GenesisConfig, found: Findings) -> bytes:
    """PNG: the arms' scores, the tested differences, the sweep of beta, and learning curves."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(14, 10), dpi=110, layout="constrained")
        top, bottom = figure.subplots(2, 2, gridspec_kw={"width_ratios": (1.15, 1)})
        _scores(top[0], found)
        _differences(top[1], found.exact)
        _curves(bottom[0], found)
        _sweep(bottom[1], config, found)
        word, _ = found.verdict
        figure.suptitle(
            f"Does 1/f^beta noise in the weights help a small GPT-2? Here: {word}\n"
            f"{config.layers} layers of width {config.width}, {config.steps:,} steps, "
            f"{config.seeds} seeds, held-out arithmetic",
            fontsize=14,
        )
        return _png(figure)


def _scores(axes: Axes, found: Findings) -> None:
    names = list(found.arms)[::-1]
    for row, name in enumerate(names):
        values = [100 * value for value in found.arms[name].values("test_exact")]
        fractal = name.startswith(("genesis", "fractal")) or beta_of(name)
        colour = _RED if fractal else _BLUE
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.35, markersize=5)
        axes.plot(np.mean(values), row, "|", color=colour, markersize=16, markeredgewidth=2.5)
    labels = [f"{name}  (rate {found.arms[name].rate:g})" for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("exact answers to held-out problems, % (dot: a seed, bar: their mean)")
    axes.set_title("Every arm at the rate its validation texts choose (red: fractal noise)")
    axes.grid(axis="x", alpha=0.3)


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
        axes.plot(found.steps, 100 * curves.mean(axis=0), color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("exact answers to held-out problems, %")
    axes.set_title("Learning, mean over seeds, at the same rates")
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
    if betas and config.seeds > 1:
        axes.legend()
    axes.grid(alpha=0.3)


def learning_dynamics(record: Mapping[str, Mapping[str, Any]]) -> bytes:
    """PNG of the original's four panels: loss, accuracy, histogram of losses, final accuracy."""
    colours = dict(zip(record, ("blue", "red", "green", "orange", "purple"), strict=False))
    with matplotlib.rc_context(_STYLE):
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
        axes[3].set_ylim(0, 1)
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
            if panel < 3:
                axes[panel].legend()
        figure.suptitle("Genesis vs Standard, published protocol", fontsize=16)
        return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
