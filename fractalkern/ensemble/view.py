"""The runs while they train, as metrics see them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fractalkern.ensemble.rows import Rows
from fractalkern.ensemble.training import Rules
from fractalkern.errors import InputError

# Runs a call of `apply`, where the training itself has no blocks.
_WIDTH_BESIDE_DENSE = 8


class View:
    """The runs of a chunk while they train, as metrics see them: a row a run.

    Some rows may repeat a run to fill a block; what metrics return for them is not kept.

    Attributes:
        rows: the state.
        losses: `[rows]`, of the step just done, before its update; NaN before the first.
    """

    def __init__(self, rows: Rows, rules: Rules, losses: Tensor) -> None:
        self.rows, self._rules, self.losses = rows, rules, losses

    @property
    def runs(self) -> Tensor:
        """Int64 `[rows]`: the run of each row, on the CPU."""
        return self.rows.runs

    @property
    def step(self) -> int:
        """Steps done."""
        return self.rows.step

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By name `[rows, ...]`: views of the state."""
        return self.rows.parameters()

    @property
    def buffers(self) -> dict[str, Tensor]:
        """By name `[rows, ...]`."""
        return self.rows.buffers

    @property
    def penalty_state(self) -> dict[str, Tensor]:
        """The stacks `[rows, ...]` of the penalty's context; may be changed."""
        return self.rows.penalty_state

    def hyper(self, name: str, group: int = 0) -> Tensor:
        """A hyper-parameter in use, float64 `[rows, 1]`: a view, so writing into it sets it."""
        return self.rows.groups[group].hyper[name]

    def apply(
        self, function: Callable[..., Any], *tensors: Tensor, own: bool | Sequence[bool] = False
    ) -> Any:
        """`function(model, *tensors)` of every run, in evaluation mode, without gradients.

        Args:
            function: of one run; `model` is called as the module would be. Returns tensors.
            tensors: shared, or where `own` says so `[rows, ...]`, one a row.
            own: one for all tensors or one each.

        Returns:
            What `function` returns, each tensor with an axis of rows in front.
        """
        mine = (own,) * len(tensors) if isinstance(own, bool) else tuple(own)
        if len(mine) != len(tensors):
            raise InputError(
                f"View: own must be one for each of {len(tensors)} tensors, got {own!r}"
            )
        parameters, buffers = self.parameters, self.buffers
        parts = []
        width = self.rows.width if self._rules.dense is None else _WIDTH_BESIDE_DENSE
        with torch.no_grad():
            for block in self.rows.blocks(width):
                some = tuple(t[block] if o else t for t, o in zip(tensors, mine, strict=True))
                stacks = (
                    {k: v[block] for k, v in parameters.items()},
                    {k: v[block] for k, v in buffers.items()},
                )
                parts.append(self._rules.gradients.apply(function, *stacks, some, mine))
        return tree_map(lambda *pieces: torch.cat(pieces), *parts)

    def __call__(self, *tensors: Tensor, own: bool | Sequence[bool] = False) -> Any:
        """The models' outputs for `tensors`: `[rows, ...]`."""
        dense = self._rules.dense
        if dense is not None and len(tensors) == 1:
            mine = own if isinstance(own, bool) else own[0]
            if tensors[0].dim() == (3 if mine else 2) and tensors[0].dtype == torch.float32:
                return dense.outputs(tensors[0], self.rows.groups[0].flat)
        return self.apply(lambda model, *inputs: model(*inputs), *tensors, own=own)


# metrics(view) -> values `[rows]` or `[rows, ...]` by name.
Metrics = Callable[[View], Mapping[str, Tensor]]
