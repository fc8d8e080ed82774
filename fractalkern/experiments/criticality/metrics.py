"""What is measured of all runs at once, every few epochs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fractalkern.ensemble import View
from fractalkern.experiments.criticality.arms import Arm
from fractalkern.experiments.criticality.boundaries import (
    edge_dimension,
    grid_points,
    published_dimension,
)
from fractalkern.experiments.criticality.forward import hidden, jacobian, logits
from fractalkern.experiments.criticality.model import Layers, affine_layers
from fractalkern.experiments.criticality.tasks import DataSets, Task
from fractalkern.ops.power_iteration import power_iteration
from fractalkern.random import integers, normal

_PROBES, _DIRECTIONS, _STEP = 128, 10, 1e-3
_PROBE_STREAM, _DIRECTION_STREAM = 0x70726F62, 0x64697265
_PASSES = 10
# Below it the published dead rate takes a unit's mean |pre-activation| for dead. Here the networks
# of after the update are asked; the original's are those of before it.
_SMALL = 1e-5


class Metrics:
    """metrics(view) -> scalars `[rows]` by name.

    Args:
        task: what is learned.
        data: of S seeds.
        seeds: theirs.
        of_run: `[R]`, whose of them.
        arm: one of the arms, which all have the same shape of module.
        depth: hidden layers.
        grid: points along each axis of the window.
        published: measure what the original does, and no more.
    """

    def __init__(
        self,
        task: Task,
        data: DataSets,
        seeds: Sequence[int],
        of_run: Tensor,
        arm: Arm,
        depth: int,
        grid: int,
        published: bool,
    ) -> None:
        self.task, self.data, self.seeds, self.of_run = task, data, list(seeds), of_run
        self.arm, self.depth, self.side, self.published = arm, depth, grid, published
        self.points = None if task.window is None else grid_points(task.window, grid)

    def layers(self, view: View) -> Layers:
        """What the networks are."""
        return affine_layers(view.parameters, view.buffers, self.arm, self.depth)

    def grid_logits(self, layers: Layers) -> Tensor | None:
        """`[R, side, side]` on the window, if there is one."""
        if self.points is None:
            return None
        points = self.points.to(layers[0][0].device)
        return logits(layers, points)[..., 0].view(-1, self.side, self.side)

    @torch.no_grad()
    def __call__(self, view: View) -> dict[str, Tensor]:
        """All scalars of the runs in `view`."""
        layers, own = self.layers(view), self.of_run[view.runs]
        found: dict[str, Tensor] = {}
        before, train_logits = hidden(layers, self.data.train[0][own])
        found |= _scores("train", train_logits, self.data.train[1][own])
        for name, (x, y) in (("validation", self.data.validation), ("test", self.data.test)):
            if x.shape[1]:
                found |= _scores(name, logits(layers, x[own]), y[own])
        found["dead_rate"] = _mean_share([z.amax(1) <= 0 for z in before])
        found |= self._probed(layers, own, view.step)
        found |= _sigmas(layers)
        if self.published:
            found["published_dead_rate"] = _mean_share([z.abs().mean(1) < _SMALL for z in before])
        else:
            found |= _gains(layers, [z > 0 for z in before])
        grid = self.grid_logits(layers)
        if grid is not None:
            found["published_dimension"] = published_dimension(grid)
            if not self.published:
                found["edge_dimension"] = edge_dimension(grid)
        return found

    def _probed(self, layers: Layers, own: Tensor, step: int) -> dict[str, Tensor]:
        """Sensitivity: mean |f(x + 1e-3 u) - f(x)| / 1e-3 over 10 directions at 128 points.

        Points and directions depend on seed and step, so arms of a seed share them.
        """
        x = self.data.train[0]
        chosen, directions = [], []
        for place, seed in enumerate(self.seeds):
            key = seed << 32 | step
            chosen.append(
                x[place, integers((_PROBES,), x.shape[1], seed=key, stream=_PROBE_STREAM)]
            )
            u = normal((_DIRECTIONS, _PROBES, x.shape[2]), seed=key, stream=_DIRECTION_STREAM)
            directions.append(F.normalize(u, dim=-1).to(x))
        probes = torch.stack(chosen)[own]  # [R, 128, dims]
        moved = probes[:, None] + _STEP * torch.stack(directions)[own]
        before, here = hidden(layers, probes)
        there = logits(layers, moved.flatten(1, 2)).view(*moved.shape[:3], -1)
        found = {"sensitivity": (there - here[:, None]).norm(dim=-1).mean((1, 2)) / _STEP}
        if not self.published:
            slopes = jacobian(layers, [z > 0 for z in before])
            squared = slopes.square().sum((2, 3))
            found["gradient_norm"] = squared.sqrt().mean(1)
            found["jacobian_gain"] = squared.mean(1) / min(slopes.shape[2:])
        return found


def _mean_share(chosen: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the share of units `[R, width]` that are chosen."""
    return torch.stack([units.float().mean(1) for units in chosen]).mean(0)


def _scores(name: str, found: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Accuracy and negative log-likelihood for logits `[R, N, logits]` and labels `[R, N]`."""
    if found.shape[-1] == 1:
        signed = found[..., 0]
        right = (signed > 0) == (y > 0)
        losses = F.softplus(torch.where(y > 0, -signed, signed))
    else:
        right = found.argmax(-1) == y
        losses = -found.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    return {f"{name}_accuracy": right.float().mean(1), f"{name}_nll": losses.mean(1)}


def _sigmas(layers: Layers) -> dict[str, Tensor]:
    """Top singular value of each layer, and the mean over the hidden ones."""
    found = [power_iteration(weight, iters=_PASSES).sigma for weight, _ in layers]
    named = {f"sigma_{i + 1}": sigma for i, sigma in enumerate(found[:-1])}
    return {**named, "sigma_output": found[-1], "sigma_mean": torch.stack(found[:-1]).mean(0)}


def _gains(layers: Layers, active: Sequence[Tensor]) -> dict[str, Tensor]:
    """Jacobian gain chi of each hidden layer, over its shape's share, and the mean of ln chi.

    chi = (1 / m) sum_i P(unit i fires) |row i of W|^2 for W [m, n]: 1 is critical, and He's start.
    """
    found = {}
    for i, ((weight, _), mask) in enumerate(zip(layers, active, strict=False)):
        found[f"gain_{i + 1}"] = (mask.float().mean(1) * weight.square().sum(2)).mean(1)
    logs = torch.stack([gain.clamp(min=1e-30).log() for gain in found.values()])
    return {**found, "log_gain": logs.mean(0)}
