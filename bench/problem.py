"""The sweep that every contender of `train_sweep` runs: a view of learning rates in log space."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """P = resolution^2 networks of width n = h on D = n*n + n points, first view [-3, 6]^2."""

    width: int
    dtype: str
    steps: int
    activation: str = "tanh"
    resolution: int = 64

    def arrays(self) -> tuple[np.ndarray, ...]:
        """x [D, n], y [D, 1], w0 [n, n], w1 [n, 1], lr0 [P], lr1 [P]."""
        n = self.width
        random = np.random.default_rng(0)
        shapes = [(n * n + n, n), (n * n + n, 1), (n, n), (n, 1)]
        data = [random.standard_normal(shape) for shape in shapes]
        rates = np.logspace(-3, 6, self.resolution)
        lr1, lr0 = np.meshgrid(rates, rates, indexing="ij")
        return tuple(array.astype(self.dtype) for array in (*data, lr0.ravel(), lr1.ravel()))

    def calm(self) -> np.ndarray:
        """Networks whose rates are both below 1: rounding is not amplified there."""
        *_, lr0, lr1 = self.arrays()
        return np.flatnonzero((lr0 < 1) & (lr1 < 1))

    def work(self) -> dict[str, float]:
        """Per call. Products: X W0 and X^T dZ 2Dnh each, h W1 and h^T d 2Dh; dZ 4Dh."""
        n, points = self.width, self.width * (self.width + 1)
        network_steps = self.resolution**2 * self.steps
        flops = 4 * points * n * n + 4 * points * n + 4 * points * n
        return {
            "network_steps": network_steps,
            "flops": network_steps * flops,
            "tanhs": network_steps * points * n * (self.activation == "tanh"),
        }
