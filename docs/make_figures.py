"""Draws the figures of the documentation into docs/figures: `python docs/make_figures.py`."""

from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import fractalkern as fk

FOLDER = Path(__file__).parent / "figures"
BETAS = (0.0, 1.0, 2.0, 3.0)
BLUE, RED, GREY = "#3b5ba5", "#b5443c", "#8a8a8a"


def fields() -> Figure:
    """One seed at four orders: a profile, an image, a slice of a volume, and the spectra."""
    figure = Figure(figsize=(12, 11), dpi=130, layout="constrained")
    axes = figure.subplots(4, 4)
    for column, beta in enumerate(BETAS):
        profile = fk.fractal_noise(1024, beta, seed=1, dtype=torch.float64)
        image = fk.fractal_noise((256, 256), beta, seed=1, dtype=torch.float64)
        volume = fk.fractal_noise((64, 64, 64), beta, seed=1, dtype=torch.float64)
        axes[0, column].plot(profile, color=BLUE, linewidth=0.6)
        axes[0, column].set_title(f"beta = {beta:g}", fontsize=13)
        axes[0, column].set_xlabel("cell")
        for row, plane in ((1, image), (2, volume[32])):
            axes[row, column].imshow(plane, cmap="RdBu_r", vmin=-3, vmax=3, origin="lower")
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        for field, colour, name in (
            (profile, GREY, "1-D"),
            (image, BLUE, "2-D"),
            (volume, RED, "3-D"),
        ):
            fit = fk.spectrum_of(field)
            label = f"{name}: {fit.beta:.2f} ± {fit.stderr:.2f}"
            axes[3, column].loglog(fit.k, fit.power, "o", markersize=3, color=colour, label=label)
            axes[3, column].loglog(
                fit.k, fit.amplitude * fit.k**-fit.beta, color=colour, linewidth=1
            )
        axes[3, column].set_xlabel("|k| in cycles per cell")
        axes[3, column].legend(fontsize=8, title="measured slope", title_fontsize=8)
    for row, name in enumerate(("1024 cells", "256 × 256", "64³, middle slice", "power")):
        axes[row, 0].set_ylabel(name, fontsize=12)
    figure.suptitle("fractal_noise: one seed, four orders of the spectrum", fontsize=15)
    return figure


def convergence() -> Figure:
    """Relative error of the top singular value against passes over the matrix."""
    figure = Figure(figsize=(12, 4.4), dpi=130, layout="constrained")
    size, passes = 256, list(range(2, 65, 2))
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    rank = torch.arange(1, size + 1, dtype=torch.float64)
    matrices = {
        "Gaussian": torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5,
        "decaying: rank^-1/2": left @ torch.diag(rank**-0.5) @ right,
        "clustered: ten within 1 %": left
        @ torch.diag(torch.where(rank <= 10, 1 - 0.001 * (rank - 1), 0.5))
        @ right,
    }
    for axes, (name, matrix) in zip(
        figure.subplots(1, 3, sharey=True), matrices.items(), strict=True
    ):
        exact = torch.linalg.matrix_norm(matrix, 2)
        for method, colour in (("power", GREY), ("lanczos", BLUE)):
            errors = torch.zeros(len(passes), dtype=torch.float64)
            seeds = 8
            for seed in range(seeds):
                found = torch.stack(
                    [
                        fk.power_iteration(matrix, iters=count, method=method, seed=seed).sigma
                        for count in passes
                    ]
                )
                errors += (1 - found / exact).clamp(min=1e-16).log() / seeds
            axes.semilogy(passes, errors.exp(), "o-", markersize=3, color=colour, label=method)
        axes.axhline(1e-3, color="#bbbbbb", linewidth=0.8, linestyle="--", label="0.1 %")
        axes.set_title(name, fontsize=12)
        axes.set_xlabel("passes over the matrix")
        axes.grid(color="#eeeeee")
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("relative error of sigma, geometric mean of 8 starts")
    figure.suptitle("power_iteration: error against passes, 256 × 256", fontsize=14)
    return figure


def main() -> None:
    """Draws all of them."""
    FOLDER.mkdir(exist_ok=True)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "axes.linewidth": 0.8}):
        for draw in (fields, convergence):
            draw().savefig(FOLDER / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
