"""The picture of a dimension: counts over size, the fitted line, and what the null gave."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _GREY = "#1f6fb4", "#808080"


def plot_counts(result: Any, axes: "Axes | None" = None, index: int = 0) -> "Axes":
    """Draws array `index` of a `DimensionResult`; makes a figure if no axes are given."""
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(5.5, 4), layout="constrained").add_subplot()
    sizes = np.array(result.sizes, dtype=float)
    counts = result.counts.reshape(-1, len(sizes))[index].numpy()
    slope = float(result.slope.flatten()[index])
    x, y = np.log(sizes), np.log(counts)
    axes.plot(sizes, counts, "o", color=_BLUE, markersize=6, label="boxes that hold boundary")
    line = np.exp(y.mean() - slope * (x - x.mean()))
    axes.plot(sizes, line, color=_BLUE, linewidth=1.2, label=f"least squares, slope {slope:.3f}")
    if result.null is not None:
        slopes = result.null.slopes.reshape(-1, result.null.slopes.shape[-1])[index].numpy()
        low, high = np.quantile(slopes, [0.025, 0.975])
        ends = [counts[0] * (sizes / sizes[0]) ** -end for end in (low, high)]
        label = f"slopes of the null {result.null.name!r}: {low:.2f} to {high:.2f}"
        axes.fill_between(sizes, *ends, color=_GREY, alpha=0.3, linewidth=0, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("box side (cells)")
    axes.set_ylabel("number of boxes")
    axes.set_title(result.describe()[index], fontsize=10)
    axes.legend(frameon=False)
    return axes
