"""Two panels: losses of the sub-models over the steps, and at the end beside their twins."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from fractalkern.experiments.fractalformer.config import FractalFormerConfig, SubModel
from fractalkern.experiments.fractalformer.findings import Findings
from fractalkern.experiments.fractalformer.report import name
from fractalkern.experiments.pictures import STYLE, png

_GREY = "#8a8a8a"
_MAPS = ("Greys", "Blues", "Oranges", "Greens", "Purples", "Reds")  # of the levels
_UNIT = "nats a character"


def losses(config: FractalFormerConfig, found: Findings) -> bytes:
    """PNG of the validation losses."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, 5.8), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, config, found)
        _ends(right, config, found)
        several = "s" * (config.seeds > 1)
        layers = f"{config.layers} layer{'s' * (config.layers > 1)}"
        figure.suptitle(
            f"Models inside a model of {layers} and width {config.width}, protocol "
            f"{config.protocol}, {config.seeds} seed{several}",
            fontsize=14,
        )
        return png(figure)


def _colour(submodel: SubModel) -> tuple[float, float, float, float]:
    """A hue a level, darker for its first models."""
    level, model = submodel
    shade = 0.85 - 0.45 * model / 2**level
    red, green, blue, alpha = matplotlib.colormaps[_MAPS[level % len(_MAPS)]](shade)
    return red, green, blue, alpha


def _curves(axes: Axes, config: FractalFormerConfig, found: Findings) -> None:
    for one in config.submodels:
        curve = found.validation[one].mean(dim=0).numpy()
        axes.plot(
            found.steps,
            curve,
            "-o" if config.weight(one) else "--s",
            color=_colour(one),
            markersize=3.5,
            label=name(one) if config.weight(one) else f"{name(one)}, no loss",
        )
    axes.axhline(
        found.by_frequency, color=_GREY, linestyle=":", label="by frequencies of characters"
    )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [tick for tick in (0.5, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation loss, {_UNIT} (logarithmic)")
    axes.set_title("While they train, mean over seeds; (level, model)")
    axes.legend(ncols=2, fontsize=9)
    axes.grid(alpha=0.3)


def _ends(axes: Axes, config: FractalFormerConfig, found: Findings) -> None:
    width = 0.42 if found.twins else 0.7
    shift = width / 2 if found.twins else 0.0
    highest = [1e-3]
    for place, one in enumerate(config.submodels):
        colour = _colour(one)
        highest.append(
            _bar(axes, place - shift, width, found.last(one), facecolor=colour, edgecolor="white",
                 hatch=None if config.weight(one) else "///")
        )  # fmt: skip
        if found.twins:
            twins = found.last_of_twins(one[0])
            highest.append(
                _bar(axes, place + shift, 0.9 * width, twins, facecolor="white", edgecolor=colour)
            )
    top = 1.25 * max(highest)  # room for the legend
    axes.set_ylim(0, top)
    handles: list[Artist] = []
    if found.by_frequency < top:
        axes.axhline(found.by_frequency, color=_GREY, linestyle=":")
        handles.append(
            Line2D([], [], color=_GREY, linestyle=":", label="by frequencies of characters")
        )
    if found.twins:
        handles += [
            Patch(facecolor=_GREY, label="sub-model, trained jointly"),
            Patch(facecolor="white", edgecolor=_GREY, label="its twin, trained alone"),
        ]
    if handles:
        axes.legend(handles=handles, loc="upper left", fontsize=9)
    labels = [
        name(one) if config.weight(one) else f"{name(one)}\nno loss" for one in config.submodels
    ]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("sub-model (level, model)")
    axes.set_ylabel(f"final validation loss, {_UNIT}")
    axes.set_title("After the last step; dots are seeds, bars and numbers their means")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _bar(axes: Axes, place: float, width: float, values: Sequence[float], **how: Any) -> float:
    """A bar of the mean with a dot a value; the highest value, 0 where one is not finite."""
    if not all(map(math.isfinite, values)):
        axes.annotate("not finite", (place, 0), ha="center", va="bottom", rotation=90, fontsize=9)
        return 0.0
    mean = sum(values) / len(values)
    axes.bar(place, mean, width, linewidth=1.5, **how)
    axes.plot([place] * len(values), values, "o", color="black", markersize=3)
    axes.annotate(f"{mean:.2f}", (place, max(values)), (0, 5), textcoords="offset points",
                  ha="center", fontsize=8.5)  # fmt: skip
    return max(values)
