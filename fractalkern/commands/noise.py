"""`fractalkern noise`: a field as an array or as a picture."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import safetensors.torch
import torch
import tyro
from torch import Tensor

from fractalkern.commands.arguments import parsed
from fractalkern.errors import InputError
from fractalkern.ops.fractal_noise import fractal_noise
from fractalkern.spectra import SpectrumFit, spectrum_of
from fractalkern.sweeps.files import write_atomically


@dataclass(frozen=True)
class NoiseOptions:
    """Writes a Gaussian field with power ~ |k|^-beta, the same for a seed on every machine."""

    size: tuple[int, ...] = (512, 512)
    """Cells along each of 1 to 5 axes."""
    beta: float = 2.0
    """Order of the spectrum: 0 white, 1 pink, 2 red."""
    seed: int = 0
    """Key of the random numbers."""
    spectrum: Literal["gaussian", "phase", "genesis"] = "gaussian"
    """Law of the modes."""
    normalize: Literal["sample", "ensemble", "none"] = "sample"
    """Variance 1 of this field, expected variance 1, or amplitudes as they are."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the field."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("noise.png")
    """.npy or .safetensors (array `field`) for the numbers, .png for a picture and a spectrum."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    options = parsed("noise", NoiseOptions, arguments)
    write = _WRITERS.get(options.out.suffix)
    if write is None:
        raise InputError(f"out must end in one of {', '.join(_WRITERS)}, got {str(options.out)!r}")
    field = fractal_noise(
        options.size,
        options.beta,
        seed=options.seed,
        spectrum=options.spectrum,
        normalize=None if options.normalize == "none" else options.normalize,
        dtype=getattr(torch, options.dtype),
    )
    write_atomically(options.out, write(field, options))
    shape = " x ".join(map(str, options.size))
    print(f"{options.out}: {shape}, beta {options.beta:g}, seed {options.seed}{_measured(field)}")
    return 0


def _measured(field: Tensor) -> str:
    fit = _fit(field)
    return "" if fit is None else f", measured slope {fit.beta:.3f} ± {fit.stderr:.3f}"


def _fit(field: Tensor) -> SpectrumFit | None:
    """None where a field has too few modes for one."""
    try:
        return spectrum_of(field)
    except InputError:
        return None


def _npy(field: Tensor, _: NoiseOptions) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, field.numpy())
    return buffer.getvalue()


def _safetensors(field: Tensor, options: NoiseOptions) -> bytes:
    settings = f"beta={options.beta} seed={options.seed} spectrum={options.spectrum}"
    return safetensors.torch.save({"field": field}, {"settings": settings})


def _png(field: Tensor, options: NoiseOptions) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "axes.linewidth": 0.8}):
        figure = Figure(figsize=(12, 5.4), dpi=160, layout="constrained")
        picture, plot = figure.subplots(1, 2)
        plane = field.double()
        while plane.ndim > 2:  # the middle of every axis but the last two
            plane = plane[plane.shape[0] // 2]
        title = f"beta = {options.beta:g}, {' × '.join(map(str, options.size))}"
        if field.ndim == 1:
            picture.plot(plane.numpy(), color="#3b5ba5", linewidth=0.8)
            picture.set_xlabel("cell")
            picture.set_ylabel("value")
        else:
            limit = float(plane.abs().max()) or 1.0
            image = picture.imshow(
                plane.numpy(),
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                origin="lower",
                interpolation="nearest",
            )
            figure.colorbar(image, ax=picture, label="value", shrink=0.85)
            picture.set_xlabel("cell along the last axis")
            picture.set_ylabel("cell along the last axis but one")
            title += ", a middle slice" * (field.ndim > 2)
        picture.set_title(title, fontsize=12)
        fit = _fit(field)
        if fit is None:
            plot.text(0.5, 0.5, "too few modes for a spectrum", ha="center")
        else:
            plot.loglog(fit.k, fit.power, "o", color="#3b5ba5", markersize=4, label="radial mean")
            line = fit.amplitude * fit.k**-fit.beta
            label = f"fit, slope {fit.beta:.3f} ± {fit.stderr:.3f}"
            plot.loglog(fit.k, line, color="#8a8a8a", linewidth=1.2, label=label)
            plot.set_xlabel("|k| in cycles per cell")
            plot.set_ylabel("power")
            plot.set_title("spectrum", fontsize=12)
            plot.grid(color="#dddddd", linewidth=0.6)
            plot.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[Tensor, NoiseOptions], bytes]] = {
    ".png": _png,
    ".npy": _npy,
    ".safetensors": _safetensors,
}
