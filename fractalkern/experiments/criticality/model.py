"""The network of a run, and the affine maps that it applies in evaluation."""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fractalkern.experiments.criticality.arms import Arm
from fractalkern.ops.power_iteration import power_iteration

_NORM_PASSES = 20

# Weight [R, m, n] and bias [R, m] of each layer; ReLU between them.
Layers = list[tuple[Tensor, Tensor]]


def network(arm: Arm, dims: int, depth: int, width: int, logits: int) -> nn.Sequential:
    """A multilayer perceptron with ReLU, PyTorch's default start unless the arm says otherwise.

    Without anything between its linear maps and ReLUs, the ensemble has a kernel for it.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, (m, n) in enumerate(pairwise([dims, *[width] * depth])):
        linear = _Normalised(m, n) if arm.spectral_norm else nn.Linear(m, n)
        if arm.orthogonal:
            nn.init.orthogonal_(linear.weight, gain=2**0.5)
        parts[f"linear{layer}"] = linear
        if arm.batchnorm:
            parts[f"norm{layer}"] = nn.BatchNorm1d(n)
        parts[f"relu{layer}"] = nn.ReLU()
        if arm.dropout:
            parts[f"dropout{layer}"] = nn.Dropout(arm.dropout)
    parts[f"linear{depth}"] = nn.Linear(width, logits)
    return _WithTargets(parts, arm.layer_targets(depth)) if arm.learnable else nn.Sequential(parts)


class _WithTargets(nn.Sequential):
    """Its targets of sigma are parameters, which the penalty alone sees."""

    def __init__(self, parts: OrderedDict[str, nn.Module], targets: list[float]) -> None:
        super().__init__(parts)
        self.targets = nn.Parameter(torch.tensor(targets))


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
    return [f"linear{layer}.weight" for layer in range(depth + 1)]


def affine_layers(
    parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], arm: Arm, depth: int
) -> Layers:
    """The maps that the networks apply in evaluation: BatchNorm and divisors taken into them.

    `arm` is any of the arms of one shape that the stacks belong to.
    """
    layers = []
    for layer, name in enumerate(weight_names(depth)):
        weight, bias = parameters[name], parameters[f"linear{layer}.bias"]
        if layer < depth and arm.spectral_norm:
            weight = normalised(weight)
        if layer < depth and arm.batchnorm:
            at = f"norm{layer}"
            variance = buffers[f"{at}.running_var"] + nn.BatchNorm1d(1).eps
            scale = parameters[f"{at}.weight"] / variance.sqrt()
            weight = weight * scale[..., None]
            bias = (bias - buffers[f"{at}.running_mean"]) * scale + parameters[f"{at}.bias"]
        layers.append((weight.detach(), bias.detach()))
    return layers
