"""`power_iteration`: public function and validation."""

import math
from typing import Any, NoReturn

import torch
from torch import Tensor

from fractalkern.backends import resolve
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import FLOAT_DTYPES, as_integer, as_tensor, require_choice
from fractalkern.ops._power_iteration_grad import OP, call, call_reference, result_dtype
from fractalkern.ops._spectral_norms import Outputs, SpectralNorms

__all__ = ["SpectralNorms", "power_iteration"]

METHODS = ("lanczos", "power")
_DTYPES = frozenset(FLOAT_DTYPES)


def power_iteration(
    weights: Any,
    *,
    iters: int = 10,
    tol: float | None = None,
    method: str = "lanczos",
    start: Any = None,
    seed: int = 0,
    delta: float = 1e-6,
    backend: str | None = None,
) -> SpectralNorms:
    r"""Top singular value and vectors of many matrices, in one call.

    Each pass reads a matrix once and takes a unit vector v to y = W v and z = W^T y. Method "power"
    goes on with z/|z| and ends with sigma = |W v| of its last v, as in the documented iteration but
    for its + 1e-9, which matters to tiny matrices only. Method "lanczos" spends the passes before
    the last on Golub-Kahan-Lanczos and the last one on the best vector in their span. It restarts
    from that after 64 steps. The last pass is done in float64: u = W v / sigma.

    Args:
        weights: `[..., m, n]`, or a list of matrices `[m, n]` of any shapes and dtypes: float16,
            bfloat16, float32 or float64, in any strides, finite.
        iters: passes over each matrix at most, the last one included.
        tol: a matrix stops when its residual is at most this, else "not converged".
        method: "lanczos" or "power".
        start: right vectors to start from, a former `result.v`; at least two iters improve on it.
        seed: 0 to 2^63 - 1, of the random start, uniform in the cube [-1/2, 1/2)^n; matrix b of the
            call takes row b of `fractalkern.random`'s uniforms.
        delta: probability, 1e-8 to below 1, with which `upper` may fail over random starts.
        backend: "native", "reference" or "triton"; by default that of `use_backend`, else "native".

    Returns:
        SpectralNorms in float64 if any weight is float64, else in float32. Half precision is
        computed in float32. A matrix without a nonzero entry has sigma 0, u = v = 0, status
        "zero". A start with W v = 0 on the way has sigma 0 and residual inf.

    `lower` holds in floating point: with e = 2^-52, W v in float64 is off by at most
    (n + 4) e |W|_F, and the norms of W v and of v by factors of 1 + (m + 4) e and 1 + (n + 4) e;
    all of this is taken off. `upper` is the least of |W|_F and, for a random start b, a bound from
    the component of b along the true right vector x. For any unit x, the density of <b, x> is at
    most sqrt 2 (Ball's theorem on sections of the cube), so |<b, x>| >= c |b| with probability
    1 - delta for c = delta / (2 sqrt 2 |b|). For a polynomial p of degree below k, the number of
    Lanczos steps, p(sigma^2)^2 c^2 <= |p(W^T W) b|^2 / |b|^2 <= max of p^2 over the Ritz values.
    The Chebyshev polynomial of [0, theta], theta the largest of them, then gives

        sigma^2 <= theta (1 + cosh(arcosh(1/c) / (k - 1))) / 2,

    and p(t) = t^k gives sigma <= (|(W^T W)^k b| / (c |b|))^(1/2k) for "power". Both are widened by
    1 + 16 sqrt(n + 4) eps for the rounding of the steps. For a given start the second bound is
    sqrt(|W|_1 |W|_inf). Bounds are valid for each matrix by itself.

    Differentiable once: d sigma / dW = u v^T. u, v and the bounds carry no gradient. A vmap rule
    makes stacks of models work. On one instruction set the results are bit-equal for any number of
    threads. Time is about iters reads of the weights; half precision and matrices whose last axis
    is not contiguous are copied first, a matrix at a time. On CUDA only the latter are copied,
    matrices that fit into the shared memory of a multiprocessor are read once, and results are
    bit-equal from run to run on one kind of device. Nothing waits for the device there: a matrix
    or start that is not finite gives sigma, u and v NaN and the status "non-finite", a start of
    zeros stands for a random one.

    Raises:
        InputError: a wrong shape or value, or, on the CPU, a weight that is not finite.
        InputTypeError: a wrong type or dtype.

    Sources: G. Golub and W. Kahan, SIAM J. Numer. Anal. 2 (1965) 205; K. Ball, Cube slicing in R^n,
    Proc. AMS 97 (1986) 465; J. Kuczynski and H. Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992)
    1094, for bounds of this kind.

    >>> import fractalkern as fk, torch
    >>> norms = fk.power_iteration([torch.diag(torch.tensor([3.0, 1.0])), torch.ones(4, 4)])
    >>> norms.sigma.round(decimals=4).tolist()
    [3.0, 4.0]
    """
    is_list = isinstance(weights, list | tuple)
    tensors = list(weights) if is_list else [weights]
    shapes: list[tuple[int, ...]] = []
    all_cpu = True
    for i, weight in enumerate(tensors):
        if not isinstance(weight, Tensor):
            name = f"weights[{i}]" if is_list else "weights"
            weight = tensors[i] = as_tensor(OP, name, weight)  # noqa: PLW2901
        shape = weight.shape
        dims = len(shape)
        if weight.dtype not in _DTYPES or dims < 2 or (is_list and dims != 2):
            _refuse_weight(f"weights[{i}]" if is_list else "weights", weight, is_list)
        all_cpu = all_cpu and weight.is_cpu
        shapes.append(shape)
    if not all_cpu or not tensors:
        _check_devices(tensors)
    iters, seed = _bounded("iters", iters, 1), _bounded("seed", seed, 0)
    _check_options(tol, method, delta)
    flat_start = None if start is None else _flat_start(start, tensors, is_list)

    limit = -1.0 if tol is None else float(tol)
    lanczos = method == "lanczos"
    outputs: Outputs
    if not is_list and math.prod(shapes[0][:-2]) == 0:
        outputs = _empty(tensors[0])
    elif (name := resolve(OP, backend, tensors[0].device)) == "reference":
        outputs = call_reference(tensors, flat_start, iters, tol, lanczos, delta, seed)
    elif name == "triton":
        op = torch.ops.fractalkern.power_iteration_triton
        outputs = op(tensors, flat_start, iters, limit, lanczos, delta, seed)
    else:
        outputs = call(tensors, flat_start, iters, limit, lanczos, delta, seed)
    return SpectralNorms(outputs, shapes, is_list)


def _refuse_weight(name: str, weight: Tensor, is_list: bool) -> NoReturn:
    if weight.dtype not in _DTYPES:
        raise InputTypeError(
            f"{OP}: {name} must be float16, bfloat16, float32 or float64, got {weight.dtype}"
        )
    expected = "a matrix [m, n]" if is_list else "a matrix or a stack [..., m, n]"
    raise InputError(f"{OP}: {name} must be {expected}, got shape {list(weight.shape)}")


def _check_devices(tensors: list[Tensor]) -> None:
    if not tensors:
        raise InputError(f"{OP}: weights must hold at least one matrix, got an empty list")
    device = tensors[0].device
    for i, tensor in enumerate(tensors):
        if tensor.device != device:
            raise InputError(
                f"{OP}: weights must be on one device, but weights[0] is on {device} "
                f"and weights[{i}] on {tensor.device}"
            )
    if device.type == "meta":
        raise InputError(f"{OP}: weights must have values, but are on {device}")


def _bounded(name: str, value: object, least: int) -> int:
    # Small matrices take no longer than a few such sentences.
    number = value if type(value) is int else as_integer(OP, value, f"{name} must be an integer")
    if not least <= number < 2**63:
        raise InputError(f"{OP}: {name} must be from {least} to 2^63 - 1, got {number}")
    return number


def _check_options(tol: object, method: object, delta: object) -> None:
    if tol is not None:
        if not isinstance(tol, int | float) or isinstance(tol, bool):
            raise InputTypeError(f"{OP}: tol must be a number or None, got {tol!r}")
        if not 0 < tol < math.inf:
            raise InputError(f"{OP}: tol must be positive and finite, got {tol}")
    if not isinstance(delta, int | float) or isinstance(delta, bool):
        raise InputTypeError(f"{OP}: delta must be a number, got {delta!r}")
    if not 1e-8 <= delta < 1:
        raise InputError(f"{OP}: delta must be at least 1e-8 and below 1, got {delta}")
    require_choice(OP, "method", method, METHODS)


def _flat_start(start: Any, weights: list[Tensor], is_list: bool) -> Tensor:
    if not is_list:
        vector = as_tensor(OP, "start", start)
        _check_start("start", vector, weights[0])
        return vector.detach().reshape(-1)
    if not isinstance(start, list | tuple) or len(start) != len(weights):
        got = f"{len(start)} of them" if isinstance(start, list | tuple) else type(start).__name__
        raise InputError(
            f"{OP}: start must be a list of {len(weights)} vectors, one a weight, got {got}"
        )
    vectors = [as_tensor(OP, f"start[{i}]", vector) for i, vector in enumerate(start)]
    for i, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        _check_start(f"start[{i}]", vector, weight)
    return torch.cat([vector.detach() for vector in vectors])


def _check_start(name: str, vector: Tensor, weight: Tensor) -> None:
    shape = (*weight.shape[:-2], weight.shape[-1])
    if vector.dtype not in _DTYPES:
        raise InputTypeError(f"{OP}: {name} must be floating point, got {vector.dtype}")
    if tuple(vector.shape) != shape:
        raise InputError(f"{OP}: {name} must have shape {list(shape)}, got {list(vector.shape)}")
    if vector.device != weight.device:
        raise InputError(
            f"{OP}: {name} must be on the device of the weights, {weight.device}, "
            f"got {vector.device}"
        )


def _empty(weight: Tensor) -> Outputs:
    """The result for a stack of no matrices."""
    none = weight.new_zeros(0, dtype=result_dtype([weight]))
    codes = weight.new_zeros((2, 0), dtype=torch.int64)
    return weight.flatten().to(none.dtype), none, none.reshape(3, 0), codes
