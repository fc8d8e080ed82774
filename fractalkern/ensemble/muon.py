"""Muon of many runs at once: momentum, made orthogonal by batched Newton-Schulz iterations."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fractalkern.ensemble.clipping import clipped
from fractalkern.ensemble.optimizers import Hyper, Layout, Optimizer, PerRun, State
from fractalkern.errors import InputError
from fractalkern.ops._inputs import require_choice

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_SMALLEST_NORM = 1e-7
_STEPS = 5


def newton_schulz(
    matrices: Tensor, steps: int = _STEPS, coefficients: tuple[float, float, float] = _COEFFICIENTS
) -> Tensor:
    """U V^T of each matrix U S V^T, roughly: `[B, m, n]` in bfloat16, singular values near 1.

    X <- a X + (b G + c G G) X with G = X X^T, from X / |X|.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    >>> import torch
    >>> from fractalkern.ensemble.muon import newton_schulz
    >>> bool((newton_schulz(3 * torch.eye(4)[None]).diagonal(dim1=1, dim2=2) > 0.6).all())
    True
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = _exact(x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM))
    for _ in range(steps):
        gram = _rounded(x @ x.mT)
        polynomial = _rounded(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
        x = _rounded(torch.baddbmm(x, polynomial, x, beta=a))
    x = x.bfloat16()
    return x.mT if tall else x


def _exact(x: Tensor) -> Tensor:
    """bfloat16 in the type to multiply it in: processors without bfloat16 products take 20 to 30
    times as long for them as for products in float32, which are rounded just as well."""
    return x.float() if x.device.type == "cpu" else x


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float() if x.dtype == torch.float32 else x


@dataclass(frozen=True)
class Muon(Optimizer):
    """torch.optim.Muon, for matrices.

    Args:
        adjust: the factor on the learning rate of a matrix [m, n]: "original" sqrt(max(1, m / n)),
            "match_rms_adamw" 0.2 sqrt(max(m, n)), or "none".

    >>> from fractalkern.ensemble import Muon
    >>> Muon(lr=[0.01, 0.02]).hyper(2)["momentum"].tolist()
    [0.95, 0.95]
    """

    lr: PerRun = 1e-3
    momentum: PerRun = 0.95
    weight_decay: PerRun = 0.1
    nesterov: bool = True
    adjust: str = "original"

    switches: ClassVar[tuple[str, ...]] = ("nesterov", "adjust")

    def check(self, layout: Layout) -> None:
        """Raises unless every parameter is a matrix."""
        require_choice("Muon", "adjust", self.adjust, ("original", "match_rms_adamw", "none"))
        for name, _, shape in layout.places:
            if len(shape) != 2:
                raise InputError(
                    f"Muon: parameters must be matrices, got {name!r} of shape {list(shape)}; "
                    "give the others to another optimiser: [(choice, Muon()), (choice, AdamW())]"
                )

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
        """v <- mu v + (1 - mu) g;  p <- (1 - lr d) p - lr f NS(g + mu (v - g), or v)."""
        grad = clipped(grad, clip)
        velocity = state["velocity"]
        velocity.lerp_(grad, (1 - hyper["momentum"]).to(flat.dtype))
        update = (
            grad.lerp(velocity, hyper["momentum"].to(flat.dtype)) if self.nesterov else velocity
        )
        flat.mul_((1 - hyper["lr"] * hyper["weight_decay"]).to(flat.dtype))
        updates = layout.views(update)
        for name, parameter in layout.views(flat).items():
            size = (hyper["lr"] * self._factor(*parameter.shape[1:])).to(flat.dtype)
            parameter.sub_(newton_schulz(updates[name]) * size[:, :, None])

    def _factor(self, rows: int, columns: int) -> float:
        if self.adjust == "original":
            return math.sqrt(max(1, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns)) if self.adjust == "match_rms_adamw" else 1.0
