"""What `power_iteration` returns."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STATUS = ("iterated", "converged", "not converged", "zero", "non-finite")

# sigma [B], the left vectors and then the right ones, bounds [3, B], codes [2, B].
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


class SpectralNorms:
    """Top singular values of B matrices: `[...]` for a tensor `[..., m, n]`, `[B]` for a list.

    Attributes:
        sigma: the largest singular value found, |W v|; differentiable. All others are views of the
            op's outputs, made on request.
        residual: |W^T u - sigma v| / sigma.
        lower: never above the true value.
        upper: not below the true value, but for a probability of `delta` over random starts.
        iterations: int64, how many times the matrix was read.
        codes: int64, the status as an index of `STATUS`.
    """

    __slots__ = ("_bounds", "_codes", "_vectors", "is_list", "shapes", "sigma")

    def __init__(self, outputs: Outputs, shapes: Sequence[tuple[int, ...]], is_list: bool) -> None:
        self.sigma, self._vectors, self._bounds, self._codes = outputs
        self.shapes, self.is_list = shapes, is_list
        if not is_list and len(shapes[0]) != 3:
            self.sigma = self.sigma.reshape(shapes[0][:-2])

    def __repr__(self) -> str:
        names = ("sigma", "residual", "lower", "upper", "iterations")
        return f"SpectralNorms({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def residual(self) -> Tensor:
        """|W^T u - sigma v| / sigma."""
        return self._shaped(self._bounds[0])

    @property
    def lower(self) -> Tensor:
        """Never above the true value."""
        return self._shaped(self._bounds[1])

    @property
    def upper(self) -> Tensor:
        """Not below the true value, but for a probability of `delta` over random starts."""
        return self._shaped(self._bounds[2])

    @property
    def iterations(self) -> Tensor:
        """int64, how many times the matrix was read."""
        return self._shaped(self._codes[0])

    @property
    def codes(self) -> Tensor:
        """int64, the status as an index of `STATUS`."""
        return self._shaped(self._codes[1])

    @property
    def flat_u(self) -> Tensor:
        """All left vectors end to end."""
        return self._vectors[: self._left()]

    @property
    def flat_v(self) -> Tensor:
        """All right vectors end to end."""
        return self._vectors[self._left() :]

    @property
    def u(self) -> Any:
        """Left vectors: `[..., m]`, or a list of `[m]`."""
        return self._split(self.flat_u, -2)

    @property
    def v(self) -> Any:
        """Right vectors: `[..., n]`, or a list of `[n]`."""
        return self._split(self.flat_v, -1)

    @property
    def status(self) -> Any:
        """ "iterated" (no tol), or another of `STATUS`: nested like sigma."""
        return _names(self.codes.tolist())

    def _left(self) -> int:
        return sum(math.prod(shape[:-1]) for shape in self.shapes)

    def _shaped(self, row: Tensor) -> Tensor:
        return row if self.is_list else row.reshape(self.shapes[0][:-2])

    def _split(self, flat: Tensor, axis: int) -> Any:
        if self.is_list:
            return list(torch.split(flat, [shape[axis] for shape in self.shapes]))
        (shape,) = self.shapes
        return flat.reshape(*shape[:-2], shape[axis])


def _names(codes: Any) -> Any:
    return [_names(code) for code in codes] if isinstance(codes, list) else STATUS[codes]
