"""The oracles of `dense_outputs` and `dense_gradients`: a loop over the networks with autograd."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = (F.binary_cross_entropy_with_logits, F.mse_loss, F.cross_entropy)


def dense_outputs(x: Tensor, parameters: Tensor, layout: Sequence[int]) -> Tensor:
    """Outputs `[R, N, outputs]` of R networks, a ReLU behind every layer but the last.

    Args:
        x: `[N, d]`, or `[R, N, d]`.
        parameters: `[R, P]`, a network a row.
        layout: for each layer its inputs, its outputs and the first columns of its weight
            `[outputs, inputs]` and bias `[outputs]`.
    """
    results = []
    for run, row in enumerate(parameters):
        h = x if x.dim() == 2 else x[run]
        for start in range(0, len(layout), 4):
            inputs, outputs, weight, bias = layout[start : start + 4]
            matrix = row[weight : weight + inputs * outputs].view(outputs, inputs)
            h = F.linear(h.relu() if start else h, matrix, row[bias : bias + outputs])
        results.append(h)
    return torch.stack(results)


def dense_gradients(
    x: Tensor, y: Tensor, parameters: Tensor, layout: Sequence[int], loss: int
) -> tuple[Tensor, Tensor]:
    """Losses `[R]`, means over all elements, and their gradients `[R, P]`, zero where no layer is.

    Args:
        x: as above.
        y: targets of every output, or for cross entropy labels of every point.
        parameters: as above.
        layout: as above.
        loss: 0 binary cross entropy of logits, 1 mean squared error, 2 cross entropy.
    """
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        outputs = dense_outputs(x, leaf, layout)
        targets = y.expand(len(leaf), *y.shape) if x.dim() == 2 else y
        losses = torch.stack([LOSSES[loss](o, t) for o, t in zip(outputs, targets, strict=True)])
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradients
