"""The original's four panels: how far each run came, what stayed finite, final losses, labels."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fractalkern.experiments.finetune.config import OPTIMIZERS, FinetuneConfig
from fractalkern.experiments.finetune.findings import Findings
from fractalkern.experiments.pictures import STYLE, png

_RED, _GREEN = "#b2182b", "#4d9221"


def grids(config: FinetuneConfig, found: Findings) -> bytes:
    """PNG of the first seed's grids; the last panel has the labels of all seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(21, 5.6), dpi=150, layout="constrained")
        ratio, stable, loss, labels = figure.subplots(1, 4)
        _progress(figure, ratio, config, found)
        _stability(stable, config, found)
        _losses(figure, loss, config, found)
        _labels(figure, labels, config, found)
        for axes in (ratio, stable, loss, labels):
            axes.set_xlabel("log10 rate of the head (AdamW)")
            axes.set_ylabel(f"log10 rate of the matrices ({OPTIMIZERS[config.optimizer]})")
        figure.suptitle(_what(config), fontsize=13)
        return png(figure)


def _progress(figure: Figure, axes: Axes, config: FinetuneConfig, found: Findings) -> None:
    ratio = found.ratio[0].log10().numpy()
    # Beyond a factor of ten only the sign matters; a diverging loss may have risen by 1e30.
    finite = np.abs(ratio[np.isfinite(ratio)])
    most = min(max(float(finite.max(initial=0.0)), 1e-3), 1.0)
    image = _show(axes, config, ratio, cmap="RdBu_r", vmin=-most, vmax=most)
    which = "last 20 batches over the first" if config.protocol == "published" else "after / before"
    extend = "both" if (finite > most).any() else "neither"
    label = f"log10 of the loss: {which}"
    figure.colorbar(image, ax=axes, label=label, shrink=0.85, extend=extend)
    axes.set_title("Blue: the loss fell; red: it rose; black: not finite")


def _stability(axes: Axes, config: FinetuneConfig, found: Findings) -> None:
    colours = ListedColormap([_RED, _GREEN])
    _show(axes, config, found.stable[0].double().numpy(), cmap=colours, vmin=0, vmax=1)
    axes.legend(
        handles=[Patch(color=_GREEN, label="all losses finite"), Patch(color=_RED, label="not")],
        loc="lower left",
        framealpha=0.9,
    )
    axes.set_title(f"Finite in {100 * float(found.stable[0].double().mean()):.1f} % of the runs")


def _losses(figure: Figure, axes: Axes, config: FinetuneConfig, found: Findings) -> None:
    name = "last_loss" if config.protocol == "published" else "probe_after"
    losses = found.scalars[name][0].clone()
    losses[~found.converged[0]] = float("nan")
    image = _show(axes, config, losses.numpy(), cmap="viridis_r")
    what = "mean of the last 20 batches" if config.protocol == "published" else "held-out texts"
    figure.colorbar(image, ax=axes, label=f"final loss in nats a character: {what}", shrink=0.85)
    axes.set_title("Final loss of the runs that converged")


def _labels(figure: Figure, axes: Axes, config: FinetuneConfig, found: Findings) -> None:
    share = found.converged.double().mean(dim=0).numpy()
    image = _show(axes, config, share, cmap="cividis", vmin=0, vmax=1)
    label = f"share of {config.seeds} seeds" if config.seeds > 1 else "1: converged"
    figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    percent = 100 * float(found.converged.double().mean())
    axes.set_title(f"Converged: {percent:.1f} % of the runs")


def _show(axes: Axes, config: FinetuneConfig, values: NDArray[np.float64], **how: Any) -> AxesImage:
    """The grid with the matrices' rate upwards, cells centred on their rates."""
    low0, high0, low1, high1 = config.window
    half0, half1 = ((high - low) / (config.resolution - 1) / 2
                    for low, high in ((low0, high0), (low1, high1)))  # fmt: skip
    axes.set_facecolor("black")
    return axes.imshow(
        np.ma.masked_invalid(values),
        origin="lower",
        extent=(low1 - half1, high1 + half1, low0 - half0, high0 + half0),
        aspect="auto",
        interpolation="nearest",
        **how,
    )


def _what(config: FinetuneConfig) -> str:
    layers = f"{config.layers} layer{'s' * (config.layers > 1)}"
    seeds = f"; first of {config.seeds} seeds" * (config.seeds > 1)
    return (
        f"Fine-tuning by {config.resolution} x {config.resolution} pairs of rates, protocol "
        f"{config.protocol}, {config.schedule} schedule: {layers} of width {config.width}, "
        f"{config.steps:,} steps of {config.batch} texts{seeds}"
    )
