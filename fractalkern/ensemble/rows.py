"""The state of the runs that are trained together: stacks with a row a run, in blocks of one width.

A block is what one batched call computes. Its width never changes while it lives, because the
rounding of a batched product may depend on it: where a run is frozen, or where the runs do not fill
the last block, a row repeats another run of its block, and its results are not kept. A block whose
runs are all frozen is dropped. So no run's arithmetic ever depends on another run's values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fractalkern.ensemble.optimizers import Layout, Optimizer, State

_ALIGNMENT = 16  # columns; a parameter starts at a multiple of 64 bytes of float32


@dataclass
class Group:
    """Parameters that share an optimiser, flat, and the optimiser's state."""

    optimizer: Optimizer
    layout: Layout
    flat: Tensor  # [rows, P]
    grad: Tensor  # [rows, P], zero between the parameters
    hyper: dict[str, Tensor]  # float64 [rows, 1]
    state: State = field(default_factory=dict)


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def constants(module: nn.Module) -> dict[str, Tensor]:
    """What else a run owns: buffers, and parameters that are not trained."""
    fixed = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return {**dict(module.named_buffers()), **fixed}


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """One parameter behind the other, each at a multiple of 64 bytes."""
    places, start = [], 0
    for name, shape in shapes.items():
        places.append((name, start, tuple(shape)))
        start += -(-torch.Size(shape).numel() // _ALIGNMENT) * _ALIGNMENT
    return Layout(tuple(places), start)


class Rows:
    """Stacks of the runs `runs[row]`; `live[row]` unless frozen or a repetition."""

    def __init__(self, runs: Sequence[int], live: Sequence[bool], width: int) -> None:
        self.runs = torch.tensor(runs)
        self.live = torch.tensor(live)
        self.width = width
        self.step = 0
        self.groups: list[Group] = []
        self.buffers: dict[str, Tensor] = {}
        self.penalty_state: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.runs)

    def blocks(self, width: int | None = None) -> list[slice]:
        """The rows of each batched call."""
        width = width or self.width
        return [slice(start, start + width) for start in range(0, len(self), width)]

    def parameters(self) -> dict[str, Tensor]:
        """The parameters `[rows, ...]` by name: views."""
        return {k: v for group in self.groups for k, v in group.layout.views(group.flat).items()}

    def gradients(self) -> dict[str, Tensor]:
        """The gradients `[rows, ...]` by name: views."""
        return {k: v for group in self.groups for k, v in group.layout.views(group.grad).items()}

    def fill(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        """Takes over parameters and buffers, a module a row."""
        for group in self.groups:
            views = group.layout.views(group.flat)
            for row, module in enumerate(modules):
                values = dict(module.named_parameters())
                for name, view in views.items():
                    view[row] = values[name].detach().to(device)
            group.state = group.optimizer.begin(group.flat)
        named = [constants(module) for module in modules]
        self.buffers = {
            name: torch.stack([buffers[name].detach().to(device) for buffers in named])
            for name in named[0]
        }

    def freeze(self, bad: Sequence[int], *others: dict[str, Tensor]) -> Tensor:
        """Takes the runs in the rows `bad` out; every other row keeps its block and its place.

        Args:
            bad: rows, among them perhaps repetitions.
            others: further stacks by name that go with the rows, changed in place.

        Returns:
            The numbers of the rows that are left.
        """
        gone = {int(self.runs[row]) for row in bad if self.live[row]}
        keep = torch.ones(len(self), dtype=torch.bool)
        stacks = [*self._stacks(), *others]
        for block in self.blocks():
            here = range(len(self))[block]
            for row in here:
                self.live[row] &= int(self.runs[row]) not in gone
            living = [row for row in here if self.live[row]]
            if not living:
                keep[block] = False
                continue
            for row in here:
                if int(self.runs[row]) in gone or (row in bad and not self.live[row]):
                    self._repeat(living[0], row, stacks)
        left = keep.nonzero()[:, 0]
        if not keep.all():
            self._keep(left, stacks)
        return left

    def _stacks(self) -> list[dict[str, Tensor]]:
        """Every dict of stacks whose rows belong to the runs, but for the parameters."""
        own = [self.buffers, self.penalty_state]
        return own + [stacks for group in self.groups for stacks in (group.state, group.hyper)]

    def _repeat(self, source: int, row: int, stacks: Sequence[dict[str, Tensor]]) -> None:
        """Row `row` becomes a repetition of row `source`."""
        self.runs[row] = self.runs[source]
        for group in self.groups:
            group.flat[row], group.grad[row] = group.flat[source], group.grad[source]
        for named in stacks:
            for stack in named.values():
                stack[row] = stack[source]

    def _keep(self, left: Tensor, stacks: Sequence[dict[str, Tensor]]) -> None:
        self.runs, self.live = self.runs[left], self.live[left]
        for group in self.groups:
            group.flat, group.grad = group.flat[left], group.grad[left]
        for named in stacks:
            for name in named:
                named[name] = named[name][left]


def arranged(runs: Sequence[int], width: int) -> tuple[list[int], list[bool]]:
    """The runs row by row in blocks of `width`; the last block is filled with its first run."""
    missing = -len(runs) % width
    first = runs[len(runs) - len(runs) % width] if missing else 0
    return [*runs, *[first] * missing], [True] * len(runs) + [False] * missing
