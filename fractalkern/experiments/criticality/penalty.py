"""The spectral penalty of many runs, each with its own weight, targets, schedule and gradient."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fractalkern.ensemble import Context
from fractalkern.experiments.criticality.arms import Arm
from fractalkern.experiments.criticality.model import weight_names
from fractalkern.ops.power_iteration import power_iteration
from fractalkern.random import uniform

_PASSES = 3
_START_STREAM = 0x63726974
# SPECTRA's: from HIGH to LOW, its exponential's rate, and what its steps are at these shares.
_HIGH, _LOW, _RATE = 2.5, 1.0, 5.0
_STEPS = ((0.0, 2.5), (0.34, 1.7), (0.67, 1.0))


def scheduled_target(schedule: str, done: float) -> float:
    """The target when a share `done` of the training is over, 0 to below 1.

    >>> from fractalkern.experiments.criticality.penalty import scheduled_target
    >>> [scheduled_target("linear", 0.5), scheduled_target("steps", 0.5)]
    [1.75, 1.7]
    """
    if schedule == "linear":
        return _HIGH + (_LOW - _HIGH) * done
    if schedule == "exponential":
        return _LOW + (_HIGH - _LOW) * math.exp(-_RATE * done)
    return [target for start, target in _STEPS if done >= start][-1]


class SigmaPenalty:
    """lambda * sum over layers of (sigma - target)^2, with d sigma / dW = u v^T.

    sigma is found by a batched power iteration that starts where it ended in the step before.

    Args:
        arms: of each run.
        depth: hidden layers.
        epochs: steps of the whole training, of which schedules take shares.
    """

    independent = True  # power_iteration takes every matrix by itself: no rounding is shared

    def __init__(self, arms: Sequence[Arm], depth: int, epochs: int) -> None:
        self.arms, self.epochs, self.names = list(arms), epochs, weight_names(depth)
        targets, weights = [], []
        for arm in arms:
            own = arm.layer_targets(depth) if arm.targets else [0.0] * depth
            targets.append([*own, own[-1]])
            weights.append([arm.weight * bool(arm.targets)] * depth + [arm.weight * arm.output])
        self.targets = torch.tensor(targets)  # [R, layers]
        self.weights = torch.tensor(weights)
        self.detached = torch.tensor([arm.detached for arm in arms])
        self.learnable = any(arm.learnable for arm in arms)

    @property
    def needed(self) -> bool:
        """Whether any run has a penalty."""
        return bool(self.weights.any())

    def targets_at(self, step: int, runs: Tensor) -> Tensor:
        """`[rows, layers]`."""
        targets = self.targets[runs]
        for row, run in enumerate(runs.tolist()):
            schedule = self.arms[run].schedule
            if schedule != "constant":
                targets[row] = scheduled_target(schedule, step / self.epochs)
        return targets

    def __call__(self, parameters: Mapping[str, Tensor], context: Context) -> Tensor:
        """The penalty of each row."""
        runs, device = context.runs, parameters[self.names[0]].device
        targets, weights, detached = (
            rows.to(device)
            for rows in (
                self.targets_at(context.step, runs),
                self.weights[runs],
                self.detached[runs],
            )
        )
        if self.learnable:
            own = parameters["targets"]
            targets = torch.cat([own, own[:, -1:]], dim=1)
        penalty = torch.zeros(len(runs), device=device)
        for layer, name in enumerate(self.names):
            if not self.weights[:, layer].any():
                continue
            weight = parameters[name]
            start = context.state.get(name)
            if start is None:
                columns = weight.shape[-1]
                start = (uniform((columns,), seed=0, stream=_START_STREAM) - 0.5).to(weight)
                start = start.expand(len(runs), -1)
            norms = power_iteration(weight, iters=_PASSES, start=start)
            context.state[name] = norms.v
            sigma = torch.where(detached, norms.sigma.detach(), norms.sigma)
            penalty = penalty + weights[:, layer] * (sigma - targets[:, layer]).square()
        return penalty
