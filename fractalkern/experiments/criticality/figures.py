"""The pictures of a study."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from fractalkern.experiments.criticality.config import CriticalityConfig
from fractalkern.experiments.criticality.findings import Findings, Row
from fractalkern.experiments.criticality.sweep_figures import over_pairs, over_targets
from fractalkern.experiments.criticality.tasks import data_sets, task_named
from fractalkern.experiments.pictures import STYLE, png

_COLOURS = ("#3b5ba5", "#b5443c", "#5f8f3f", "#8a5aa8", "#c98a2b", "#3f8f8f", "#8a8a8a")
_GREY = "#8a8a8a"
_LEGEND_COLUMNS = 4  # of the longest names
_PANELS = (
    ("train_accuracy", "training accuracy"),
    ("test_accuracy", "test accuracy"),
    ("dead_rate", "hidden units that never fire"),
    ("sensitivity", "sensitivity |Δf| / |Δx|"),
    ("published_dimension", "D of the steepest 1 % (published rule)"),
    ("sigma_mean", "mean top singular value, hidden layers"),
)
_HELD = "target-T: the hidden layers' top singular values are held at T"
_ARMS = {
    "baseline": _HELD,
    "targets": f"{_HELD}, with weight lambda; output: the output layer's too",
    "layerwise": "targets-A-B: top singular values held at A in the first hidden layer, "
    "B in the second; target-T: at T in both",
    "schedules": f"{_HELD}; others: at a target that moves from 2.5 to 1, or is trained",
    "regularizers": _HELD,
    "tasks": _HELD,
}


def all_of(config: CriticalityConfig, found: Findings) -> dict[str, bytes]:
    """PNGs by file name."""
    with matplotlib.rc_context(STYLE):
        return _all_of(config, found)


def _all_of(config: CriticalityConfig, found: Findings) -> dict[str, bytes]:
    pictures = {"trajectories.png": trajectories(config, found)}
    if found.grids and {(arm, config.first_seed) for arm in ("none", "target-1")} <= set(
        found.grids
    ):
        pictures["maps.png"] = maps(config, found)
    if config.protocol == "fixed":
        pictures["differences.png"] = differences(config, found)
    if config.study == "targets":
        pictures["targets.png"] = png(over_targets(config, found))
    if config.study == "layerwise":
        pictures["pairs.png"] = png(over_pairs(config, found))
    return pictures


def trajectories(config: CriticalityConfig, found: Findings) -> bytes:
    """Six metrics over the epochs: mean and one standard deviation over seeds, up to seven arms."""
    rows, arms = _shown(found)
    same = len(rows) > 1 and _same(rows)
    figure = Figure(figsize=(12, 11), dpi=130, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(3, 2).flat, _PANELS, strict=True):
        for row, colour in zip(rows, _COLOURS, strict=False):
            if name in row.curves:
                # Where all lie on each other the first still shows on both sides of the others.
                _band(axes, found.times, row, name, colour, 4 if same and row is rows[0] else 1.5)
        note = _edges_too(axes, found, rows) if name == "published_dimension" else ""
        if name == "sigma_mean":
            axes.set_yscale("log")
            for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                which(ScalarFormatter())
        axes.set_title(title, fontsize=12)
        axes.set_xlabel(f"epoch{note}")
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    if figure.axes[0].lines:  # none if every run was frozen before the first measurement
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = min(len(rows), _LEGEND_COLUMNS)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    notes = []
    if len(rows) < arms:
        notes.append(f"{len(rows)} of {arms} arms are shown")
    if config.protocol == "published":
        notes.append("as published, by a penalty without a gradient")
    if same:
        notes.append("all arms lie on each other")
    title = f"{config.settings[0].words}, {config.protocol} protocol"
    spread = f"mean ± 1 standard deviation over {config.seeds} seeds"
    figure.suptitle(
        "\n".join([f"{title}: {spread}", _ARMS[config.study], "; ".join(notes)]).strip(),
        fontsize=11,
    )
    return png(figure)


def _shown(found: Findings) -> tuple[list[Row], int]:
    """The arms of the first setting, evenly thinned to what can be told apart; how many it has."""
    rows = [row for row in found.rows if row.setting == found.rows[0].setting]
    if len(rows) <= len(_COLOURS):
        return rows, len(rows)
    others = np.linspace(2, len(rows) - 1, len(_COLOURS) - 2).round().astype(int)
    return [*rows[:2], *(rows[i] for i in others)], len(rows)


def _same(rows: list[Row]) -> bool:
    first = rows[0].curves["test_accuracy"]
    return all(bool((row.curves["test_accuracy"] == first).all()) for row in rows[1:])


def _band(axes: Axes, times: list[int], row: Row, name: str, colour: str, linewidth: float) -> None:
    values = row.curves[name]
    mean = values.nanmean(0)
    spread = (values - mean).square().nanmean(0).sqrt() * (len(values) / (len(values) - 1)) ** 0.5
    axes.fill_between(times, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.plot(times, mean, color=colour, linewidth=linewidth, label=row.arm)


def _edges_too(axes: Axes, found: Findings, rows: list[Row]) -> str:
    """The dimension of the boundary itself, dashed, where it was taken; a smooth curve has 1."""
    axes.axhline(1, color=_GREY, linewidth=0.8)
    for row, colour in zip(rows, _COLOURS, strict=False):
        if "edge_dimension" in row.curves:
            curve = row.curves["edge_dimension"]
            axes.plot(found.times, curve.nanmean(0), "--", color=colour, linewidth=1)
    own = "; dashed: the boundary's own" * ("edge_dimension" in rows[0].curves)
    return f"  (grey: a smooth curve's D{own})"


def maps(config: CriticalityConfig, found: Findings) -> bytes:
    """The probability of class 1 over the window for the first seed, both arms, with its data."""
    task = task_named(config.task)
    data = data_sets(task, [config.first_seed], config.samples, config.noise, config.shares)
    x, y = data.test[0][0].numpy(), data.test[1][0].numpy()
    figure = Figure(figsize=(13, 4.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, 2)
    assert task.window is not None
    for axes, arm in zip(panels, ("none", "target-1"), strict=True):
        grid = found.grids[arm, config.first_seed]
        image = axes.imshow(
            grid.sigmoid().numpy(),
            cmap="RdBu_r",
            vmin=0,
            vmax=1,
            origin="lower",
            extent=task.window,
            aspect="auto",
            alpha=0.7,  # so that dots of the same class stand out
        )
        if bool((grid > 0).any()) and bool((grid < 0).any()):
            axes.contour(grid.numpy(), levels=[0.0], colors="black", extent=task.window)
        axes.scatter(
            *x.T,
            c=np.where(y == 1, _COLOURS[1], _COLOURS[0]),
            s=12,
            edgecolors="white",
            linewidths=0.4,
        )
        axes.set_xlim(task.window[:2])
        axes.set_ylim(task.window[2:])
        row = found.row(arm)
        name = "no regularisation" if arm == "none" else "top singular values held at 1"
        if arm != "none" and config.protocol == "published":
            name = "the published penalty, which has no gradient"
        axes.set_title(f"{name}: test accuracy {float(row.last['test_accuracy'][0]):.3f}")
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")
    figure.colorbar(image, ax=panels, label="probability of class 1")
    figure.suptitle(
        f"What both networks of seed {config.first_seed} say; dots: test points by their class, "
        "black: the decision boundary",
        fontsize=12,
    )
    return png(figure)


def differences(config: CriticalityConfig, found: Findings) -> bytes:
    """Test accuracy and NLL of every arm less that of no regularisation, with intervals."""
    rows = [row for row in found.rows if row.comparisons]
    figure = Figure(figsize=(12, 2.1 + 0.26 * len(rows)), dpi=130, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    several = len({row.setting for row in rows}) > 1
    for axes, outcome, title in zip(
        panels,
        ("test_accuracy", "test_nll"),
        ("test accuracy (right is better)", "test NLL (left is better)"),
        strict=True,
    ):
        axes.axvline(0, color=_GREY, linewidth=1)
        for place, row in enumerate(rows):
            c = row.comparisons[outcome]
            colour = _COLOURS[1] if c.significant() else _GREY
            axes.plot([c.low, c.high], [place, place], color=colour, linewidth=1.5)
            axes.plot(c.difference, place, "o", color=colour, markersize=4)
        axes.set_title(f"difference in {title}", fontsize=11)
        axes.grid(color="#eeeeee", axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    labels = [f"{row.setting}  {row.arm}" if several else row.arm for row in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    panels[0].set_ylim(len(rows) - 0.3, -0.7)
    figure.suptitle(
        f"Each arm against no regularisation, {config.seeds} paired seeds, 95 % intervals; "
        f"red: significant after Holm's correction\n{_ARMS[config.study]}",
        fontsize=11,
    )
    return png(figure)
