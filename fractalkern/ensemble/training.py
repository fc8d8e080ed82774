"""One step of the runs of a chunk: gradients, penalties, what froze, update."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.ensemble.clipping import clip_factors, row_norms
from fractalkern.ensemble.data import Data
from fractalkern.ensemble.dense import DenseNetworks
from fractalkern.ensemble.gradients import OP, Gradients
from fractalkern.ensemble.penalties import Context, Penalty
from fractalkern.ensemble.randomness import key_words
from fractalkern.ensemble.recorder import Recorder
from fractalkern.ensemble.rows import Rows
from fractalkern.ensemble.schedules import Schedule
from fractalkern.errors import InputError


@dataclass(frozen=True)
class Rules:
    """What the steps of an ensemble do."""

    seeds: list[int]
    device: torch.device
    gradients: Gradients
    dense: DenseNetworks | None
    penalty: Penalty | None
    schedule: Schedule | None
    clip: Tensor | None  # [runs]

    def step(self, rows: Rows, data: Data, recorder: Recorder) -> Tensor:
        """Takes all rows one step further; the losses `[rows]` before it, of the rows left."""
        losses = self._gradients(rows, data, recorder)
        norms = row_norms([group.grad for group in rows.groups])
        bad = _not_finite(losses, norms, rows)
        if bad:
            recorder.freeze(rows, [row for row in bad if rows.live[row]])
            stacks = {"losses": losses, "norms": norms}
            rows.freeze(bad, stacks)
            losses, norms = stacks["losses"], stacks["norms"]
        clip = None
        if self.clip is not None:
            clip = clip_factors(norms, self.clip[rows.runs].to(self.device))
        factor = None
        if self.schedule is not None:
            factors = self.schedule.factors(rows.step, len(self.seeds))
            factor = factors[rows.runs, None].to(self.device)
        rows.step += 1
        for group in rows.groups:
            hyper = group.hyper
            if factor is not None:
                hyper = {**hyper, "lr": hyper["lr"] * factor}
            group.optimizer.step(
                group.flat, group.grad, group.state, hyper, rows.step, group.layout, clip
            )
        # Penalties and metrics may refuse what is not finite, which would end the other runs too.
        if bad := _overflowed(rows):
            recorder.freeze(rows, [row for row in bad if rows.live[row]])
            stacks = {"losses": losses}
            rows.freeze(bad, stacks)
            losses = stacks["losses"]
        return losses

    def _gradients(self, rows: Rows, data: Data, recorder: Recorder) -> Tensor:
        """Fills the gradients of all groups; the losses `[rows]`, penalties included."""
        seeds = [self.seeds[run] for run in rows.runs.tolist()]
        series: dict[str, Tensor] = {}
        if self.dense is not None:
            group = rows.groups[0]
            batch = data.batch(rows.step, rows.runs, seeds)
            losses = self.dense.gradients(batch, group.flat, group.grad)
        else:
            losses, series = self._batched(rows, data, seeds)
        if self.penalty is not None:
            series["penalty"] = self._penalties(rows)
        recorder.log(rows, losses, series)
        return losses + series["penalty"] if self.penalty is not None else losses

    def _batched(
        self, rows: Rows, data: Data, seeds: list[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same by vmap, block by block: losses and further scalars `[rows]`."""
        parameters, into = rows.parameters(), rows.gradients()
        keys = torch.tensor([key_words(seed) for seed in seeds], device=self.device)
        losses, extras = [], []
        for block in rows.blocks():
            found, loss, extra, buffers = self.gradients.train(
                {name: stack[block] for name, stack in parameters.items()},
                {name: stack[block].clone() for name, stack in rows.buffers.items()},
                keys[block],
                rows.step,
                data.batch(rows.step, rows.runs[block], seeds[block]),
                data.shared,
            )
            for name, grad in found.items():
                into[name][block] = grad
            for name, stack in buffers.items():
                rows.buffers[name][block] = stack
            losses.append(loss)
            extras.append(extra)
        return torch.cat(losses), {name: torch.cat([e[name] for e in extras]) for name in extras[0]}

    def _penalties(self, rows: Rows) -> Tensor:
        """Adds the gradients of the penalty; its values `[rows]`."""
        assert self.penalty is not None
        parameters, into = rows.parameters(), rows.gradients()
        # A penalty whose rows do not touch each other's rounding needs no blocks.
        whole = getattr(self.penalty, "independent", False)
        values, states = [], []
        for block in [slice(0, len(rows))] if whole else rows.blocks():
            state = {name: stack[block] for name, stack in rows.penalty_state.items()}
            context = Context(rows.runs[block], rows.step, state)
            mine = {name: stack[block] for name, stack in parameters.items()}
            value, grads = _with_gradients(self.penalty, mine, context)
            for name, grad in grads.items():
                into[name][block] += grad
            values.append(value)
            states.append(context.state)
        rows.penalty_state = {
            name: torch.cat([state[name] for state in states]).detach() for name in states[0]
        }
        return torch.cat(values)


def _not_finite(losses: Tensor, norms: Tensor, rows: Rows) -> list[int]:
    """The rows whose loss or gradient is not finite."""
    finite = losses.isfinite()
    if not (finite & norms.isfinite()).all():
        # The square of a finite gradient may overflow.
        for group in rows.groups:
            finite &= group.grad.isfinite().all(dim=1)
    return (~finite).nonzero()[:, 0].tolist()


def _overflowed(rows: Rows) -> list[int]:
    """The rows whose parameters are not finite: an update may be too large for the dtype."""
    flats = [group.flat for group in rows.groups]
    if row_norms(flats).isfinite().all():  # cheaper than a look at each
        return []
    finite = torch.stack([flat.isfinite().all(dim=1) for flat in flats]).all(dim=0)
    return (~finite).nonzero()[:, 0].tolist()


def _with_gradients(
    penalty: Penalty, parameters: Mapping[str, Tensor], context: Context
) -> tuple[Tensor, dict[str, Tensor]]:
    """The penalty `[W]` and, of the parameters that it depends on, its gradients."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        value = penalty(leaves, context)
        if tuple(value.shape) != (len(context.runs),):
            raise InputError(
                f"{OP}: penalty must return one number a row, shape [{len(context.runs)}], "
                f"got {list(value.shape)}"
            )
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    grads = zip(leaves, found, strict=True)
    return value.detach(), {name: grad for name, grad in grads if grad is not None}
