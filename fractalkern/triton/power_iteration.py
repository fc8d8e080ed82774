"""`power_iteration` in Triton: a pass takes v to y = W v and z = W^T y, row block by row block.

The second use of a block finds it in a cache, so a pass reads a matrix once from memory; the parts
of z are added in the order of the blocks. What is left is small and plain PyTorch in float64, one
matrix after the other, and waits for the device every pass: the portable backend, not the fast one.
"""

# A kernel has no types.
# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fractalkern.ops._power_iteration_grad import (
    fake,
    outer_products,
    setup_context,
    solve_each,
)
from fractalkern.ops._spectral_norms import Outputs
from fractalkern.reference.power_iteration import Triple, chebyshev_bound, finished, random_start
from fractalkern.triton._launch import current_device_of

__all__ = ["power_iteration"]

ROWS, COLUMNS = 16, 128
MOST_STEPS = 64  # of Lanczos, before it starts again from the best vector


@triton.jit
def _sweep(
    w,  # [rows, columns], a row every `stride`
    v,  # [columns]
    y,  # [rows], written: W v
    z,  # [programs, columns], written: each program's part of W^T y
    rows,
    columns,
    stride,
    WIDE: tl.constexpr,  # sums in float64
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    real = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    row_there = row < rows
    dots = tl.zeros([ROWS], real)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        there = row_there[:, None] & (column < columns)[None, :]
        entries = tl.load(w + row[:, None] * stride + column[None, :], mask=there, other=0)
        factors = tl.load(v + column, mask=column < columns, other=0).to(real)
        dots += tl.sum(entries.to(real) * factors[None, :], 1)
    tl.store(y + row, dots, mask=row_there)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        there = row_there[:, None] & (column < columns)[None, :]
        entries = tl.load(w + row[:, None] * stride + column[None, :], mask=there, other=0)
        part = tl.sum(entries.to(real) * dots[:, None], 0)
        tl.store(z + program * columns + column, part, mask=column < columns)


class _Matrix:
    """A matrix that is not zero, and how many passes it has seen; entries count as scaled to 1."""

    def __init__(self, w: Tensor) -> None:
        self.w = w if w.stride(1) == 1 else w.contiguous()
        self.wide = w.dtype == torch.float64
        exponent = math.frexp(float(w.abs().max()))[1]
        most = 1000 if self.wide else 120
        self.unit = 2.0 ** min(max(exponent, -most), most)
        self.passes = 0

    def sweep(self, v: Tensor, wide: bool = False) -> tuple[Tensor, Tensor]:
        """W v and W^T W v."""
        rows, columns = self.w.shape
        real = torch.float64 if wide or self.wide else torch.float32
        programs = triton.cdiv(rows, ROWS)
        y = v.new_empty(rows, dtype=real)
        z = v.new_empty((programs, columns), dtype=real)
        with current_device_of(self.w):
            _sweep[(programs,)](
                self.w,
                (v / self.unit).to(real),
                y,
                z,
                rows,
                columns,
                self.w.stride(0),
                WIDE=real == torch.float64,
                ROWS=ROWS,
                COLUMNS=COLUMNS,
            )
        self.passes += 1
        return y.double(), z.double().sum(0) / self.unit

    def measure(self, v: Tensor) -> tuple[float, Tensor, float]:
        """sigma, u and residual of a vector, all of them in float64."""
        y, z = self.sweep(v, wide=True)
        length = float(y.norm())
        if length == 0:
            return 0.0, y, math.inf
        sigma = length / float(v.norm())
        return sigma, y / length, float((z / length - sigma * v).norm()) / sigma


def _rounded(v: Tensor, like: Tensor) -> Tensor:
    """A unit vector as it is returned, in float64."""
    unit = torch.nn.functional.normalize(v, dim=0, eps=0.0)
    return unit if like.dtype == torch.float64 else unit.float().double()


def _power(
    matrix: _Matrix, v: Tensor, iters: int, tol: float | None, component: float
) -> tuple[Tensor, float]:
    """The vector to measure, and an upper bound for a random start."""
    log_norm, steps = 0.0, 0
    while matrix.passes < iters - 1:
        y, z = matrix.sweep(v)
        square, length = float(y @ y), float(z.norm())
        if not square > 1e-30:
            break  # in the null space
        log_norm, steps = log_norm + math.log(length), steps + 1
        done = tol is not None and float((z / square - v).norm()) <= tol
        v = z / length
        if done:
            break
    if steps == 0:
        return v, math.inf
    return v, math.exp((log_norm - math.log(component)) / (2 * steps))


class _Cycle:
    """Lanczos on W^T W from one vector."""

    def __init__(self, matrix: _Matrix, v: Tensor) -> None:
        self.matrix = matrix
        self.basis = [v]
        self.diagonal: list[float] = []
        self.off: list[float] = []
        self.exhausted = False

    def step(self) -> None:
        """One more pass, one more row of the tridiagonal matrix."""
        y, z = self.matrix.sweep(self.basis[-1])
        known = torch.stack(self.basis, 1)
        for _ in range(2):
            z = z - known @ (known.T @ z)
        self.diagonal.append(float(y @ y))
        self.off.append(float(z.norm()))
        precise = self.matrix.wide
        eps = torch.finfo(torch.float64 if precise else torch.float32).eps
        least = 4 * math.sqrt(len(z)) * eps * max(self.diagonal)
        self.exhausted = not self.off[-1] > max(least, 1e-30)
        self.basis.append(z / max(self.off[-1], 1e-300))

    def best(self) -> tuple[Tensor, float, float]:
        """The best vector, its Ritz value, and the residual that it has in the projection."""
        inner = torch.tensor(self.off[:-1], dtype=torch.float64)
        projected = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        projected += torch.diag(inner, 1) + torch.diag(inner, -1)
        values, vectors = torch.linalg.eigh(projected)
        top = vectors[:, -1].to(self.basis[0].device)
        vector = torch.stack(self.basis[:-1], 1) @ top
        return vector, float(values[-1]), self.off[-1] * abs(float(top[-1]))


def _lanczos(
    matrix: _Matrix, v: Tensor, iters: int, tol: float | None, component: float
) -> tuple[Tensor, float]:
    theorem = math.inf
    exhausted = False
    first = True
    while matrix.passes < iters - 1 and not exhausted:
        cycle = _Cycle(matrix, v)
        done = False
        while not done and len(cycle.diagonal) < min(MOST_STEPS, len(v)):
            if matrix.passes >= iters - 1 or cycle.exhausted:
                break
            cycle.step()
            if tol is not None:
                _, theta, residual = cycle.best()
                done = residual <= tol * theta / 2
        vector, theta, _ = cycle.best()
        if first and theta > 0:
            theorem = chebyshev_bound(theta, len(cycle.diagonal), component)
        first, exhausted = False, cycle.exhausted or done
        v = _rounded(vector, matrix.w) if theta > 1e-30 else v
    return v, theorem


def _solve(
    weight: Tensor,
    start: Tensor | None,
    iters: int,
    tol: float | None,
    lanczos: bool,
    delta: float,
    seed: int,
    row: int,
) -> Triple:
    """The top singular triple of one matrix, as the reference's function of these arguments."""
    m, n = weight.shape
    if m * n == 0 or not weight.any():
        zeros = torch.zeros(m + n, dtype=torch.float64, device=weight.device)
        return Triple(0.0, zeros[:m], zeros[m:], 0.0, 0, 0.0, 0.0, 3)
    matrix = _Matrix(weight)
    b = random_start(n, seed, row) if start is None else start.double()
    component = min(1.0, delta / (2 * math.sqrt(2) * float(b.norm())))
    first = _rounded(b.to(weight.device), weight)
    vector, theorem = (_lanczos if lanczos else _power)(matrix, first, iters, tol, component)
    v = _rounded(vector, weight)
    sigma, u, residual = matrix.measure(v)
    frobenius = float(torch.linalg.vector_norm(weight.double() / matrix.unit))
    if start is None:
        eps = torch.finfo(torch.float64 if matrix.wide else torch.float32).eps
        upper = theorem * (1 + 16 * math.sqrt(n + 4) * eps)
    else:
        sums = (weight.abs().sum(axis, dtype=torch.float64).max() / matrix.unit for axis in (0, 1))
        upper = math.sqrt(math.prod(map(float, sums)))
    return finished(
        Triple(sigma, u, v, residual, matrix.passes, 0.0, min(frobenius, upper), 0),
        frobenius,
        tol,
        matrix.unit,
    )


# A graph cannot capture what waits for the device: torch.compile is told to leave it out.
@torch.library.custom_op(
    "fractalkern::power_iteration_triton", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,)
)
def power_iteration(
    weights: list[Tensor],
    start: Tensor | None,
    iters: int,
    tol: float,
    lanczos: bool,
    delta: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `power_iteration` of the compiled library."""
    options = (iters, None if tol < 0 else tol, lanczos, delta, seed)
    outputs: Outputs = solve_each(_solve, weights, start, *options)
    return outputs


power_iteration.register_fake(fake)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    vectors, *weights = ctx.saved_tensors
    return outer_products(grad, vectors, weights), None, None, None, None, None, None


power_iteration.register_autograd(_backward, setup_context=setup_context)
