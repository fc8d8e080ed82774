"""What all networks of a grid share: data, initial weights, minibatch rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern import random
from fractalkern.experiments.trainability.config import TrainabilityConfig

# One stream of random numbers for each array; the control lines take 5.
_W0, _W1, _X, _Y, _ROWS = range(5)

_ACTIVATIONS = {"linear": "identity", "relu": "relu"}


@dataclass(frozen=True)
class Shared:
    """Arguments of `train_sweep` that are the same for every cell."""

    x: Tensor  # [D, n]
    y: Tensor  # [D, 1]
    w0: Tensor  # [n, n]
    w1: Tensor  # [n, 1]
    batches: Tensor | None  # [steps, minibatch]

    def to(self, device: str) -> "Shared":
        """The same on a device."""
        x, y, w0, w1 = (tensor.to(device) for tensor in (self.x, self.y, self.w0, self.w1))
        return Shared(x, y, w0, w1, None if self.batches is None else self.batches.to(device))


def shared(config: TrainabilityConfig) -> Shared:
    """N(0, 1) data and weights, uniform rows with replacement, all keyed by the seed."""
    n, rows, seed = config.width, config.data_rows, config.seed
    dtype = getattr(torch, config.dtype)

    def draw(stream: int, *shape: int) -> Tensor:
        return random.normal(shape, seed=seed, stream=stream).to(dtype)

    batches = None
    if config.condition == "tanh-minibatch":
        shape = (config.steps, config.minibatch)
        batches = random.integers(shape, rows, seed=seed, stream=_ROWS)
    return Shared(draw(_X, rows, n), draw(_Y, rows, 1), draw(_W0, n, n), draw(_W1, n, 1), batches)


def activation(config: TrainabilityConfig) -> str:
    """The activation of a condition, by the name that `train_sweep` knows."""
    return _ACTIVATIONS.get(config.condition, "tanh")
