"""The op behind `power_iteration`: calls of it, fake kernels, derivative and vmap rule."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op that the fake kernel belongs to
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import is_transformed
from fractalkern.ops._spectral_norms import Outputs
from fractalkern.reference import power_iteration as reference

OP = "power_iteration"
_REFUSALS = ("must be finite", "must be on", "must have at most")


def call(weights: list[Tensor], start: Tensor | None, *options: Any) -> Any:
    """The op's outputs, differentiable in the weights."""
    if torch.compiler.is_compiling():
        return torch.ops.fractalkern.power_iteration(weights, start, *options)
    try:
        if _needs_function(weights):
            functorch = torch._C._are_functorch_transforms_active()
            function = _Sigma if functorch else _EagerSigma
            return function.apply(start, *options, *weights)  # type: ignore[no-untyped-call]
        return _forward(weights, start, *options)
    except RuntimeError as error:
        for weight in weights:
            if weight.layout != torch.strided:
                raise InputTypeError(f"{OP}: weights must be dense, got {weight.layout}") from None
        raise_input_error(error)


def _needs_function(weights: list[Tensor]) -> bool:
    # Inside torch.func.vmap a tensor does not know of a torch.func.grad around it.
    if is_transformed():
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
    if at >= 0 and any(refusal in message for refusal in _REFUSALS):
        raise InputError(message[at:]) from None
    raise error


def _sizes(weights: Sequence[Tensor]) -> tuple[int, int, int]:
    """How many matrices there are, and the sums of their rows and of their columns."""
    stacks = [math.prod(weight.shape[:-2]) for weight in weights]
    pairs = list(zip(stacks, weights, strict=True))
    return (
        sum(stacks),
        sum(s * w.shape[-2] for s, w in pairs),
        sum(s * w.shape[-1] for s, w in pairs),
    )


def result_dtype(weights: Sequence[Tensor]) -> torch.dtype:
    """float64 if any weight is, else float32."""
    return torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32


# The ops of eager mode have no derivative registered, whose Python costs every call 7 us.
_forward = torch.ops.fractalkern.power_iteration_eager.default
_gradients = torch.ops.fractalkern.power_iteration_backward_eager.default


def fake(
    weights: Sequence[Tensor],
    start: Tensor | None,
    iters: int,
    tol: float,
    lanczos: bool,
    delta: float,
    seed: int,
) -> Outputs:
    """The op's outputs, uninitialised."""
    count, left, right = _sizes(weights)
    dtype = result_dtype(weights)
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


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    """Keeps what backward needs; only sigma can be differentiated."""
    _, vectors, bounds, codes = output
    ctx.mark_non_differentiable(vectors, bounds, codes)
    ctx.save_for_backward(vectors, *inputs[0])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    vectors, *weights = ctx.saved_tensors
    gradients = torch.ops.fractalkern.power_iteration_backward(grad, vectors, weights)
    return gradients, None, None, None, None, None, None


torch.library.register_autograd(
    "fractalkern::power_iteration", _backward, setup_context=setup_context
)


def refuse_double_backward(ctx: Any, *_: Any) -> NoReturn:
    """The derivative of the gradient: there is none."""
    raise NotImplementedError(
        f"{OP}: sigma can be differentiated once only, but its gradient was differentiated again; "
        "use torch.linalg.matrix_norm(W, 2) for second derivatives"
    )


torch.library.register_autograd("fractalkern::power_iteration_backward", refuse_double_backward)


def refuse_forward_mode(ctx: Any, *_: Any) -> NoReturn:
    """The forward-mode derivative: there is none."""
    raise NotImplementedError(
        f"{OP}: sigma has no forward-mode derivative; use torch.func.grad or jacrev, or "
        "torch.linalg.matrix_norm(W, 2)"
    )


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
    shaped = zip(parts, sizes, strict=True)
    return torch.cat([p.reshape(*p.shape[:-1], batch, size) for p, size in shaped], -1)


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
        (f"power_iteration{_suffix}", fake, _vmap_as),
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
        setup_context(ctx, (inputs[6:],), output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # type: ignore[override]
        """The gradients of the weights."""
        vectors, *weights = ctx.saved_tensors
        if grads[0] is None:
            return (None,) * (6 + len(weights))
        return None, None, None, None, None, None, *gradients_of(grads[0], vectors, weights)

    jvp = staticmethod(refuse_forward_mode)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:  # type: ignore[override]
        """One call for the whole batch."""
        return _vmap_as(call, info, (in_dims[6:], in_dims[0]), inputs[6:], *inputs[:6])


class _EagerSigma(torch.autograd.Function):
    """The same for eager mode.

    `apply` of a function with a setup_context inspects its signature, which would take a small list
    about as long as everything else.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:  # type: ignore[override]
        """The op's outputs for its inputs, the weights last."""
        outputs = _Sigma.forward(*inputs)
        _Sigma.setup_context(ctx, inputs, outputs)
        return outputs

    backward = staticmethod(_Sigma.backward)
    jvp = staticmethod(refuse_forward_mode)


def call_reference(weights: list[Tensor], start: Tensor | None, *options: Any) -> Outputs:
    """The outputs of the reference, differentiable in the weights."""
    outputs: Outputs = _Reference.apply(start, *options, *weights)  # type: ignore[no-untyped-call]
    return outputs


def solve_each(
    solve: Callable[..., reference.Triple],
    weights: Sequence[Tensor],
    start: Tensor | None,
    iters: int,
    tol: float | None,
    lanczos: bool,
    delta: float,
    seed: int,
) -> Outputs:
    """The op's outputs by the reference, or another function of its arguments for one matrix."""
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
                f"{OP}: start must be finite and not zero, but that of matrix {len(triples)} is not"
            )
        triples.append(solve(matrix, first, iters, tol, lanczos, delta, seed, len(triples)))
        at += n
    dtype = result_dtype(weights)
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
    sigma = torch.tensor([t.sigma for t in triples], dtype=dtype)
    place = weights[0].device
    return sigma.to(place), vectors.to(place), nearest.to(place), codes.to(place)


def outer_products(grad: Tensor, vectors: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """grad_i u_i v_i^T for each weight, on any device."""
    _, left, _ = _sizes(weights)
    products = []
    u_all, v_all = vectors[:left], vectors[left:]
    for weight in weights:
        *batch, m, n = weight.shape
        count = math.prod(batch)
        scale, grad = grad[:count], grad[count:]
        u, u_all = u_all[: count * m], u_all[count * m :]
        v, v_all = v_all[: count * n], v_all[count * n :]
        scaled = scale[:, None, None] * u.reshape(count, m, 1)
        products.append((scaled * v.reshape(count, 1, n)).to(weight.dtype).reshape(weight.shape))
    return products


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
        options = (iters, tol, lanczos, delta, seed)
        outputs = solve_each(reference.power_iteration, weights, start, *options)
        setup_context(ctx, (weights,), outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:  # type: ignore[override]
        vectors, *weights = ctx.saved_tensors
        return None, None, None, None, None, None, *gradients_of(grad, vectors, weights)
