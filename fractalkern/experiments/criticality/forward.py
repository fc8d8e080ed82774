"""Stacks of multilayer perceptrons on many points: activations that stay in the cache."""

import torch
from torch import Tensor

from fractalkern.experiments.criticality.model import Layers

_ROWS_OF_64 = 4096  # points at a time for 64 units; a block of activations takes a MiB


def logits(layers: Layers, x: Tensor) -> Tensor:
    """`[R, N, logits]` for points `[N, dims]` that all share, or `[R, N, dims]`.

    Run by run in blocks of points: all at once, every layer's activations would go to memory.
    """
    runs, width = layers[0][0].shape[:2]
    points = max(64, _ROWS_OF_64 * 64 // max(width, 64))
    out = x.new_empty(runs, x.shape[-2], layers[-1][0].shape[1])
    for run in range(runs):
        mine = [(weight[run].T.contiguous(), bias[run]) for weight, bias in layers]
        own = x if x.dim() == 2 else x[run]
        for start in range(0, len(own), points):
            h = own[start : start + points]
            for weight, bias in mine[:-1]:
                h = torch.addmm(bias, h, weight).relu_()
            torch.addmm(mine[-1][1], h, mine[-1][0], out=out[run, start : start + points])
    return out


def activity(layers: Layers, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Which hidden units fire, bool `[R, N, width]` a layer, for points `[R, N, dims]`; logits."""
    active, h = [], x
    for weight, bias in layers[:-1]:
        h = torch.baddbmm(bias[:, None], h, weight.mT).relu_()
        active.append(h > 0)
    weight, bias = layers[-1]
    return active, torch.baddbmm(bias[:, None], h, weight.mT)


def jacobian(layers: Layers, active: list[Tensor]) -> Tensor:
    """df/dx `[R, N, logits, dims]` where those units fire: exact but on the kinks."""
    runs, points = active[0].shape[:2]
    out = layers[-1][0].shape[1]
    back = layers[-1][0][:, None].expand(runs, points, out, -1)
    for (weight, _), mask in zip(reversed(layers[:-1]), reversed(active), strict=True):
        back = (back * mask[:, :, None]).flatten(1, 2) @ weight
        back = back.view(runs, points, out, -1)
    return back
