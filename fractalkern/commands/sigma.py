"""`fractalkern sigma`: the spectral norms of a checkpoint's weights."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import safetensors
import safetensors.torch
import tyro
from torch import Tensor

from fractalkern.commands.arguments import parsed
from fractalkern.errors import InputError
from fractalkern.ops._inputs import FLOAT_DTYPES
from fractalkern.spectral_norms import spectral_norms


@dataclass(frozen=True)
class SigmaOptions:
    """Prints the top singular value of each matrix of a checkpoint, between its bounds."""

    checkpoint: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]]
    """A .safetensors file, or a folder of them, as transformers writes it: if it has a
    model.safetensors.index.json, the files named there."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Also write the table here."""
    iters: int = 100
    """Passes over each matrix at most."""
    tol: float = 1e-5
    """Residual at which a matrix stops."""
    seed: int = 0
    """Seed of the random starts."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    options = parsed("sigma", SigmaOptions, arguments)
    tensors = _load(options.checkpoint)
    others = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in tensors.items()
        if tensor.ndim >= 2 and tensor.dtype not in FLOAT_DTYPES
    ]
    if others:
        print(f"left out, of another dtype: {', '.join(others)}", file=sys.stderr)
    table = spectral_norms(tensors, iters=options.iters, tol=options.tol, seed=options.seed)
    print(table)
    if options.json is not None:
        table.save(options.json)
    return 0


def _load(path: Path) -> dict[str, Tensor]:
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"checkpoint must be a folder with .safetensors files, got {path}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            more = safetensors.torch.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"checkpoint must be a readable .safetensors file, but {file}: {error}"
            ) from error
        if twice := sorted(tensors.keys() & more.keys()):
            raise InputError(
                f"checkpoint must name each tensor once, but {twice[0]} is in {file} again"
            )
        tensors |= more
    return tensors


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint: those of its index, or all."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        return sorted(folder / name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"checkpoint must have a weight_map in its index, but {index}: {error!r}"
        ) from error
