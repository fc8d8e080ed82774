"""`fractalkern dim`: the dimension of the boundary in a picture or an array."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
import tyro
from torch import Tensor

from fractalkern.commands.arguments import parsed
from fractalkern.dimension import DimensionResult, estimate_dimension
from fractalkern.edges import MASK_DTYPES, boundary, checked_values
from fractalkern.errors import InputError, InputTypeError
from fractalkern.sweeps.files import write_atomically


@dataclass(frozen=True)
class DimOptions:
    """Prints the dimension of the boundary between the two sides of a picture or an array.

    Without --threshold or --label, bool and unsigned arrays are masks (nonzero or not), other
    arrays count by their sign, and pictures by whether a pixel is lighter than mid-grey.
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """A .png, .npy or .safetensors file."""
    threshold: float | None = None
    """Cells above it are one side; grey values of pictures run from 0 to 1."""
    label: float | None = None
    """Cells of exactly this value are one side."""
    array: str | None = None
    """Name of the array in a .safetensors file; may be left out where there is one only."""
    level: float = 0.95
    """Confidence level of the interval, from 0 to 1."""
    null: Literal["smooth", "smooth+noise", "marginal", "none"] = "smooth"
    """What the boundary is compared with."""
    noise_width: float = 0.5
    """How far about the boundary the null smooth+noise flips cells, in cells."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.png")] = Path("dim.png")
    """Picture of the boundary and of its counts."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Also write all numbers here."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    options = parsed("dim", DimOptions, arguments)
    if options.out.suffix.lower() != ".png":
        raise InputError(f"out must end in .png, got {str(options.out)!r}")
    values = _sides(_load(options.file, options.array), options)
    result = estimate_dimension(
        values,
        level=options.level,
        null=None if options.null == "none" else options.null,
        noise_width=options.noise_width,
    )
    write_atomically(options.out, _png(values, result))
    if options.json is not None:
        write_atomically(options.json, result.to_json().encode())
    shape = " x ".join(map(str, values.shape))
    print(f"{options.file}: {shape} cells, {int(result.boundary_cells):,} of them boundary")
    print(result.describe()[0])
    for sentence in meaning(result):
        print(sentence)
    print(f"picture: {options.out}")
    return 0


def meaning(result: DimensionResult) -> list[str]:
    """What the numbers of one boundary show and do not show, in sentences."""
    said = []
    low, high = (float(end) for end in result.interval)
    if result.kind == ("smooth",):
        said.append(
            "From cell to cell the boundary is smooth: nothing here shows a fractal at this "
            "resolution. Structure below a cell can't be seen."
        )
    elif result.kind == ("brownian",):
        said.append(
            f"The boundary is rough over the scales of this grid in the way of a random fractal of "
            f"dimension {low:.2f} to {high:.2f}. Whether that goes on below a cell can't be seen."
        )
    said += [f"{warning[0].upper()}{warning[1:]}." for warning in result.warnings]
    if result.null is not None:
        verdict = bool(result.fractal)
        rejected, kept = {
            "smooth": (
                "A smooth boundary of the same course would hardly have such a slope; seed noise "
                "might (try --null smooth+noise).",
                "A smooth boundary of the same course has such a slope too.",
            ),
            "smooth+noise": (
                "Noise of that width about a smooth boundary would hardly give such a slope.",
                "Noise of that width about a smooth boundary gives such a slope too.",
            ),
            "marginal": (
                "Cells drawn by themselves with the frequencies of their rows would hardly give so "
                "low a slope: there is structure.",
                "Cells drawn by themselves with the frequencies of their rows give such a slope "
                "too: no structure is shown.",
            ),
        }[result.null.name]
        said.append(rejected if verdict else kept)
    return said


def _load(path: Path, name: str | None) -> Tensor:
    readers = {".png": _read_picture, ".npy": _read_npy, ".safetensors": _read_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"file must end in one of {', '.join(readers)}, got {str(path)!r}")
    if name is not None and reader is not _read_safetensors:
        raise InputError(f"array must be left out for {str(path)!r}, which holds just one")
    try:
        return reader(path, name)
    except InputError:
        raise
    except (OSError, EOFError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"file must be readable, but {path}: {error}") from None


def _read_picture(path: Path, _: str | None) -> Tensor:
    from PIL import Image

    with Image.open(path) as picture:
        wide = picture.mode.startswith("I")  # 16 bits; converting to "L" would clip them at 255
        grey = np.asarray(picture if wide else picture.convert("L"), dtype=np.float32)
    return torch.from_numpy(grey / (65535 if wide else 255))


def _read_npy(path: Path, _: str | None) -> Tensor:
    array = np.load(path, allow_pickle=False)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise InputTypeError(f"file must hold numbers, got {array.dtype} in {path}") from None


def _read_safetensors(path: Path, name: str | None) -> Tensor:
    arrays = safetensors.torch.load_file(path)
    if not arrays:
        raise InputError(f"file must hold an array, but {path} holds none")
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name not in arrays:
        names = ", ".join(arrays)
        raise InputError(f"array must be one of {names} in {path}, got {name}")
    return arrays[name]


def _sides(values: Tensor, options: DimOptions) -> Tensor:
    if options.threshold is not None and options.label is not None:
        raise InputError("threshold and label must not be given together")
    values = checked_values("dim", values)  # a comparison would take NaN for one side
    if options.label is not None:
        inside, name = values == options.label, "label"
    elif options.threshold is not None:
        inside, name = values > options.threshold, "threshold"
    else:
        return values > 0.5 if options.file.suffix.lower() == ".png" else values
    if values.numel() and (inside.all() or not inside.any()):
        least, most = values.double().aminmax()
        raise InputError(
            f"{name} must leave cells on both sides, got {getattr(options, name):g} for values "
            f"from {least:g} to {most:g}"
        )
    return inside


def _png(values: Tensor, result: DimensionResult) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    flat = values.ndim == 2
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "axes.linewidth": 0.8}):
        figure = Figure(figsize=(11 if flat else 5.5, 4.8), dpi=160, layout="constrained")
        axes = figure.subplots(1, 1 + flat, squeeze=False)[0]
        if flat:
            inside = values != 0 if values.dtype in MASK_DTYPES else values < 0
            axes[0].imshow(inside.numpy(), cmap="Greys", vmin=-1, vmax=3, interpolation="nearest")
            rows, columns = boundary(values).nonzero().T.numpy() + 0.5
            size = max(0.7, 90 / max(values.shape))  # in points: visible however small a cell is
            axes[0].plot(columns, rows, "s", color="#b3261e", markersize=size, markeredgewidth=0)
            axes[0].set_title("both sides in grey, the boundary in red", fontsize=10)
            axes[0].set_xlabel("cell")
            axes[0].set_ylabel("cell")
        result.plot(axes[-1])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
