"""The spectral norms of all weights of a model, as a table; the spectral radius of a matrix."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fractalkern.errors import InputError, InputTypeError
from fractalkern.modules import weights_of
from fractalkern.ops._inputs import (
    FLOAT_DTYPES,
    as_tensor,
    is_transformed,
    require_choice,
    require_whole,
    values_readable,
)
from fractalkern.ops.power_iteration import power_iteration
from fractalkern.sweeps.files import write_atomically

_GATES = {nn.LSTM: "ifgo", nn.GRU: "rzn", nn.LSTMCell: "ifgo", nn.GRUCell: "rzn"}


@dataclass(frozen=True)
class SpectralNormRow:
    """One matrix of a model: its name, kind, shape, and top singular value between its bounds."""

    name: str
    kind: str
    shape: tuple[int, ...]
    sigma: float
    lower: float
    upper: float
    status: str


@dataclass(frozen=True)
class SpectralNormTable:
    """The rows of a model; `print` shows them aligned, `to_json` gives and `save` writes them."""

    rows: tuple[SpectralNormRow, ...]

    def __str__(self) -> str:
        """One aligned line a matrix."""
        head = ("weight", "kind", "shape", "sigma", "lower", "upper", "status")
        lines = [head] + [
            (
                row.name,
                row.kind,
                " x ".join(map(str, row.shape)),
                *(f"{value:.6g}" for value in (row.sigma, row.lower, row.upper)),
                row.status,
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        padded = (
            "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)

    def to_json(self) -> str:
        """A JSON array of the rows; a bound that is infinite is null."""
        rows = [
            {
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in asdict(row).items()
            }
            for row in self.rows
        ]
        return json.dumps(rows, indent=1, allow_nan=False)

    def save(self, path: Path) -> None:
        """Writes `to_json()` to `path`."""
        write_atomically(Path(path), (self.to_json() + "\n").encode())


@torch.no_grad()
def spectral_norms(
    model: nn.Module | dict[str, Tensor],
    *,
    conv: Literal["matrix", "operator"] = "matrix",
    grid: int = 16,
    iters: int = 100,
    tol: float = 1e-5,
    seed: int = 0,
) -> SpectralNormTable:
    """Top singular value of every weight of a model, all matrices in one `power_iteration`.

    A weight is a matrix of its first axis against all others, with these exceptions: the
    in-projections of `nn.MultiheadAttention` are one matrix a head for query, key and value, the
    weights of LSTM and GRU are one a gate, and convolutions with conv="operator" are the operator
    on an unbounded grid, sup over frequencies of the norm of the kernel's transform: stride,
    dilation and groups count, padding does not. The supremum is taken over `grid` frequencies an
    axis, from below, so it can be low by a part of order (kernel side / grid)².

    Args:
        model: a module, or a dict of tensors by name; those of fewer than 2 axes or of a dtype
            that `power_iteration` does not take are left out.
        conv: "matrix", or for a module "operator".
        grid: frequencies an axis for "operator".
        iters: passes over each matrix at most.
        tol: residual at which a matrix stops.
        seed: of the random starts.

    Returns:
        SpectralNormTable. For "operator" rows lower and upper are the exact values over the grid.

    Raises:
        InputError: no weight, a wrong value, or a weight without values or not finite: the latter
            on the CPU, and of an operator anywhere.
        InputTypeError: a wrong type.

    Source: H. Sedghi, V. Gupta and P. M. Long, The singular values of convolutional layers,
    ICLR 2019, for the operator on a torus.

    >>> import torch
    >>> from fractalkern import spectral_norms
    >>> layer = torch.nn.Linear(3, 3)
    >>> _ = torch.nn.init.eye_(layer.weight)
    >>> table = spectral_norms(layer)
    >>> table.rows[0].name, round(table.rows[0].sigma, 4)
    ('weight', 1.0)
    """
    require_choice("spectral_norms", "conv", conv, ("matrix", "operator"))
    grid = require_whole("spectral_norms", "grid", grid, 2)
    pieces = list(_pieces(model, conv))
    if not pieces:
        raise InputError("spectral_norms: model must have a weight of 2 or more axes, got none")
    for name, _, weight, operator in pieces:
        if weight.is_meta:
            raise InputError(f"spectral_norms: weights must have values, but {name} is on meta")
        # On other devices power_iteration does not wait for values; an operator's norm does.
        readable = (weight.is_cpu or operator is not None) and weight.layout == torch.strided
        if readable and not weight.isfinite().all():
            raise InputError(f"spectral_norms: weights must be finite, but {name} is not")
    matrices = [matrix for _, _, matrix, operator in pieces if operator is None]
    norms = None
    if matrices:
        norms = power_iteration(matrices, iters=iters, tol=tol, seed=seed)
        columns = zip(
            *(getattr(norms, name).tolist() for name in ("sigma", "lower", "upper")),
            norms.status,
            strict=True,
        )
    rows = []
    for name, kind, weight, operator in pieces:
        if operator is None:
            sigma, lower, upper, status = next(columns)
        else:
            sigma = lower = upper = _operator_norm(weight, operator, grid)
            status = f"grid {grid}"
        rows.append(SpectralNormRow(name, kind, tuple(weight.shape), sigma, lower, upper, status))
    return SpectralNormTable(tuple(rows))


def spectral_radius(matrix: Any) -> Tensor:
    """The largest modulus of an eigenvalue, by `torch.linalg.eigvals`.

    Args:
        matrix: [..., n, n], floating point, tensor or NumPy array.

    Returns:
        [...], differentiable where the largest eigenvalue is simple. Under torch.vmap or
        torch.compile, which can't raise, NaN for a matrix that is not finite.

    Raises:
        InputTypeError, InputError: not floating point, not square, of size 0, not finite, or
            without values.

    >>> import torch
    >>> from fractalkern import spectral_radius
    >>> round(float(spectral_radius(torch.tensor([[0.0, 2.0], [-0.5, 0.0]]))), 6)
    1.0
    """
    square = as_tensor("spectral_radius", "matrix", matrix)
    if square.dtype not in FLOAT_DTYPES:
        raise InputTypeError(f"spectral_radius: matrix must be floating point, got {square.dtype}")
    if square.ndim < 2 or square.shape[-1] != square.shape[-2] or square.shape[-1] == 0:
        raise InputError(
            f"spectral_radius: matrix must be [..., n, n] with n >= 1, got {list(square.shape)}"
        )
    if square.is_meta:
        raise InputError("spectral_radius: matrix must have values, but is on meta")
    finite = square.isfinite().all(-1).all(-1)
    if values_readable(square) and not is_transformed() and not finite.all():
        raise InputError("spectral_radius: matrix must be finite, but holds NaN or infinity")
    if square.dtype in (torch.float16, torch.bfloat16):
        square = square.float()
    # LAPACK ends the process on some of what is not finite.
    harmless = square.where(finite[..., None, None], 0)
    radius: Tensor = torch.linalg.eigvals(harmless).abs().amax(-1)
    return radius.where(finite, math.nan)


Piece = tuple[str, str, Tensor, _ConvNd | None]


def _pieces(model: nn.Module | dict[str, Tensor], conv: str) -> Iterator[Piece]:
    """Name, kind, matrix (or whole kernel) and, for an operator, the layer."""
    if isinstance(model, dict):
        if conv == "operator":
            raise InputError(
                'spectral_norms: conv must be "matrix" for a dict, which knows of no strides'
            )
        for name, tensor in model.items():
            if not isinstance(tensor, Tensor):
                raise InputTypeError(
                    f"spectral_norms: model must hold tensors, but {name} is a "
                    f"{type(tensor).__name__}"
                )
            if tensor.ndim >= 2 and tensor.dtype in FLOAT_DTYPES:
                yield name, "matrix", tensor.flatten(1), None
        return
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"spectral_norms: model must be a module or a dict, got {type(model).__name__}"
        )
    for name, owner, attribute in weights_of(model):
        weight: Tensor = getattr(owner, attribute)
        kind = type(owner).__name__
        gates = next((g for layer, g in _GATES.items() if isinstance(owner, layer)), "")
        if isinstance(owner, nn.MultiheadAttention) and attribute == "in_proj_weight":
            for part, block in zip("qkv", weight.chunk(3), strict=True):
                for head, matrix in enumerate(block.chunk(owner.num_heads)):
                    yield f"{name}[{part}, head {head}]", kind, matrix, None
        elif isinstance(owner, nn.MultiheadAttention) and attribute.endswith("_proj_weight"):
            for head, matrix in enumerate(weight.chunk(owner.num_heads)):
                yield f"{name}[head {head}]", kind, matrix, None
        elif gates and attribute.startswith(("weight_ih", "weight_hh")):
            for gate, matrix in zip(gates, weight.chunk(len(gates)), strict=True):
                yield f"{name}[{gate}]", kind, matrix, None
        elif isinstance(owner, _ConvNd) and conv == "operator":
            yield name, kind, weight, owner
        else:
            yield name, kind, weight.flatten(1), None


def _operator_norm(weight: Tensor, layer: _ConvNd, grid: int) -> float:
    """sup over w of stride^(-d/2) |[K((w + 2 pi a) / stride)]_a|, the aliases a side by side."""
    kernel = weight.double().cpu()
    # A transposed convolution is the adjoint of the plain one with its kernel: the same norm.
    groups = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    dims = kernel.ndim - 2
    offsets = torch.cartesian_prod(
        *(
            torch.arange(n, dtype=torch.float64) * d
            for n, d in zip(kernel.shape[2:], layer.dilation, strict=True)
        )
    ).reshape(-1, dims)
    taps = groups.flatten(3)  # [groups, out, in, taps]
    steps = torch.tensor(layer.stride, dtype=torch.float64)
    aliases = [torch.tensor(a, dtype=torch.float64) for a in product(*map(range, layer.stride))]
    axis = torch.arange(grid, dtype=torch.float64) / grid
    largest = 0.0
    for w in torch.cartesian_prod(*[axis] * dims).reshape(-1, dims):
        blocks = []
        for alias in aliases:
            phase = torch.polar(
                torch.ones(len(offsets), dtype=torch.float64),
                -2 * math.pi * (offsets @ ((w + alias) / steps)),
            )
            blocks.append(taps.to(torch.complex128) @ phase)
        joined = torch.cat(blocks, -1)  # [groups, out, in * aliases]
        largest = max(largest, float(torch.linalg.matrix_norm(joined, 2).max()))
    return largest / math.sqrt(float(steps.prod()))
