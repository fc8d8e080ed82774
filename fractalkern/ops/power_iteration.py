"""`power_iteration`: public function, validation, fake kernel, derivative and vmap rule."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op that the fake kernel belongs to
from fractalkern.backends import resolve
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import FLOAT_DTYPES, as_tensor, require_choice
from fractalkern.reference import power_iteration as reference

OP = "power_iteration"
METHODS = ("lanczos", "power")
STATUS = ("iterated", "converged", "not converged", "zero")
_DTYPES = frozenset(FLOAT_DTYPES)

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
        """ "iterated" (no tol), "converged", "not converged" or "zero": nested like sigma."""
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
        backend: "native" or "reference"; by default that of `use_backend`, else "native".

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
    is not contiguous are copied once.

    Raises:
        InputError: a wrong shape or value, or a weight that is not finite.
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
    _check_options(iters, tol, method, seed, delta)
    flat_start = None if start is None else _flat_start(start, shapes, is_list)

    limit = -1.0 if tol is None else float(tol)
    lanczos = method == "lanczos"
    outputs: Outputs
    if not is_list and math.prod(shapes[0][:-2]) == 0:
        outputs = _empty(tensors[0])
    elif resolve(OP, backend, tensors[0].device) == "reference":
        options = (flat_start, iters, tol, lanczos, delta, seed)
        outputs = _Reference.apply(*options, *tensors)  # type: ignore[no-untyped-call]
    else:
        outputs = _call(tensors, flat_start, iters, limit, lanczos, delta, seed)
    return SpectralNorms(outputs, shapes, is_list)


def _call(weights: list[Tensor], start: Tensor | None, *options: Any) -> Any:
    if torch.compiler.is_compiling():
        return torch.ops.fractalkern.power_iteration(weights, start, *options)
    try:
        if _needs_function(weights):
            return _Sigma.apply(start, *options, *weights)  # type: ignore[no-untyped-call]
        return _forward(weights, start, *options)
    except RuntimeError as error:
        for weight in weights:
            if weight.layout != torch.strided:
                raise InputTypeError(f"{OP}: weights must be dense, got {weight.layout}") from None
        raise_input_error(error)


def _needs_function(weights: list[Tensor]) -> bool:
    # Inside torch.func.vmap a tensor does not know of a torch.func.grad around it.
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.is_grad_enabled():
        for weight in weights:
            if weight.requires_grad:
                return True
    return False


def raise_input_error(error: RuntimeError) -> NoReturn:
    """The kernel's refusal of values that only it has read, as the error of bad input."""
    message = str(error).split("\n", 1)[0]
    at = message.find(f"{OP}: ")
    if at >= 0 and ("must be finite" in message):
        raise InputError(message[at:]) from None
    raise error


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


def _check_options(iters: object, tol: object, method: object, seed: object, delta: object) -> None:
    for name, value, least in (("iters", iters, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputTypeError(f"{OP}: {name} must be an integer, got {value!r}")
        if not least <= value < 2**63:
            raise InputError(f"{OP}: {name} must be from {least} to 2^63 - 1, got {value}")
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


def _flat_start(start: Any, shapes: list[tuple[int, ...]], is_list: bool) -> Tensor:
    if not is_list:
        vector = as_tensor(OP, "start", start)
        _check_start("start", vector, (*shapes[0][:-2], shapes[0][-1]))
        return vector.detach().reshape(-1)
    if not isinstance(start, list | tuple) or len(start) != len(shapes):
        got = f"{len(start)} of them" if isinstance(start, list | tuple) else type(start).__name__
        raise InputError(
            f"{OP}: start must be a list of {len(shapes)} vectors, one a weight, got {got}"
        )
    vectors = [as_tensor(OP, f"start[{i}]", vector) for i, vector in enumerate(start)]
    for i, (vector, shape) in enumerate(zip(vectors, shapes, strict=True)):
        _check_start(f"start[{i}]", vector, shape[1:])
    return torch.cat([vector.detach() for vector in vectors])


def _check_start(name: str, vector: Tensor, shape: tuple[int, ...]) -> None:
    if vector.dtype not in _DTYPES:
        raise InputTypeError(f"{OP}: {name} must be floating point, got {vector.dtype}")
    if tuple(vector.shape) != shape:
        raise InputError(f"{OP}: {name} must have shape {list(shape)}, got {list(vector.shape)}")


def _sizes(weights: Sequence[Tensor]) -> tuple[int, int, int]:
    """How many matrices there are, and the sums of their rows and of their columns."""
    stacks = [math.prod(weight.shape[:-2]) for weight in weights]
    pairs = list(zip(stacks, weights, strict=True))
    return (
        sum(stacks),
        sum(s * w.shape[-2] for s, w in pairs),
        sum(s * w.shape[-1] for s, w in pairs),
    )


def _result_dtype(weights: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32


def _empty(weight: Tensor) -> Outputs:
    """The result for a stack of no matrices."""
    none = weight.new_zeros(0, dtype=_result_dtype([weight]))
    codes = weight.new_zeros((2, 0), dtype=torch.int64)
    return weight.flatten().to(none.dtype), none, none.reshape(3, 0), codes


# The ops of eager mode have no derivative registered, whose Python costs every call 7 us.
_forward = torch.ops.fractalkern.power_iteration_eager.default
_gradients = torch.ops.fractalkern.power_iteration_backward_eager.default


def _fake(
    weights: Sequence[Tensor],
    start: Tensor | None,
    iters: int,
    tol: float,
    lanczos: bool,
    delta: float,
    seed: int,
) -> Outputs:
    count, left, right = _sizes(weights)
    dtype = _result_dtype(weights)
    first = weights[0]
    return (
        first.new_empty(count, dtype=dtype),
        first.new_empty(left + right, dtype=dtype),
        first.new_empty((3, count), dtype=dtype),
        first.new_empty((2, count), dtype=torch.int64),
    )


def _fake_backward(grad: Tensor, vectors: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    return [
        torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) for weight in weights
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    _, vectors, bounds, codes = output
    ctx.mark_non_differentiable(vectors, bounds, codes)
    ctx.save_for_backward(vectors, *inputs[0])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    vectors, *weights = ctx.saved_tensors
    gradients = torch.ops.fractalkern.power_iteration_backward(grad, vectors, weights)
    return gradients, None, None, None, None, None, None


torch.library.register_autograd(
    "fractalkern::power_iteration", _backward, setup_context=_setup_context
)


def refuse_double_backward(ctx: Any, *_: Any) -> NoReturn:
    """The derivative of the gradient: there is none."""
    raise NotImplementedError(
        f"{OP}: sigma can be differentiated once only, but its gradient was differentiated again; "
        "use torch.linalg.matrix_norm(W, 2) for second derivatives"
    )


torch.library.register_autograd("fractalkern::power_iteration_backward", refuse_double_backward)


def _leading(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _stacked_sizes(stacked: Sequence[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Of one of the batch's lists: how many matrices, rows and columns each weight has."""
    stacks = [math.prod(weight.shape[1:-2]) for weight in stacked]
    rows = [s * w.shape[-2] for s, w in zip(stacks, stacked, strict=True)]
    columns = [s * w.shape[-1] for s, w in zip(stacks, stacked, strict=True)]
    return stacks, rows, columns


def _unstack(flat: Tensor, sizes: list[int], batch: int) -> Tensor:
    """`[..., sum]` with the batch inside each of the parts, to `[..., batch, sum / batch]`."""
    parts = torch.split(flat, [batch * part for part in sizes], -1)
    return torch.cat([p.reshape(*p.shape[:-1], batch, -1) for p in parts], -1)


def _restack(flat: Tensor, sizes: list[int]) -> Tensor:
    """And back, from `[batch, sum / batch]`."""
    return torch.cat([part.reshape(-1) for part in torch.split(flat, sizes, -1)])


def _vmap_as(run: Any, info: Any, in_dims: Any, weights: Any, start: Any, *options: Any) -> Any:
    batch = info.batch_size
    stacked = [_leading(w, dim, batch) for w, dim in zip(weights, in_dims[0], strict=True)]
    stacks, rows, columns = _stacked_sizes(stacked)
    if start is not None:
        start = _restack(_leading(start, in_dims[1], batch), columns)
    sizes = (stacks, rows + columns, stacks, stacks)
    outputs = run(stacked, start, *options)
    split = tuple(_unstack(flat, part, batch) for flat, part in zip(outputs, sizes, strict=True))
    return split, (0, 0, 1, 1)


def _vmap_backward_as(
    run: Any, info: Any, in_dims: Any, grad: Tensor, vectors: Tensor, weights: Any
) -> Any:
    batch = info.batch_size
    stacked = [_leading(w, dim, batch) for w, dim in zip(weights, in_dims[2], strict=True)]
    stacks, rows, columns = _stacked_sizes(stacked)
    gradients = run(
        _restack(_leading(grad, in_dims[0], batch), stacks),
        _restack(_leading(vectors, in_dims[1], batch), rows + columns),
        stacked,
    )
    return gradients, [0] * len(stacked)


for _suffix in ("", "_eager"):
    for _name, _fake_of, _vmap_of in (
        (f"power_iteration{_suffix}", _fake, _vmap_as),
        (f"power_iteration_backward{_suffix}", _fake_backward, _vmap_backward_as),
    ):
        torch.library.register_fake(f"fractalkern::{_name}", _fake_of)
        _op = getattr(torch.ops.fractalkern, _name)
        torch.library.register_vmap(f"fractalkern::{_name}", partial(_vmap_of, _op))


class _Gradients(torch.autograd.Function):
    """grad_i u_i v_i^T for each weight; differentiated again, an error."""

    @staticmethod
    def forward(grad: Tensor, vectors: Tensor, *weights: Tensor) -> Any:  # type: ignore[override]
        """The gradients of the weights."""
        return tuple(_gradients(grad, vectors, weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuses."""
        refuse_double_backward(ctx)

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: Tensor, vectors: Tensor, *weights: Tensor) -> Any:  # type: ignore[override]
        """One call for the whole batch."""
        dims = (*in_dims[:2], in_dims[2:])
        gradients, dims = _vmap_backward_as(gradients_of, info, dims, grad, vectors, weights)
        return tuple(gradients), tuple(dims)


def gradients_of(grad: Tensor, vectors: Tensor, weights: Sequence[Tensor]) -> Any:
    """grad_i u_i v_i^T for each weight, where that may be differentiated again, refusing it."""
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return _Gradients.apply(grad, vectors, *weights)  # type: ignore[no-untyped-call]
    return _gradients(grad, vectors, weights)


class _Sigma(torch.autograd.Function):
    """The op with its derivative for eager mode and torch.func."""

    @staticmethod
    def forward(*inputs: Any) -> Any:  # type: ignore[override]
        """The op's outputs for its inputs, the weights last."""
        return _forward(inputs[6:], *inputs[:6])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps what backward needs."""
        ctx.set_materialize_grads(False)  # no zeros for the outputs without a derivative
        _setup_context(ctx, (inputs[6:],), output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # type: ignore[override]
        """The gradients of the weights."""
        vectors, *weights = ctx.saved_tensors
        if grads[0] is None:
            return (None,) * (6 + len(weights))
        return None, None, None, None, None, None, *gradients_of(grads[0], vectors, weights)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:  # type: ignore[override]
        """One call for the whole batch."""
        return _vmap_as(_call, info, (in_dims[6:], in_dims[0]), inputs[6:], *inputs[:6])


class _Reference(torch.autograd.Function):
    """The reference with the same outputs and derivative as the op."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        start: Tensor | None,
        iters: int,
        tol: float | None,
        lanczos: bool,
        delta: float,
        seed: int,
        *weights: Tensor,
    ) -> Outputs:
        triples: list[reference.Triple] = []
        at = 0
        stacks = [w.detach().reshape(math.prod(w.shape[:-2]), *w.shape[-2:]) for w in weights]
        for matrix in (matrix for stack in stacks for matrix in stack.unbind()):
            n = matrix.shape[1]
            if not matrix.isfinite().all():
                raise InputError(
                    f"{OP}: weights must be finite, but matrix {len(triples)} holds NaN or infinity"
                )
            first = None if start is None else start[at : at + n]
            if first is not None and n and not (first.isfinite().all() and first.any()):
                raise InputError(
                    f"{OP}: start must be finite and not zero, but that of matrix "
                    f"{len(triples)} is not"
                )
            triples.append(
                reference.power_iteration(
                    matrix, first, iters, tol, lanczos, delta, seed, len(triples)
                )
            )
            at += n
        dtype = _result_dtype(weights)
        vectors = torch.cat([getattr(t, name) for name in "uv" for t in triples]).to(dtype)
        bounds = torch.tensor(
            [[t.residual for t in triples], [t.lower for t in triples], [t.upper for t in triples]],
            dtype=torch.float64,
        )
        nearest = bounds.to(dtype)
        if dtype == torch.float32:  # towards the safe side
            away = torch.tensor([math.inf, -math.inf, math.inf])[:, None]
            outside = torch.nextafter(nearest, away)
            nearest = torch.where(nearest == bounds, nearest, outside)
        codes = torch.tensor([[t.iterations for t in triples], [t.status for t in triples]])
        ctx.mark_non_differentiable(vectors, nearest, codes)
        ctx.save_for_backward(vectors, *weights)
        return torch.tensor([t.sigma for t in triples], dtype=dtype), vectors, nearest, codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:  # type: ignore[override]
        vectors, *weights = ctx.saved_tensors
        return None, None, None, None, None, None, *gradients_of(grad, vectors, weights)
