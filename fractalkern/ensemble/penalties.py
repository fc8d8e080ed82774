"""Extra terms of the loss that see the stacked parameters: one call for many runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fractalkern.ensemble.optimizers import PerRun, per_run
from fractalkern.errors import InputError
from fractalkern.ops._inputs import require_choice, require_whole
from fractalkern.ops.power_iteration import METHODS
from fractalkern.random import uniform
from fractalkern.regularizers import spectral_penalty

_START_STREAM = 0x656E736D


@dataclass
class Context:
    """Whose parameters a penalty is given.

    Attributes:
        runs: int64 `[W]`, the run of each row, on the CPU.
        step: steps done before this one.
        state: stacks `[W, ...]` that the penalty may read and replace; kept with the runs.
    """

    runs: Tensor
    step: int
    state: dict[str, Tensor]


class Penalty(Protocol):
    """penalty(parameters, context) -> `[W]`, differentiable, added to the losses.

    `parameters` are the stacks `[W, ...]` by name. Row w must depend on row w alone; if it does to
    the last bit, an attribute `independent = True` saves the calls block by block.
    """

    def __call__(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """The penalty of each row."""


class SpectralPenalty:
    r"""weight * sum over the matrices of (sigma - target)^2, of `fractalkern.spectral_penalty`.

    Args:
        runs: how many runs there are.
        target: a number, `[R]`, or by name a number or `[R]`; context.state["target"] `[W, L]`
            holds those in use, and metrics may change them.
        weight: a number or `[R]`.
        include: which matrices, called with the name; default: all of two or more axes.
        iters: passes over each matrix and step, from the vectors of the step before; at least 2.
        method: "lanczos" or "power".
        schedule: factors on the targets, called with the step: a number or `[R]`.

    Raises:
        InputError: a wrong number or name; when called, no matrix, or targets that do not fit.
        InputTypeError: an argument of a wrong type.

    >>> import torch
    >>> from fractalkern.ensemble import Context, SpectralPenalty
    >>> penalty = SpectralPenalty(2, target=1.0, weight=[0.5, 1.0])
    >>> stack = torch.stack([3 * torch.eye(4), 2 * torch.eye(4)])
    >>> penalty({"weight": stack}, Context(torch.arange(2), 0, {})).tolist()
    [2.0, 1.0]
    """

    independent = True

    def __init__(
        self,
        runs: int,
        target: PerRun | Mapping[str, PerRun] = 1.0,
        weight: PerRun = 1.0,
        *,
        include: Callable[[str], bool] | None = None,
        iters: int = 2,
        method: str = "lanczos",
        schedule: Callable[[int], Any] | None = None,
    ) -> None:
        require_choice("SpectralPenalty", "method", method, METHODS)
        self.runs, self.target, self.method = runs, target, method
        self.iters = require_whole("SpectralPenalty", "iters", iters, 2)
        self.weight = per_run("SpectralPenalty", "weight", weight, runs)
        self.include = include or (lambda name: True)
        self.schedule = schedule

    def _targets(self, names: list[str]) -> Tensor:
        """`[R, L]`."""
        if isinstance(self.target, Mapping):
            if set(self.target) != set(names):
                raise InputError(
                    f"SpectralPenalty: target must name exactly the matrices {names}, "
                    f"got {sorted(self.target)}"
                )
            values = [self.target[name] for name in names]
        else:
            values = [self.target] * len(names)
        owner = "SpectralPenalty"
        return torch.stack([per_run(owner, "target", v, self.runs) for v in values], dim=1)

    def __call__(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """The penalty of each row `[W]`."""
        chosen = {n: p.flatten(2) for n, p in parameters.items() if p.dim() > 2 and self.include(n)}
        if not chosen:
            raise InputError("SpectralPenalty: include must choose a matrix, got none")
        stacks = list(chosen.values())
        state, device = context.state, stacks[0].device
        if "target" not in state:
            state["target"] = self._targets(list(chosen))[context.runs].to(device)
            columns = sum(stack.shape[2] for stack in stacks)
            # One for all: drawn by the op, it would depend on the place in the batch.
            start = uniform((columns,), seed=0, stream=_START_STREAM) - 0.5
            state["start"] = start.to(stacks[0]).expand(len(context.runs), -1).clone()
        target = state["target"]
        if self.schedule is not None:
            factor = per_run("SpectralPenalty", "schedule", self.schedule(context.step), self.runs)
            target = target * factor[context.runs, None].to(device)
        # The op wants the vectors matrix by matrix: all rows of the first one, then of the next.
        widths = [stack.shape[2] for stack in stacks]
        start = torch.cat([part.flatten() for part in torch.split(state["start"], widths, dim=1)])
        value, _, vectors = spectral_penalty(
            stacks,
            target.T.contiguous(),
            self.weight[context.runs].to(device),
            start=start,
            iters=self.iters,
            method=self.method,
        )
        rows = len(context.runs)
        parts = torch.split(vectors, [rows * width for width in widths])
        state["start"] = torch.cat([part.view(rows, -1) for part in parts], dim=1)
        return value.to(stacks[0].dtype)
