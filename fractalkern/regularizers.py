"""Penalties on the largest singular values of a model's weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fractalkern.errors import InputError, InputTypeError
from fractalkern.modules import weights_of
from fractalkern.ops._inputs import FLOAT_DTYPES, as_real, require_choice, require_whole
from fractalkern.ops._power_iteration_grad import (
    gradients_of,
    raise_input_error,
    refuse_forward_mode,
)
from fractalkern.ops.power_iteration import METHODS

__all__ = ["SpectralTarget", "spectral_penalty", "spectral_penalty_and_gradients"]

OP = "SpectralTarget"


def spectral_penalty(
    weights: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    *,
    start: Tensor | None = None,
    iters: int = 10,
    method: str = "lanczos",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""weight * sum of (sigma_i - target_i)^2 in one op, without checks: `SpectralTarget` has them.

    The slopes are made with the value, so backward only writes slope_i u_i v_i^T.

    Args:
        weights: matrices, or stacks `[R, m, n]` of R models.
        target: one number a matrix, in the order of `weights`; for stacks `[len(weights), R]`.
        weight: `[]`, or `[R]`.
        start: all right vectors end to end, as the third result of a former call; where they are
            zero, a random one is taken.
        iters: passes over each matrix.
        method: "lanczos" or "power".
        seed: of the random start.

    Returns:
        The penalty, of the shape of `weight`; sigma `[B]`; the right vectors end to end, for a
        matrix that is zero those of `start`.

    >>> import torch
    >>> from fractalkern.regularizers import spectral_penalty
    >>> penalty, *_ = spectral_penalty([2 * torch.eye(3)], torch.ones(1), torch.tensor(0.5))
    >>> round(float(penalty), 4)
    0.5
    """
    options = (start, target, weight, iters, method == "lanczos", seed)
    try:
        if torch.compiler.is_compiling():
            outputs = torch.ops.fractalkern.spectral_penalty(weights, *options)
        elif torch._C._are_functorch_transforms_active():
            outputs = _Penalty.apply(*options, *weights)  # type: ignore[no-untyped-call]
        else:
            return _EagerPenalty.apply(*options, *weights)  # type: ignore[no-any-return, no-untyped-call]
    except RuntimeError as error:
        raise_input_error(error)
    penalty, sigma, _, _, following = outputs
    return penalty, sigma, following


def spectral_penalty_and_gradients(
    weights: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    *,
    start: Tensor | None = None,
    iters: int = 10,
    method: str = "lanczos",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """`spectral_penalty` and the gradients of its sum over models, without autograd.

    For small matrices autograd takes longer than both; arguments and first results are the same.

    Returns:
        The penalty, sigma, the right vectors, and a gradient for each weight, of its shape and
        dtype.

    >>> import torch
    >>> from fractalkern.regularizers import spectral_penalty_and_gradients
    >>> weights, half = [torch.diag(torch.tensor([2.0, 0.0]))], torch.tensor(0.5)
    >>> *_, gradients = spectral_penalty_and_gradients(weights, torch.ones(1), half)
    >>> gradients[0].round(decimals=4).abs().tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    with torch.no_grad():
        options = (start, target, weight, iters, method == "lanczos", seed)
        try:
            outputs = torch.ops.fractalkern.spectral_penalty_eager.default(weights, *options)
        except RuntimeError as error:
            raise_input_error(error)
        penalty, sigma, vectors, slope, following = outputs
        return penalty, sigma, following, gradients_of(slope, vectors, weights)


def _fake(
    weights: Sequence[Tensor],
    start: Tensor | None,
    target: Tensor,
    weight: Tensor,
    iters: int,
    lanczos: bool,
    seed: int,
) -> tuple[Tensor, ...]:
    sigma, vectors, _, _ = torch.ops.fractalkern.power_iteration(
        weights, None, iters, -1.0, lanczos, 1e-6, seed
    )
    columns = sum(math.prod(w.shape) // w.shape[-2] for w in weights)
    outputs = (sigma.new_empty(weight.shape), sigma, vectors)
    return *outputs, torch.empty_like(sigma), sigma.new_empty(columns)


for _suffix in ("", "_eager"):
    torch.library.register_fake(f"fractalkern::spectral_penalty{_suffix}", _fake)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, sigma, vectors, slope, following = output
    ctx.mark_non_differentiable(sigma, vectors, slope, following)
    ctx.save_for_backward(vectors, slope, *inputs[0])


def _scales(slope: Tensor, grad: Tensor) -> Tensor:
    if grad.numel() == 1:
        return slope * grad
    return (slope.reshape(-1, grad.numel()) * grad).reshape(-1)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    vectors, slope, *weights = ctx.saved_tensors
    scales = _scales(slope, grad)
    gradients = torch.ops.fractalkern.power_iteration_backward(scales, vectors, weights)
    return gradients, None, None, None, None, None, None


torch.library.register_autograd(
    "fractalkern::spectral_penalty", _backward, setup_context=_setup_context
)


class _Penalty(torch.autograd.Function):
    """The op with its derivative for eager mode and torch.func."""

    @staticmethod
    def forward(*inputs: Any) -> Any:  # type: ignore[override]
        """The op's outputs for its inputs, the weights last."""
        return torch.ops.fractalkern.spectral_penalty_eager.default(inputs[6:], *inputs[:6])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps what backward needs."""
        ctx.set_materialize_grads(False)  # no zeros for the outputs without a derivative
        _setup_context(ctx, (inputs[6:],), output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # type: ignore[override]
        """The gradients of the weights."""
        vectors, slope, *weights = ctx.saved_tensors
        if grads[0] is None:
            return (None,) * (6 + len(weights))
        gradients = gradients_of(_scales(slope, grads[0]), vectors, weights)
        return None, None, None, None, None, None, *gradients

    jvp = staticmethod(refuse_forward_mode)


class _EagerPenalty(torch.autograd.Function):
    """The same for eager mode, where it has no setup_context, whose inspection costs 20 us."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:  # type: ignore[override]
        """The penalty, sigma and the vectors to start from."""
        penalty, sigma, vectors, slope, following = _Penalty.forward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(sigma, following)
        ctx.save_for_backward(vectors, slope, *inputs[6:])
        return penalty, sigma, following

    backward = staticmethod(_Penalty.backward)
    jvp = staticmethod(refuse_forward_mode)


def _same(weight: Tensor) -> Tensor:
    return weight


def _getters(
    module: nn.Module, include: Callable[[str, Tensor], bool]
) -> dict[str, Callable[[], Tensor]]:
    """The chosen weights by name, each read anew on a call."""
    getters = {
        name: partial(getattr, owner, attribute) for name, owner, attribute in weights_of(module)
    }
    return {name: read for name, read in getters.items() if include(name, read())}


class SpectralTarget(nn.Module):
    r"""weight * sum over the layers of (sigma - target)^2, differentiable, with warm starts.

    Args:
        module: a module, of which every weight of two or more axes is taken (axes behind the first
            one flattened; parametrised weights as the module uses them; shared ones once), or a
            dict of stacked weights `[R, m, n]` of R models.
        target: a number; one a layer, in order; a dict by name; with stacks tensors `[R]` in place
            of any number.
        weight: the factor, a number, or with stacks a tensor `[R]`.
        include: which weights to take, called with the name and the tensor; default: all.
        iters: passes over each weight and call; at least 2, as one would not move a warm start.
        method: "lanczos" or "power".
        seed: of the first, random start.

    The vectors of the last call are the buffer `start`, so `state_dict` holds them. The module
    itself is not registered: its parameters stay its own.

    Raises:
        InputError: no weights, targets that do not fit, a wrong number.
        InputTypeError: an argument of a wrong type.

    >>> import torch
    >>> from fractalkern.regularizers import SpectralTarget
    >>> layer = torch.nn.Linear(3, 3, bias=False)
    >>> layer.weight.data = 3 * torch.eye(3)
    >>> round(float(SpectralTarget(layer, target=1.0, weight=0.5).penalty().detach()), 4)
    2.0
    """

    start: Tensor
    target: Tensor
    weight: Tensor

    def __init__(
        self,
        module: nn.Module | Mapping[str, Tensor],
        target: Any = 1.0,
        *,
        weight: Any = 1.0,
        include: Callable[[str, Tensor], bool] | None = None,
        iters: int = 2,
        method: str = "lanczos",
        seed: int = 0,
    ) -> None:
        super().__init__()
        accepted = include if include is not None else (lambda name, tensor: True)
        self._getters: dict[str, Callable[[], Tensor]]
        self.models: int | None = None
        if isinstance(module, nn.Module):
            self._getters = _getters(module, accepted)
        elif isinstance(module, Mapping):
            kept = {name: w for name, w in module.items() if accepted(name, w)}
            self._getters = {name: partial(_same, w) for name, w in kept.items()}
        else:
            raise InputTypeError(
                f"{OP}: module must be a module or a dict of stacked weights, "
                f"got {type(module).__name__}"
            )
        if not self._getters:
            raise InputError(f"{OP}: module must have a weight of two or more axes, got none")
        require_choice(OP, "method", method, METHODS)
        self.method = method
        self.iters = require_whole(OP, "iters", iters, 2)
        self.seed = require_whole(OP, "seed", seed, 0)
        if max(self.iters, self.seed) >= 2**63:
            raise InputError(f"{OP}: iters and seed must be below 2^63, got {iters} and {seed}")
        weights = [getter() for getter in self._getters.values()]
        self._check(weights)
        if not isinstance(module, nn.Module):
            stacks = {w.shape[0] if w.dim() == 3 else None for w in weights}
            if len(stacks) != 1 or None in stacks or 0 in stacks:
                raise InputError(
                    f"{OP}: stacked weights must have shape [R, m, n] with one R of at least 1, "
                    f"got {[list(w.shape) for w in weights]}"
                )
            self.models = weights[0].shape[0]
        device = weights[0].device
        self.register_buffer("target", self._targets(target).to(device))
        self.register_buffer("weight", self._per_model("weight", weight).to(device))
        columns = sum(
            w.shape[0] * w.shape[2] if self.models else math.prod(w.shape[1:]) for w in weights
        )
        dtype = torch.float64 if any(w.dtype == torch.float64 for w in weights) else torch.float32
        self.register_buffer("start", torch.zeros(columns, dtype=dtype, device=device))

    @property
    def names(self) -> list[str]:
        """The weights, in the order of the targets and of `sigma`."""
        return list(self._getters)

    def _check(self, weights: list[Any]) -> None:
        for name, weight in zip(self.names, weights, strict=True):
            if not isinstance(weight, Tensor) or weight.dtype not in FLOAT_DTYPES:
                got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
                raise InputTypeError(
                    f"{OP}: weights must be float16, bfloat16, float32 or float64 tensors, "
                    f"but {name} is {got}"
                )
            if weight.device != weights[0].device:
                raise InputError(
                    f"{OP}: weights must be on one device, but {self.names[0]} is on "
                    f"{weights[0].device} and {name} on {weight.device}"
                )

    def _per_model(self, name: str, value: Any) -> Tensor:
        with torch.device("cpu"):  # values are checked, also of a model made on the meta device
            tensor = as_real(OP, name, value).cpu()
        allowed = [()] if self.models is None else [(), (self.models,)]
        if tuple(tensor.shape) not in allowed:
            expected = "a number" if self.models is None else f"a number or [R] = [{self.models}]"
            raise InputError(f"{OP}: {name} must be {expected}, got shape {list(tensor.shape)}")
        return tensor if self.models is None else tensor.expand(self.models).clone()

    def _targets(self, target: Any) -> Tensor:
        names = self.names
        if isinstance(target, Mapping):
            if set(target) != set(names):
                wrong = sorted(set(target) ^ set(names))
                raise InputError(f"{OP}: target must name exactly the weights, differs in {wrong}")
            values = [target[name] for name in names]
        elif isinstance(target, list | tuple) or (
            self.models is None and getattr(target, "ndim", 0) == 1
        ):
            if len(target) != len(names):
                raise InputError(
                    f"{OP}: target must have one entry a weight, {len(names)}, got {len(target)}"
                )
            values = list(target)
        else:
            values = [target] * len(names)
        return torch.stack([self._per_model("target", value) for value in values])

    def _arguments(self, weights: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        if self.models is None:
            weights = [w if w.dim() == 2 else w.flatten(1) for w in weights]
        return weights, self.target, self.weight

    def _options(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "iters": self.iters,
            "method": self.method,
            "seed": self.seed,
        }

    def _call(self) -> tuple[Tensor, Tensor]:
        weights = [getter() for getter in self._getters.values()]
        arguments, options = self._arguments(weights), self._options()
        penalty, sigma, self.start = spectral_penalty(*arguments, **options)
        return penalty, sigma

    def backward(self) -> Tensor:
        """Adds to the weights' `.grad` what `penalty().sum().backward()` adds; the penalty.

        For small models several times as fast, as it needs no autograd. What is not a leaf, such as
        a parametrised weight, is handed on to it. Hooks on leaves are not called.

        Raises:
            InputError: no weight requires a gradient.
        """
        weights = [getter() for getter in self._getters.values()]
        if not any(weight.requires_grad for weight in weights):
            raise InputError(f"{OP}: some weight must require a gradient, but none does")
        arguments, options = self._arguments(weights), self._options()
        penalty, _, self.start, gradients = spectral_penalty_and_gradients(*arguments, **options)
        computed, handed_on = [], []
        for weight, slopes in zip(weights, gradients, strict=True):
            if not weight.requires_grad:
                continue
            gradient = slopes if weight.dim() == slopes.dim() else slopes.view_as(weight)
            if not weight.is_leaf:
                computed.append(weight)
                handed_on.append(gradient)
            elif weight.grad is None:
                weight.grad = gradient
            else:
                weight.grad += gradient
        if computed:  # in one pass: they may share a graph, which a pass frees
            torch.autograd.backward(computed, handed_on)
        return penalty

    def penalty(self) -> Tensor:
        """The penalty: a scalar, or `[R]`. One op call."""
        return self._call()[0]

    def forward(self) -> Tensor:
        """The penalty."""
        return self.penalty()

    def sigma(self) -> Tensor:
        """The singular values as the penalty finds them: `[layers]`, or `[layers, R]`."""
        with torch.no_grad():
            values = self._call()[1]
        return values if self.models is None else values.reshape(-1, self.models)
