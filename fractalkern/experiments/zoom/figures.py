"""The picture of a zoom: the frames of its first path, and dimension against width."""

from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fractalkern.experiments.pictures import STYLE, png
from fractalkern.experiments.trainability.figures import restretch
from fractalkern.experiments.zoom.frames import Frame
from fractalkern.experiments.zoom.report import by_level, used
from fractalkern.experiments.zoom.windows import smaller_side

if TYPE_CHECKING:
    from fractalkern.experiments.zoom.run import Zoom

_BLUE, _GREY, _RED = "#3b5ba5", "#8a8a8a", "#b5443c"
_MOST_FRAMES = 12  # in the strip; of a longer path every second, third, ...
_MOST_COLUMNS = 6
_THUMBNAIL = 512  # cells along each axis


def thumbnail(frame: Frame) -> Frame:
    """The frame in as many cells as `overview` can show: a path of large ones would fill memory."""
    skip = -(-len(frame.value) // _THUMBNAIL)
    cells = slice(None, None, skip), slice(None, None, skip)
    return replace(
        frame, value=frame.value[cells].clone(), converged=frame.converged[cells].clone()
    )


def overview(zoom: "Zoom", frames: list[Frame]) -> bytes:
    """PNG: frames of one path, each with the outline of the next, above D against width."""
    chosen = frames[:: -(-len(frames) // _MOST_FRAMES)]
    rows = -(-len(chosen) // _MOST_COLUMNS)
    columns = -(-len(chosen) // rows)
    height = rows * (0.3 + 12 / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, height + 5.2), dpi=130, layout="constrained")
        parts = figure.add_gridspec(2, 1, height_ratios=(height + 0.4, 4.8))
        strip, plot = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
        config = zoom.config
        strip.suptitle(
            f"A zoom into the boundary: {config.condition}, width {config.width}, "
            f"{config.steps} steps, rule: {config.path}\n"
            "blue and green converged, yellow and red did not",
            fontsize=13,
        )
        for axes in (grid := strip.subplots(rows, columns, squeeze=False).ravel()):
            axes.set_axis_off()
        following: list[Frame | None] = [*chosen[1:], None]
        for axes, frame, inner in zip(grid, chosen, following, strict=False):
            _draw(axes, frame, inner)
        _plot(plot.subplots(), zoom)
        return png(figure)


def _draw(axes: Axes, frame: Frame, inner: Frame | None) -> None:
    low0, high0, low1, high1 = frame.window
    axes.imshow(
        -restretch(frame.value.double().numpy()),
        cmap="Spectral",
        vmin=-1,
        vmax=1,
        origin="lower",
        extent=(0, 1, 0, 1),
        interpolation="antialiased",
    )
    axes.set_title(f"level {frame.level}: {smaller_side(frame.window):.2g} decades", fontsize=10)
    if inner is not None:
        left, right = ((x - low0) / (high0 - low0) for x in inner.window[:2])
        bottom, top = ((y - low1) / (high1 - low1) for y in inner.window[2:])
        place = (left, bottom), right - left, top - bottom
        axes.add_patch(Rectangle(*place, fill=False, edgecolor="white", linewidth=2.2))
        axes.add_patch(Rectangle(*place, fill=False, edgecolor="black", linewidth=1.0))


def _plot(axes: Axes, zoom: "Zoom") -> None:
    good = used(list(zoom.levels))
    widths = [smaller_side(entry.window) for entry in good]
    dimensions = np.array([entry.measured.dimension for entry in good], dtype=float)
    axes.plot(widths, dimensions, "o", color=_BLUE, alpha=0.3, markersize=5, label="ours, a frame")
    levels = [level for level in by_level(zoom) if level.dimension is not None]
    wide = [level.width for level in levels]
    mean = np.array([level.dimension for level in levels], dtype=float)
    axes.plot(wide, mean, "-", color=_BLUE, linewidth=1.6, label="ours, mean over paths")
    ranged = [level for level in levels if level.low is not None]
    if ranged:
        axes.fill_between(
            [level.width for level in ranged],
            np.array([level.low for level in ranged], dtype=float),
            np.array([level.high for level in ranged], dtype=float),
            color=_BLUE,
            alpha=0.15,
            linewidth=0,
            label="95 % interval of the mean",
        )
    published = np.array([level.published for level in levels], dtype=float)
    label = "published estimator, pooled over paths"
    axes.plot(wide, published, "s--", color=_RED, markersize=4, linewidth=1, label=label)
    axes.axhline(1, color=_GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_ylim(np.nanmin([*dimensions, *published, 0.85]) - 0.05, 2.05)
    axes.set_xlabel("width of the window in decades of the learning rate (deeper to the right)")
    axes.set_ylabel("box-counting dimension")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", ncols=2)
