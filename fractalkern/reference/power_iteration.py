"""Top singular triples in plain PyTorch, in float64: the oracle of `power_iteration`."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fractalkern.random import uniform

STREAM = 0x73746172
ITERATED, CONVERGED, NOT_CONVERGED, ZERO = range(4)


class Triple(NamedTuple):
    """What is known of one matrix; `power_iteration` has the meanings."""

    sigma: float
    u: Tensor
    v: Tensor
    residual: float
    iterations: int
    lower: float
    upper: float
    status: int


def random_start(size: int, seed: int, row: int) -> Tensor:
    """[size], uniform in the unit cube [-1/2, 1/2)^size."""
    return uniform((row + 1, size), seed=seed, stream=STREAM)[row] - 0.5


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=0, eps=0.0)


def _measure(w: Tensor, v: Tensor) -> tuple[float, Tensor, float]:
    """sigma, u and residual of a unit vector v."""
    y = w @ v
    sigma = float(y.norm())
    if sigma == 0:
        return 0.0, y, math.inf
    u = y / sigma
    return sigma, u, float((w.T @ u - sigma * v).norm()) / sigma


def _lanczos_step(w: Tensor, left: list[Tensor], right: list[Tensor]) -> bool:
    """One more Golub-Kahan vector on either side; False if the space is exhausted."""
    for basis, product in ((left, w), (right, w.T)):
        x = product @ (right[-1] if basis is left else left[-1])
        size = x.norm()
        for _ in range(2):
            for q in basis:
                x = x - (q @ x) * q
        if not x.norm() > 1e-13 * max(size, w.norm()):
            return False
        basis.append(_unit(x))
    return True


def _best(w: Tensor, left: list[Tensor], right: list[Tensor]) -> tuple[Tensor, float]:
    """The best right vector in the span, and the largest Ritz value of W^T W without the last."""
    basis = torch.stack(right, 1)
    bidiagonal = torch.stack(left, 1).T @ w @ basis
    _, _, rows = torch.linalg.svd(bidiagonal)
    inner = torch.linalg.matrix_norm(bidiagonal[:, : len(left)], 2)
    return _unit(basis @ rows[0]), float(inner) ** 2


def power_iteration(
    weight: Tensor,
    start: Tensor | None,
    iters: int,
    tol: float | None,
    lanczos: bool,
    delta: float,
    seed: int,
    row: int,
) -> Triple:
    """The top singular triple of `weight` [m, n]; `row` is its place in the list, for the seed."""
    m, n = weight.shape
    if m * n == 0 or not weight.any():
        zeros = torch.zeros(m + n, dtype=torch.float64)
        return Triple(0.0, zeros[:m], zeros[m:], 0.0, 0, 0.0, 0.0, ZERO)
    scale = 2.0 ** math.frexp(float(weight.abs().double().max()))[1]
    w = weight.double() / scale
    b = random_start(n, seed, row) if start is None else start.double()
    component = min(1.0, delta / (2 * math.sqrt(2) * float(b.norm())))
    v = _unit(b)
    left: list[Tensor] = []
    right = [v]
    log_norm, theorem, steps = 0.0, math.inf, 0

    exhausted = False
    for done in range(1, iters + 1):
        sigma, u, residual = _measure(w, v)
        iterations = done
        if exhausted or sigma == 0 or (tol is not None and residual <= tol) or done == iters:
            break
        if not lanczos:
            z = w.T @ (w @ v)
            log_norm, steps, v = log_norm + math.log(float(z.norm())), steps + 1, _unit(z)
            theorem = math.exp((log_norm - math.log(component)) / (2 * steps))
            continue
        exhausted = not _lanczos_step(w, left, right)
        if left:
            v, theta = _best(w, left, right)
            theorem = chebyshev_bound(theta, len(left), component)

    frobenius = float(w.norm())
    if start is None:
        upper = min(frobenius, theorem)
    else:
        upper = min(frobenius, math.sqrt(float(w.abs().sum(0).max() * w.abs().sum(1).max())))
    found = Triple(sigma, u, v, residual, iterations, 0.0, upper, ITERATED)
    return finished(found, frobenius, tol, scale)


def chebyshev_bound(theta: float, steps: int, component: float) -> float:
    """On sigma, from the largest Ritz value of so many steps and the start's component."""
    if steps < 2:
        return math.inf
    growth = math.cosh(math.acosh(1 / component) / (steps - 1))
    return math.sqrt(theta * (1 + growth) / 2)


def finished(found: Triple, frobenius: float, tol: float | None, scale: float) -> Triple:
    """The triple of `scale` times the matrix, its bounds widened for rounding, and its status."""
    rounding = (len(found.u) + len(found.v) + 8) * 2.0**-52
    lower = max(0.0, found.sigma * (1 - rounding) - rounding * frobenius)
    upper = max(found.upper * (1 + rounding), lower)
    within = tol is not None and found.residual <= tol
    return found._replace(
        sigma=found.sigma * scale,
        lower=lower * scale,
        upper=upper * scale,
        status=ITERATED if tol is None else CONVERGED if within else NOT_CONVERGED,
    )
