"""Stacks of multilayer perceptrons on many points."""

import torch
from torch import Tensor

from fractalkern import _native  # noqa: F401  # registers the op
from fractalkern.experiments.criticality.model import Layers

_ACTIVATION_BYTES = 2**28  # of the points that are taken at a time where there is no kernel


def logits(layers: Layers, x: Tensor) -> Tensor:
    """`[R, N, logits]` for points `[N, dims]` that all share, or `[R, N, dims]`.

    On the CPU by the ensemble's kernel, which keeps activations in the caches.
    """
    if not x.is_cpu:
        return logits_by_products(layers, x)
    columns, layout, place = [], [], 0
    for weight, bias in layers:
        m, n = weight.shape[1:]
        layout += [n, m, place, place + m * n]
        columns += [weight.flatten(1), bias]
        place += m * n + m
    found: Tensor = torch.ops.fractalkern.dense_outputs(
        x.contiguous(), torch.cat(columns, dim=1), layout
    )
    return found


def logits_by_products(layers: Layers, x: Tensor) -> Tensor:
    """The same on any device, by batched products."""
    runs = layers[0][0].shape[0]
    bytes_of_a_point = 4 * runs * sum(weight.shape[1] for weight, _ in layers)
    parts = torch.split(x, max(1, _ACTIVATION_BYTES // bytes_of_a_point), dim=-2)
    return torch.cat([hidden(layers, part.expand(runs, -1, -1))[1] for part in parts], dim=1)


def hidden(layers: Layers, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Pre-activations `[R, N, width]` of each hidden layer for points `[R, N, dims]`; logits."""
    before, h = [], x
    for weight, bias in layers[:-1]:
        before.append(torch.baddbmm(bias[:, None], h, weight.mT))
        h = before[-1].relu()
    weight, bias = layers[-1]
    return before, torch.baddbmm(bias[:, None], h, weight.mT)


def jacobian(layers: Layers, active: list[Tensor]) -> Tensor:
    """df/dx `[R, N, logits, dims]` where those units fire: exact but on the kinks."""
    runs, points = active[0].shape[:2]
    out = layers[-1][0].shape[1]
    back = layers[-1][0][:, None].expand(runs, points, out, -1)
    for (weight, _), mask in zip(reversed(layers[:-1]), reversed(active), strict=True):
        back = (back * mask[:, :, None]).flatten(1, 2) @ weight
        back = back.view(runs, points, out, -1)
    return back
