"""Optimisers of many runs at once: torch.optim's rules, with every hyper-parameter a number a run.

An optimiser here holds settings alone; its state is a dict of stacks that the engine keeps, so runs
can be dropped, repeated and written to disk. The rules act on flat stacks `[rows, P]`, a row a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from fractalkern.ensemble.clipping import clipped
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops.adam import adam_step

# A number, or one for each run: a list or a tensor [R].
PerRun = Any
Hyper = Mapping[str, Tensor]  # name -> float64 [rows, 1]
State = dict[str, Tensor]  # name -> [rows, P]


def per_run(owner: str, name: str, value: PerRun, runs: int) -> Tensor:
    """`value` as float64 `[runs]`: a number for all of them, or one for each."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(
            f"{owner}: {name} must be a number or one for each of the {runs} runs, got {value!r}"
        ) from None
    if tuple(tensor.shape) not in ((), (runs,)):
        raise InputError(
            f"{owner}: {name} must be a number or one for each of the {runs} runs, "
            f"got shape {list(tensor.shape)}"
        )
    if not tensor.isfinite().all():
        raise InputError(f"{owner}: {name} must be finite, got {value!r}")
    return tensor.expand(runs).clone()


@dataclass(frozen=True)
class Layout:
    """Where the parameters of a group lie in its flat stack: name, first column, shape of one."""

    places: tuple[tuple[str, int, tuple[int, ...]], ...]
    width: int

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters `[rows, ...]` by name, views of `flat` `[rows, width]`."""
        views = {}
        for name, start, shape in self.places:
            view = flat[:, start : start + torch.Size(shape).numel()]
            views[name] = view.view(-1, *shape)
        return views


@dataclass(frozen=True)
class Optimizer:
    """What the optimisers share: checks, and hyper-parameters a run."""

    lr: PerRun

    smallest: ClassVar[Mapping[str, float]] = {}
    largest: ClassVar[Mapping[str, float]] = {}
    switches: ClassVar[tuple[str, ...]] = ()

    def hyper(self, runs: int) -> dict[str, Tensor]:
        """Every hyper-parameter, float64 `[runs]`.

        Raises:
            InputError: one of a wrong length or out of its range.
        """
        owner = type(self).__name__
        values = {}
        for field in fields(self):
            if field.name in self.switches:
                continue
            value = getattr(self, field.name)
            pairs = [(field.name, value)]
            if field.name == "betas":
                if not isinstance(value, tuple | list) or len(value) != 2:
                    raise InputError(f"{owner}: betas must be a pair, got {value!r}")
                pairs = [("beta1", value[0]), ("beta2", value[1])]
            for name, item in pairs:
                tensor = per_run(owner, name, item, runs)
                if (tensor < 0).any():
                    raise InputError(f"{owner}: {name} must be at least 0, got {item!r}")
                if name.startswith("beta") and (tensor >= 1).any():
                    raise InputError(f"{owner}: {name} must be below 1, got {item!r}")
                values[name] = tensor
        return values

    def check(self, layout: Layout) -> None:
        """Raises if the group holds parameters that the rule is not made for."""

    def begin(self, flat: Tensor) -> State:
        """The state before the first step for parameters `[rows, P]`."""
        raise NotImplementedError

    def step(
        self,
        flat: Tensor,
        grad: Tensor,
        state: State,
        hyper: Hyper,
        count: int,
        layout: Layout,
        clip: Tensor | None,
    ) -> None:
        """Changes `flat` and `state` in place by step number `count`, 1 the first; may use `grad`.

        `hyper` holds float64 `[rows, 1]`; the gradients count times `clip` `[rows]`, if any.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimizer):
    """torch.optim.SGD: momentum, dampening, weight decay, Nesterov.

    >>> from fractalkern.ensemble import SGD
    >>> SGD(lr=[0.1, 0.2], momentum=0.9).hyper(2)["lr"].tolist()
    [0.1, 0.2]
    """

    lr: PerRun = 1e-3
    momentum: PerRun = 0.0
    dampening: PerRun = 0.0
    weight_decay: PerRun = 0.0
    nesterov: bool = False

    switches: ClassVar[tuple[str, ...]] = ("nesterov",)

    def begin(self, flat: Tensor) -> State:
        """The velocity, zero."""
        return {"velocity": torch.zeros_like(flat)}

    def step(
        self,
        flat: Tensor,
        grad: Tensor,
        state: State,
        hyper: Hyper,
        count: int,
        layout: Layout,
        clip: Tensor | None,
    ) -> None:
        """v <- mu v + (1 - d) g, at first g;  p <- p - lr (g + mu v, or v)."""
        grad = clipped(grad, clip)
        h = {name: value.to(flat.dtype) for name, value in hyper.items()}
        if hyper["weight_decay"].any():
            grad = grad.addcmul(flat, h["weight_decay"])
        if hyper["momentum"].any():
            velocity = state["velocity"]
            if count == 1:
                velocity.copy_(grad)
            else:
                # Dampening is momentum's: without it there is none, whoever shares the batch.
                fresh = torch.where(hyper["momentum"] > 0, 1 - hyper["dampening"], 1.0)
                velocity.mul_(h["momentum"]).addcmul_(grad, fresh.to(flat.dtype))
            grad = grad.addcmul(velocity, h["momentum"]) if self.nesterov else velocity
        flat.sub_(grad * h["lr"])


@dataclass(frozen=True)
class Adam(Optimizer):
    """torch.optim.Adam; weight decay is added to the gradient.

    >>> from fractalkern.ensemble import Adam
    >>> Adam(lr=1e-2).hyper(3)["beta2"].tolist()
    [0.999, 0.999, 0.999]
    """

    lr: PerRun = 1e-3
    betas: tuple[PerRun, PerRun] = (0.9, 0.999)
    eps: PerRun = 1e-8
    weight_decay: PerRun = 0.0

    def begin(self, flat: Tensor) -> State:
        """Both moments, zero."""
        return {"first": torch.zeros_like(flat), "second": torch.zeros_like(flat)}

    def step(
        self,
        flat: Tensor,
        grad: Tensor,
        state: State,
        hyper: Hyper,
        count: int,
        layout: Layout,
        clip: Tensor | None,
    ) -> None:
        """p <- p - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), in one pass."""
        beta1, beta2, lr = hyper["beta1"], hyper["beta2"], hyper["lr"]
        factor = torch.ones_like(lr) if clip is None else clip[:, None].to(lr.dtype)
        size, root = lr / (1 - beta1**count), (1 - beta2**count).rsqrt()
        decays = self._decays(hyper)
        numbers = (factor, *decays, 1 - beta1, beta2, 1 - beta2, size, root, hyper["eps"])
        adam_step(flat, grad, state["first"], state["second"], torch.cat(numbers, dim=1))

    def _decays(self, hyper: Hyper) -> tuple[Tensor, Tensor]:
        """What of the parameter is added to the gradient, and the factor on the parameter."""
        return hyper["weight_decay"], torch.ones_like(hyper["weight_decay"])


@dataclass(frozen=True)
class AdamW(Adam):
    """torch.optim.AdamW; weight decay shrinks the parameters themselves.

    >>> from fractalkern.ensemble import AdamW
    >>> AdamW(weight_decay=[0.0, 0.1]).hyper(2)["weight_decay"].tolist()
    [0.0, 0.1]
    """

    weight_decay: PerRun = 1e-2

    def _decays(self, hyper: Hyper) -> tuple[Tensor, Tensor]:
        decay = hyper["weight_decay"]
        return torch.zeros_like(decay), 1 - hyper["lr"] * decay
