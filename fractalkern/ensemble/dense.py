"""Plain ReLU networks by a kernel of their own, which keeps a network's activations in the caches.

Taken by itself where it fits: a `Sequential` of `Linear` layers with a bias and a `ReLU` between
each two, float32, on a CPU, one optimiser, and a loss of `fractalkern.ensemble.losses`. A run's
arithmetic depends on nothing but the run, so nothing has to be repeated in blocks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fractalkern.ensemble.data import Data
from fractalkern.ensemble.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from fractalkern.ensemble.optimizers import Layout
from fractalkern.ops.dense import dense_gradients, dense_outputs


class DenseNetworks:
    """The kernel for one layout of parameters."""

    def __init__(self, layout: list[int], loss: Any) -> None:
        self._layout, self._loss = layout, loss

    def fits(self, data: Data) -> bool:
        """Whether the kernel can take these data."""
        if len(data.tensors) != 2:
            return False
        x, y = data.sample()
        examples, outputs = x.shape[:-1], self._layout[-3]
        labels = isinstance(self._loss, CrossEntropy)
        width = 1 if labels else outputs
        return (
            x.dim() == (2 if data.shared else 3)
            and x.shape[-1] == self._layout[0]
            and x.dtype == torch.float32
            and y.dtype == self._loss.dtype
            and y.shape[: len(examples)] == examples
            and y.numel() == examples.numel() * width
            and not (labels and ((data.tensors[1] < 0) | (data.tensors[1] >= outputs)).any())
        )

    def gradients(self, batch: tuple[Tensor, ...], flat: Tensor, grad: Tensor) -> Tensor:
        """Writes the gradients of `flat` `[rows, P]` into `grad`; the losses `[rows]`."""
        x, y = batch
        return dense_gradients(x, y, flat, grad, self._layout, self._loss.code)

    def outputs(self, x: Tensor, flat: Tensor) -> Tensor:
        """`[rows, N, outputs]` for points `[N, d]` of all rows or `[rows, N, d]`."""
        return dense_outputs(x, flat, self._layout)


def dense_networks(template: nn.Module, loss: Any, layouts: list[Layout]) -> DenseNetworks | None:
    """The kernel, if it can train copies of `template`."""
    known = type(loss) in (BinaryCrossEntropy, MeanSquaredError, CrossEntropy)
    if not known or len(layouts) != 1 or type(template) is not nn.Sequential:
        return None
    kinds = [type(module) for module in template]
    if kinds != [nn.Linear, *[nn.ReLU, nn.Linear] * (len(kinds) // 2)]:
        return None
    # `named_children` names a layer that is there twice once.
    linears = {n: m for n, m in template.named_children() if isinstance(m, nn.Linear)}
    if len(linears) < kinds.count(nn.Linear):
        return None
    parameters = list(template.parameters())
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in template.modules())
    starts = {name: start for name, start, _ in layouts[0].places}
    numbers: list[int] = []
    for name, module in linears.items():
        names = (f"{name}.weight", f"{name}.bias")
        if not plain or hooked or any(name not in starts for name in names):
            return None
        numbers += [module.in_features, module.out_features, *(starts[n] for n in names)]
    return DenseNetworks(numbers, loss)
