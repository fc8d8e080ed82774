"""Loss, gradient and new buffers of many runs in one call; why some models cannot be batched."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map

from fractalkern.ensemble.randomness import dropout_of, drops_in
from fractalkern.errors import InputError

OP = "Ensemble"

Stack = dict[str, Tensor]
# The model of one run; called as the module would be.
Model = Callable[..., Any]
# loss(model, *batch) -> a scalar, or a scalar and further scalars by name.
Loss = Callable[..., Any]

# What torch says, and what it means for the author of the model.
_REASONS = (
    (
        (".item()", "data-dependent control flow", "Boolean value"),
        "turns values of a tensor into Python numbers (an `if` on them, .item(), int()); "
        "choose with torch.where instead",
    ),
    (
        ("random operation", "randomness"),
        "draws random numbers other than by dropout; pass them to the loss as data",
    ),
    (
        ("in-place", "inplace", "mutate a captured", "match the broadcast shape"),
        "writes in place into a tensor that the runs share; make a new tensor instead",
    ),
    (
        ("nonzero", "dynamic shape", "masked_select", "unique", "data-dependent"),
        "makes tensors whose shape depends on values (a Boolean index, nonzero, unique); "
        "choose with torch.where instead",
    ),
)
_OTHER = "uses an operation that torch.func.vmap cannot batch; replace it"


class Gradients:
    """The vmapped functions of a model: `train` for a step, `apply` for anything else.

    The template's own parameters are never used: calls take stacks.
    """

    def __init__(self, template: nn.Module, loss: Loss, compile: bool | str) -> None:
        self.training = copy.deepcopy(template).train()
        self.evaluating = copy.deepcopy(template).eval()
        self._loss = loss
        self._dropout = True
        self._derive = grad_and_value(self._one, has_aux=True)
        self._compile = compile
        self._steps: dict[tuple[bool, int], Callable[..., Any]] = {}
        self._tried: set[tuple[bool, int]] = set()

    def _one(
        self, parameters: Stack, buffers: Stack, key: Tensor, step: int, batch: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Stack, Stack]]:
        def model(*inputs: Any, **named: Any) -> Any:
            return functional_call(self.training, (parameters, buffers), inputs, named)

        with dropout_of(key, step, self._dropout):
            value = self._loss(model, *batch)
        loss, extra = value if isinstance(value, tuple) else (value, {})
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"{OP}: loss must return a scalar tensor, got {got}")
        return loss, (loss.detach(), dict(extra), buffers)

    def train(
        self,
        parameters: Stack,
        buffers: Stack,
        keys: Tensor,
        step: int,
        batch: tuple[Tensor, ...],
        shared: bool,
    ) -> tuple[Stack, Tensor, Stack, Stack]:
        """Gradients `[W, ...]`, losses `[W]`, further scalars `[W]` and the new buffers.

        `batch` is `[W, ...]`, or shared by all. A width of 1 is not batched: that costs a large
        model a tenth of its speed. One batched step before the first refuses what a batch refuses.
        """
        if len(keys) > 1 or self._compile:
            return self._batched(parameters, buffers, keys, step, batch, shared)
        kind = (shared, len(batch))
        if kind not in self._tried:
            copies = {name: stack.clone() for name, stack in buffers.items()}
            self._batched(parameters, copies, keys, step, batch, shared)
            self._tried.add(kind)
        leaves = {name: p.detach().requires_grad_() for name, p in _first(parameters).items()}
        mine = batch if shared else tuple(tensor[0] for tensor in batch)
        loss, (value, extra, own) = self._one(leaves, _first(buffers), keys[0], step, mine)
        found = torch.autograd.grad(
            loss, tuple(leaves.values()), allow_unused=True, materialize_grads=True
        )
        gradients = {name: grad[None] for name, grad in zip(leaves, found, strict=True)}
        extra = {name: torch.as_tensor(scalar).detach()[None] for name, scalar in extra.items()}
        return gradients, value[None], extra, {name: buffer[None] for name, buffer in own.items()}

    def _batched(
        self,
        parameters: Stack,
        buffers: Stack,
        keys: Tensor,
        step: int,
        batch: tuple[Tensor, ...],
        shared: bool,
    ) -> tuple[Stack, Tensor, Stack, Stack]:
        axes = (0, 0, 0, None, (None if shared else 0,) * len(batch))
        batched = self._steps.get((shared, len(batch)))
        if batched is None:
            batched = vmap(self._derive, in_dims=axes, randomness="error")
            if self._compile:
                backend = self._compile if isinstance(self._compile, str) else "inductor"
                batched = torch.compile(batched, dynamic=False, backend=backend)
            self._steps[shared, len(batch)] = batched
        try:
            with warnings.catch_warnings():
                # A slow fallback is still right; it is one warning an operator and call.
                warnings.filterwarnings("ignore", message=".*performance drop.*")
                gradients, (_, (losses, extra, buffers)) = batched(
                    parameters, buffers, keys, step, batch
                )
        except InputError:
            raise
        except (RuntimeError, ValueError, NotImplementedError) as error:
            # A model that fails by itself says so itself.
            self.alone(batch if shared else tuple(tensor[0] for tensor in batch))
            raise InputError(_explanation(error)) from error
        return gradients, losses, extra, buffers

    def look_for_dropout(self, batch: tuple[Tensor, ...]) -> None:
        """Finds out whether the loss of one run drops anything; if not, nothing is looked for."""
        self._dropout = False
        with torch.no_grad():
            self._dropout = drops_in(lambda: self.alone(batch), self._device)

    def alone(self, batch: tuple[Tensor, ...]) -> Tensor:
        """The loss of the template itself for the batch of one run, without any batching."""
        parameters: Stack = dict(self.training.named_parameters())
        buffers = {name: buffer.clone() for name, buffer in self.training.named_buffers()}
        key = torch.zeros(2, dtype=torch.int64, device=self._device)
        return self._one(parameters, buffers, key, 0, batch)[0]

    @property
    def _device(self) -> torch.device:
        return next(self.training.parameters()).device

    def apply(
        self,
        function: Callable[..., Any],
        parameters: Stack,
        buffers: Stack,
        tensors: tuple[Tensor, ...],
        own: tuple[bool, ...],
    ) -> Any:
        """`function(model, *tensors)` of every run, the model in evaluation mode: `[W, ...]`."""

        def one(parameters: Stack, buffers: Stack, tensors: tuple[Tensor, ...]) -> Any:
            def model(*inputs: Any, **named: Any) -> Any:
                return functional_call(self.evaluating, (parameters, buffers), inputs, named)

            return function(model, *tensors)

        if len(next(iter(parameters.values()))) == 1:  # not batched, as in training
            mine = tuple(t[0] if o else t for t, o in zip(tensors, own, strict=True))
            return tree_map(lambda t: t[None], one(_first(parameters), _first(buffers), mine))
        axes = (0, 0, tuple(0 if mine else None for mine in own))
        return vmap(one, in_dims=axes, randomness="error")(parameters, buffers, tensors)


def _first(stack: Stack) -> Stack:
    return {name: tensor[0] for name, tensor in stack.items()}


def _explanation(error: Exception) -> str:
    text = str(error)
    reason = next(
        (meaning for words, meaning in _REASONS if any(word in text for word in words)), _OTHER
    )
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{OP}: model must have a forward that vmap can batch, but it {reason} ({first})"
