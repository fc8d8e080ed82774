"""The pictures of a run: the fractal itself, and how its dimension was read off."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from torch import Tensor

from fractalkern.dimension import DimensionResult
from fractalkern.experiments.pictures import STYLE, png
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.findings import CONTROL_LINES, Findings

_PALEST = 0.25
_BLUE, _GREY = "#3b5ba5", "#8a8a8a"


def restretch(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks: negative values evenly over [-1, -0.25], the others over [0.25, 1]; ties share one.

    The original's colour scale: every shade covers the same area, and the two signs never meet.
    """
    return rank_stretch(value, value)


def rank_stretch(value: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for `value` by its ranks among those of `reference`, whose range bounds them."""
    stretched = np.empty(value.shape)
    for negative, low, high in ((True, -1.0, -_PALEST), (False, _PALEST, 1.0)):
        chosen = (value < 0) == negative
        ordered = np.sort(reference[(reference < 0) == negative])
        part, most = value[chosen], max(ordered.size - 1, 1)
        rank = np.searchsorted(ordered, part, "left") + np.searchsorted(ordered, part, "right")
        middle = np.clip((rank - 1) / 2, 0, most)
        stretched[chosen] = low + (high - low) * middle / most
    return stretched


def fractal(config: TrainabilityConfig, value: Tensor, findings: Findings, note: str = "") -> bytes:
    """PNG of the grid `[N, N]`, origin below: blue converged, red diverged, deep near the turn.

    Every cell is the same whole number of pixels wide. `note` is added to what was drawn.
    """
    n = config.resolution
    inches = 8.0
    pixels = n * max(1, round(1600 / n))
    width, height, bottom = 10.6, 10.1, 0.95
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=pixels / inches)
        axes = figure.add_axes((1.05 / width, bottom / height, inches / width, inches / height))
        # Negated as in the original, so that converged is the blue end of the map.
        axes.imshow(
            -restretch(value.double().numpy()),
            cmap="Spectral",
            vmin=-1,
            vmax=1,
            origin="lower",
            extent=_extent(config),
            aspect="auto",
            interpolation="nearest",
        )
        _label_rates(axes, config)
        _title(figure, config, findings, note)
        bar = figure.add_axes((9.3 / width, bottom / height, 0.28 / width, inches / height))
        _colour_bar(bar)
        return png(figure)


def dimension(config: TrainabilityConfig, findings: Findings) -> bytes:
    """PNG of the box counts with their fit, and of the local slopes, beside the control's."""
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = Figure(figsize=(12, 5.4), dpi=160, layout=layout)
        counts, slopes = figure.subplots(1, 2)
        _plot_counts(counts, findings)
        _plot_slopes(slopes, findings)
        for axes in (counts, slopes):
            sizes = findings.control[0].sizes
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_xlabel("box side in cells")
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"Box-counting dimension of the boundary: {_what(config)}", fontsize=13)
        return png(figure)


def _plot_counts(axes: Axes, findings: Findings) -> None:
    line = findings.control[0]
    mean = np.mean([control.counts.numpy() for control in findings.control], axis=0)
    label = f"{CONTROL_LINES} straight lines, D = {findings.control_dimension:.3f}"
    axes.plot(line.sizes, mean, "s-", color=_GREY, markersize=5, linewidth=1, label=label)
    if findings.dimension is None:
        # Below the control's falling line.
        axes.text(0.04, 0.05, f"no fit: {findings.reason}", transform=axes.transAxes, wrap=True)
    else:
        fit = findings.dimension
        axes.plot(fit.sizes, fit.counts, "o", color=_BLUE, markersize=7, label="boundary")
        label = f"least squares, slope {float(fit.slope):.3f}"
        axes.plot(fit.sizes, _line(fit), color=_BLUE, linewidth=1.5, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("boxes that hold boundary")
    axes.legend(frameon=False)


def _line(fit: DimensionResult) -> NDArray[np.float64]:
    """The least-squares line through log counts with the fitted slope."""
    x, y = np.log(fit.sizes), np.log(fit.counts.numpy())
    fitted: NDArray[np.float64] = np.exp(y.mean() - float(fit.slope) * (x - x.mean()))
    return fitted


def _plot_slopes(axes: Axes, findings: Findings) -> None:
    slopes = np.array([control.local_slopes.numpy() for control in findings.control])
    sizes = findings.control[0].sizes
    low, high = slopes.min(axis=0), slopes.max(axis=0)
    axes.fill_between(sizes, low, high, color=_GREY, alpha=0.25, linewidth=0)
    label = "straight lines: mean and range"
    axes.plot(sizes, slopes.mean(axis=0), "s-", color=_GREY, markersize=5, linewidth=1, label=label)
    if findings.dimension is not None:
        fit = findings.dimension
        axes.plot(fit.sizes, fit.local_slopes, "o-", color=_BLUE, markersize=7, label="boundary")
    axes.set_ylabel("local slope, -d log n / d log s")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, 0.5), max(top, 2.0))
    axes.legend(frameon=False)


def _extent(config: TrainabilityConfig) -> tuple[float, float, float, float]:
    """Edges of the picture in powers of ten: rates are at cell centres, ends included."""
    low0, high0, low1, high1 = config.window
    half0 = (high0 - low0) / (config.resolution - 1) / 2
    half1 = (high1 - low1) / (config.resolution - 1) / 2
    return low0 - half0, high0 + half0, low1 - half1, high1 + half1


def _label_rates(axes: Axes, config: TrainabilityConfig) -> None:
    for axis, name, low, high in zip(
        (axes.xaxis, axes.yaxis),
        _axis_names(config),
        config.window[::2],
        config.window[1::2],
        strict=True,
    ):
        positions, labels, unit = ticks(low, high)
        axis.set_ticks(positions, labels)
        axis.set_label_text(name + unit, fontsize=13)
    axes.tick_params(labelsize=12, length=5)


def ticks(low: float, high: float) -> tuple[list[float], list[str], str]:
    """Positions and labels at round powers of ten, and what the axis' name must add to them.

    Deep in a zoom the powers differ in their last digits only, too many to write at each tick:
    there the ticks count small steps t of the power from the window's lower end.
    """
    step = _tick_step(high - low)
    decimals = _decimals(step)
    if decimals <= 3:
        positions = [
            i * step
            for i in range(math.ceil(low / step - 1e-9), 1 + math.floor(high / step + 1e-9))
        ]
        # Adding zero turns -0 into 0.
        labels = [f"$10^{{{round(p, decimals) + 0.0:.{decimals}f}}}$" for p in positions]
        return positions, labels, ""
    counts = range(math.floor((high - low) / step + 1e-9) + 1)
    digit = round(step * 10.0**decimals)
    labels = [str(i * digit) for i in counts]
    unit = f"\n$10^x$ at $x = {low!r} + t \\times 10^{{-{decimals}}}$, ticks at $t$"
    return [low + i * step for i in counts], labels, unit


def _tick_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, for four to ten ticks."""
    raw = span / 9
    unit = 10.0 ** math.floor(math.log10(raw))
    return next(step * unit for step in (1, 2, 5, 10) if step * unit >= raw * (1 - 1e-9))


def _decimals(step: float) -> int:
    """Digits after the point that multiples of `step` need."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _axis_names(config: TrainabilityConfig) -> tuple[str, str]:
    if config.condition == "init-offset":
        return "offset added to the initial input-layer weights", "learning rate of both layers"
    if config.condition == "init-offset-published":
        return "offset added to the input-layer weights at every step", (
            "learning rate of both layers"
        )
    return "learning rate of the input layer", "learning rate of the output layer"


def _what(config: TrainabilityConfig) -> str:
    return f"{config.condition}, width {config.width}, {config.steps} steps"


def _title(figure: Figure, config: TrainabilityConfig, findings: Findings, note: str) -> None:
    left = 1.05 / figure.get_figwidth()
    height = figure.get_figheight()
    figure.text(left, 1 - 0.42 / height, f"Where training converges: {_what(config)}", fontsize=17)
    fit = findings.dimension
    measured = "no dimension: degenerate boundary"
    if fit is not None:
        low, high = (float(end) for end in fit.interval)
        interval = "no honest interval" if fit.kind == ("none",) else f"{low:.2f} to {high:.2f}"
        measured = (
            f"boundary dimension {float(fit):.3f} ({interval}; "
            f"straight lines {findings.control_dimension:.3f})"
        )
    drawn = (
        f"{config.resolution} × {config.resolution} networks, {config.dtype}, seed {config.seed}"
        f"{note}"
    )
    found = f"{findings.converged_fraction:.1%} converge   ·   {measured}"
    for inches, text in ((0.72, drawn), (0.94, found)):
        figure.text(left, 1 - inches / height, text, fontsize=10.5, color="#444444")


def _colour_bar(axes: Axes) -> None:
    """The two used parts of the map, in the order in which they meet at the boundary."""
    ramp = np.linspace(_PALEST, 1.0, 256)
    colours = np.concatenate((ramp, -ramp[::-1]))[:, None]
    axes.imshow(
        colours,
        cmap="Spectral",
        vmin=-1,
        vmax=1,
        origin="lower",
        aspect="auto",
        extent=(0, 1, 0, 2),
    )
    axes.axhline(1, color="white", linewidth=3)
    axes.set_xticks([])
    axes.set_yticks([0.06, 0.94, 1.06, 1.94], ["fast", "slow", "slow", "fast"], fontsize=11)
    axes.yaxis.tick_right()
    axes.tick_params(length=0)
    for middle, word in ((0.5, "converged"), (1.5, "diverged")):
        axes.text(1.5, middle, word, rotation=90, va="center", ha="left", fontsize=13)
    axes.spines[:].set_visible(False)
