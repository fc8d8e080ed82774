"""The network of a run, its loss, and the affine maps that it applies in evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fractalkern.experiments.criticality.arms import Arm
from fractalkern.ops.power_iteration import power_iteration

_SMALL = 1e-5  # below it the published dead rate takes a unit's mean |pre-activation| for dead
_NORM_PASSES = 20

# Weight [R, m, n] and bias [R, m] of each layer; ReLU between them.
Layers = list[tuple[Tensor, Tensor]]


class Network(nn.Module):
    """A multilayer perceptron with ReLU, PyTorch's default start unless the arm says otherwise."""

    def __init__(self, arm: Arm, dims: int, depth: int, width: int, logits: int) -> None:
        super().__init__()
        sizes = [dims, *[width] * depth, logits]
        kinds = [_Normalised if arm.spectral_norm else nn.Linear] * depth + [nn.Linear]
        self.linear = nn.ModuleList(
            kind(m, n) for kind, m, n in zip(kinds, sizes, sizes[1:], strict=False)
        )
        if arm.orthogonal:
            for layer in list(self.linear)[:-1]:
                assert isinstance(layer.weight, Tensor)
                nn.init.orthogonal_(layer.weight, gain=2**0.5)
        self.norm = nn.ModuleList(
            nn.BatchNorm1d(width) if arm.batchnorm else nn.Identity() for _ in range(depth)
        )
        self.dropout = nn.Dropout(arm.dropout)
        if arm.learnable:
            self.targets = nn.Parameter(torch.tensor(arm.layer_targets(depth)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[N, logits]`, and the pre-activations `[N, width]` of each hidden layer."""
        before = []
        for linear, norm in zip(self.linear[:-1], self.norm, strict=True):
            before.append(norm(linear(x)))
            x = self.dropout(before[-1].relu())
        return self.linear[-1](x), before


class _Normalised(nn.Linear):
    """Its weight is divided by its top singular value."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear's."""
        return F.linear(x, normalised(self.weight), self.bias)


def normalised(weight: Tensor) -> Tensor:
    """`[..., m, n]` over their top singular values, to about 1e-6."""
    return weight / power_iteration(weight, iters=_NORM_PASSES).sigma[..., None, None]


def weight_names(depth: int) -> list[str]:
    """The weights of a network by layer, the output layer last."""
    return [f"linear.{layer}.weight" for layer in range(depth + 1)]


def loss_of(published: bool) -> Callable[..., Any]:
    """The loss of one run; the published dead rate besides, of before the update, if asked for."""

    def loss(model: Any, x: Tensor, y: Tensor) -> Any:
        logits, before = model(x)
        value = nll(logits, y)
        if not published:
            return value
        still = [(z.detach().abs().mean(0) < _SMALL).to(z.dtype).mean() for z in before]
        return value, {"published_dead_rate": torch.stack(still).mean()}

    return loss


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels `[N]` for `[N, logits]`."""
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype))
    return F.cross_entropy(logits, y)


def affine_layers(
    parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], arm: Arm, depth: int
) -> Layers:
    """The maps that the networks apply in evaluation: BatchNorm and divisors taken into them.

    `arm` is any of the arms of one shape that the stacks belong to.
    """
    layers = []
    for layer, name in enumerate(weight_names(depth)):
        weight, bias = parameters[name], parameters[f"linear.{layer}.bias"]
        if layer < depth and arm.spectral_norm:
            weight = normalised(weight)
        if layer < depth and arm.batchnorm:
            at = f"norm.{layer}"
            variance = buffers[f"{at}.running_var"] + nn.BatchNorm1d(1).eps
            scale = parameters[f"{at}.weight"] / variance.sqrt()
            weight = weight * scale[..., None]
            bias = (bias - buffers[f"{at}.running_mean"]) * scale + parameters[f"{at}.bias"]
        layers.append((weight.detach(), bias.detach()))
    return layers
