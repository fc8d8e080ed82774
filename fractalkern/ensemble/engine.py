"""Train R copies of a model at once, each with its own seed, start, data and hyper-parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fractalkern.ensemble import sizes
from fractalkern.ensemble.clipping import clip_norms
from fractalkern.ensemble.data import Data
from fractalkern.ensemble.gradients import Gradients, Loss
from fractalkern.ensemble.optimizers import Optimizer, PerRun, per_run
from fractalkern.ensemble.penalties import Context, Penalty
from fractalkern.ensemble.randomness import key_words
from fractalkern.ensemble.result import Result, Series
from fractalkern.ensemble.rows import Group, Rows, arranged, layout_of
from fractalkern.ensemble.schedules import Schedule
from fractalkern.errors import InputError, InputTypeError

OP = "Ensemble"

# Which parameters an optimiser of several takes: called with the name and the parameter of a run.
Choice = Callable[[str, Tensor], bool]


class View:
    """The runs of a chunk while they train, as metrics see them: a row a run.

    Attributes:
        rows: the state; `rows.runs` int64 `[rows]` says whose row each is. Some rows repeat a run
            to fill a block; what is returned for them is not kept.
        losses: `[rows]`, of the step just done, before its update.
    """

    def __init__(self, rows: Rows, gradients: Gradients, losses: Tensor) -> None:
        self.rows, self._gradients, self.losses = rows, gradients, losses

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
        parameters, buffers = self.parameters, self.buffers
        parts = []
        with torch.no_grad():
            for block in self.rows.blocks():
                some = tuple(t[block] if o else t for t, o in zip(tensors, mine, strict=True))
                stacks = (
                    {k: v[block] for k, v in parameters.items()},
                    {k: v[block] for k, v in buffers.items()},
                )
                parts.append(self._gradients.apply(function, *stacks, some, mine))
        return torch.utils._pytree.tree_map(lambda *pieces: torch.cat(pieces), *parts)

    def __call__(self, *tensors: Tensor, own: bool | Sequence[bool] = False) -> Any:
        """The models' outputs for `tensors`: `[rows, ...]`."""
        return self.apply(lambda model, *inputs: model(*inputs), *tensors, own=own)


# metrics(view) -> values `[rows]` or `[rows, ...]` by name.
Metrics = Callable[[View], Mapping[str, Tensor]]


class Ensemble:
    """R copies of a module, trained at once.

    Args:
        build: makes the module of a run, called with the run's number 0 to R-1 after
            `torch.manual_seed` of the run's seed; or a module that all runs start from. All must
            have the same parameters and buffers, in name, shape and dtype.
        loss: `loss(model, *batch)` of one run, a scalar, or a scalar and a dict of further scalars
            to record. `model` is called as the module would be.
        optimizer: SGD, Adam, AdamW or Muon; or a list of (choice, optimizer), of which a
            parameter goes to the first whose `choice(name, parameter)` is true.
        runs: R; by default one for each seed.
        seeds: of dropout, data order and start, 0 to 2^64 - 1; by default 0 to R-1. Runs of the
            same seed drop the same elements and see the same order.
        schedule: factors on the learning rates of all optimisers.
        clip_norm: gradients are scaled to at most this norm, as by `clip_grad_norm_`; a number or
            `[R]`, infinity where a run is not clipped.
        penalty: a further term of the loss that sees the stacked parameters.
        device: where to train.
        width: runs a batched call; by default chosen by memory.
        chunk: runs that are in memory at a time; by default as many as fit.
        compile: pass the batched call through torch.compile.

    A run's result depends on its seed, its data and its hyper-parameters, and in the last bits on
    `width`, its place in its block and the machine; never on which runs share its batch. A run
    whose loss or gradient is not finite is frozen with the parameters it has.

    >>> import torch
    >>> from fractalkern.ensemble import SGD, Data, Ensemble
    >>> def loss(model, x, y):
    ...     return (model(x)[:, 0] - y).square().mean()
    >>> ensemble = Ensemble(lambda run: torch.nn.Linear(2, 1), loss, SGD(lr=[0.1, 0.2]), runs=2)
    >>> ensemble.fit(Data(torch.eye(2), torch.ones(2)), steps=3).losses.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        build: nn.Module | Callable[[int], nn.Module],
        loss: Loss,
        optimizer: Optimizer | Sequence[tuple[Choice, Optimizer]],
        *,
        runs: int | None = None,
        seeds: Sequence[int] | None = None,
        schedule: Schedule | None = None,
        clip_norm: PerRun | None = None,
        penalty: Penalty | None = None,
        device: torch.device | str = "cpu",
        width: int | None = None,
        chunk: int | None = None,
        compile: bool = False,
    ) -> None:
        if runs is None and seeds is None:
            raise InputError(f"{OP}: runs or seeds must be given, got neither")
        self.seeds = list(range(runs or 0)) if seeds is None else [int(seed) for seed in seeds]
        self.runs = len(self.seeds) if runs is None else runs
        if self.runs < 1 or len(self.seeds) != self.runs:
            raise InputError(
                f"{OP}: seeds must be one for each of the {self.runs} runs, got {len(self.seeds)}"
            )
        if not all(0 <= seed < 2**64 for seed in self.seeds):
            raise InputError(f"{OP}: seeds must be from 0 to 2^64 - 1, got {self.seeds}")
        for name, value in (("width", width), ("chunk", chunk)):
            if value is not None and value < 1:
                raise InputError(f"{OP}: {name} must be at least 1, got {value}")
        self._build, self._penalty, self._schedule = build, penalty, schedule
        self.device = torch.device(device)
        self.width, self.chunk = width, chunk
        if schedule is not None:
            schedule.check(self.runs)
        self._clip = None
        if clip_norm is not None:
            self._clip = _clip_norms(clip_norm, self.runs)
        self._template = self.module(0)
        shapes = _trainable(self._template)
        if isinstance(optimizer, Optimizer):
            optimizer = [(lambda name, parameter: True, optimizer)]
        self._groups = []
        for part, names in _divided(optimizer, shapes):
            layout = layout_of({name: tuple(shapes[name].shape) for name in names})
            part.check(layout)
            self._groups.append((part, layout, part.hyper(self.runs)))
        self.gradients = Gradients(self._template.to(self.device), loss, compile)

    def module(self, run: int) -> nn.Module:
        """The module that run number `run` starts from."""
        if isinstance(self._build, nn.Module):
            return self._build
        with torch.random.fork_rng(devices=[]):
            # torch takes seeds of 64 bits, signed or not.
            torch.manual_seed(self.seeds[run])
            module = self._build(run)
        if not isinstance(module, nn.Module):
            raise InputTypeError(f"{OP}: build must return a module, got {type(module).__name__}")
        return module

    def _begin(self, runs: Sequence[int], live: Sequence[bool], width: int) -> Rows:
        rows = Rows(runs, live, width)
        dtype = next(iter(_trainable(self._template).values())).dtype
        for optimizer, layout, hyper in self._groups:
            flat = torch.zeros(len(rows), layout.width, dtype=dtype, device=self.device)
            mine = {name: value[rows.runs, None].to(self.device) for name, value in hyper.items()}
            rows.groups.append(Group(optimizer, layout, flat, mine))
        modules = {run: self.module(run) for run in dict.fromkeys(runs)}
        for run, module in modules.items():
            _require_same(self._template, module, run)
        rows.fill([modules[run] for run in runs], self.device)
        return rows

    def fit(
        self,
        data: Data,
        steps: int,
        *,
        metrics: Metrics | None = None,
        every: int = 1,
        only: Sequence[int] | None = None,
    ) -> Result:
        """Trains the runs for `steps` steps.

        Args:
            data: what the steps see.
            steps: how many.
            metrics: called when `every` steps more are done, after the update.
            every: steps from one call of `metrics` to the next.
            only: the numbers of the runs to train; the others are NaN in the result.

        Raises:
            InputError: the forward cannot be batched; the message says why and what to do.
        """
        data.check(self.runs)
        data.to(self.device)
        chosen = list(range(self.runs)) if only is None else list(only)
        sample = data.batch(0, torch.tensor(chosen[:1]), [0])
        width, chunk = sizes.choose(self, chosen, sample, data.shared)
        chunks = [chosen[start : start + chunk] for start in range(0, len(chosen), chunk)]
        result = _Recorder(self.runs, steps, every, self._record(chunks, width))
        for runs in chunks:
            rows = self._begin(*arranged(runs, width), width)
            self._train(rows, data, steps, metrics, every, result)
        return result.finish()

    def repeat(
        self,
        run: int,
        record: Mapping[str, Any],
        data: Data,
        steps: int,
        *,
        metrics: Metrics | None = None,
        every: int = 1,
    ) -> Result:
        """Trains one run alone as it was trained with others: the same bits on the same machine.

        Args:
            run: its number.
            record: of the result it was in.
            data: as then.
            steps: as then.
            metrics: as then.
            every: as then.
        """
        width = int(record["width"])
        chunk = next((chunk for chunk in record["chunks"] if run in chunk), None)
        if chunk is None:
            raise InputError(f"{OP}: run must be one of those in record, got {run}")
        data.check(self.runs)
        data.to(self.device)
        place = chunk.index(run) % width
        live = [row == place for row in range(width)]
        result = _Recorder(self.runs, steps, every, self._record([[run]], width))
        self._train(self._begin([run] * width, live, width), data, steps, metrics, every, result)
        return result.finish()

    def _record(self, chunks: list[list[int]], width: int) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "seeds": self.seeds,
            "width": width,
            "chunks": chunks,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "torch": torch.__version__,
        }

    def _train(
        self,
        rows: Rows,
        data: Data,
        steps: int,
        metrics: Metrics | None,
        every: int,
        result: "_Recorder",
    ) -> None:
        while rows.step < steps and len(rows):
            losses = self._step(rows, data, result)
            if metrics is not None and rows.step % every == 0 and len(rows):
                view = View(rows, self.gradients, losses)
                result.measure(rows, metrics(view))
        result.keep(rows, rows.live)

    def _step(self, rows: Rows, data: Data, result: "_Recorder") -> Tensor:
        stacks = {str(i): torch.zeros_like(group.flat) for i, group in enumerate(rows.groups)}
        stacks["losses"] = self._gradients(rows, data, list(stacks.values()), result)
        finite = stacks["losses"].isfinite()
        for i in range(len(rows.groups)):
            finite &= stacks[str(i)].abs().amax(dim=1).isfinite()
        if not finite.all():
            bad = (~finite).nonzero()[:, 0].tolist()
            result.freeze(rows, [row for row in bad if rows.live[row]])
            rows.freeze(bad, stacks)
        losses = stacks.pop("losses")
        grads = list(stacks.values())
        if self._clip is not None:
            clip_norms(grads, self._clip[rows.runs].to(self.device))
        factor = None
        if self._schedule is not None:
            factor = self._schedule.factors(rows.step, self.runs)[rows.runs, None].to(self.device)
        rows.step += 1
        for group, grad in zip(rows.groups, grads, strict=True):
            hyper = group.hyper
            if factor is not None:
                hyper = {**hyper, "lr": hyper["lr"] * factor}
            group.optimizer.step(group.flat, grad, group.state, hyper, rows.step, group.layout)
        return losses

    def _gradients(
        self, rows: Rows, data: Data, grads: list[Tensor], result: "_Recorder"
    ) -> Tensor:
        """Fills the flat gradients; the losses `[rows]`."""
        parameters = rows.parameters()
        into: dict[str, Tensor] = {}
        for group, grad in zip(rows.groups, grads, strict=True):
            into |= group.layout.views(grad)
        seeds = [self.seeds[run] for run in rows.runs.tolist()]
        keys = torch.tensor([key_words(seed) for seed in seeds], device=self.device)
        losses, extras, penalties, states = [], [], [], []
        for block in rows.blocks():
            mine = {name: stack[block] for name, stack in parameters.items()}
            buffers = {name: stack[block].clone() for name, stack in rows.buffers.items()}
            batch = data.batch(rows.step, rows.runs[block], seeds[block])
            found, loss, extra, following = self.gradients.train(
                mine, buffers, keys[block], rows.step, batch, data.shared
            )
            for name, grad in found.items():
                into[name][block] = grad
            for name, stack in following.items():
                rows.buffers[name][block] = stack
            losses.append(loss)
            extras.append(extra)
            if self._penalty is not None:
                context = Context(
                    rows.runs[block],
                    rows.step,
                    {name: stack[block] for name, stack in rows.penalty_state.items()},
                )
                penalties.append(_penalise(self._penalty, mine, context, into, block))
                states.append(context.state)
        if states:
            rows.penalty_state = {k: torch.cat([s[k] for s in states]) for k in states[0]}
        loss = torch.cat(losses)
        series = {name: torch.cat([e[name] for e in extras]) for name in extras[0]}
        if penalties:
            series["penalty"] = torch.cat(penalties)
        result.log(rows, loss, series)
        return loss + series["penalty"] if penalties else loss


def _penalise(
    penalty: Penalty,
    parameters: Mapping[str, Tensor],
    context: Context,
    into: Mapping[str, Tensor],
    block: slice,
) -> Tensor:
    """Adds the gradient of a penalty to `into`; the penalty `[W]`."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        value = penalty(leaves, context)
        if tuple(value.shape) != (len(context.runs),):
            raise InputError(
                f"{OP}: penalty must return one number a row, shape [{len(context.runs)}], "
                f"got {list(value.shape)}"
            )
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    for name, grad in zip(leaves, found, strict=True):
        if grad is not None:
            into[name][block] += grad
    context.state = {name: stack.detach() for name, stack in context.state.items()}
    return value.detach()


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def _require_same(first: nn.Module, module: nn.Module, run: int) -> None:
    for kind in ("named_parameters", "named_buffers"):
        mine, theirs = (
            {n: (tuple(t.shape), t.dtype) for n, t in getattr(m, kind)()} for m in (module, first)
        )
        if mine != theirs:
            name = next(n for n in {**theirs, **mine} if mine.get(n) != theirs.get(n))
            raise InputError(
                f"{OP}: build must return modules of one shape, but run {run} differs from run 0 "
                f"in {name!r}: {mine.get(name)} instead of {theirs.get(name)}"
            )


def _divided(
    choices: Sequence[tuple[Choice, Optimizer]], parameters: Mapping[str, Tensor]
) -> list[tuple[Optimizer, list[str]]]:
    parts: list[tuple[Optimizer, list[str]]] = [(optimizer, []) for _, optimizer in choices]
    for name, parameter in parameters.items():
        for (choice, _), (_, names) in zip(choices, parts, strict=True):
            if choice(name, parameter):
                names.append(name)
                break
        else:
            raise InputError(f"{OP}: optimizer must take every parameter, got none for {name!r}")
    return [part for part in parts if part[1]]


def _clip_norms(value: PerRun, runs: int) -> Tensor:
    finite = torch.as_tensor(value, dtype=torch.float64)
    if (finite.isnan() | (finite <= 0)).any():
        raise InputError(f"{OP}: clip_norm must be above 0, got {value!r}")
    limited = per_run(OP, "clip_norm", finite.clamp(max=torch.finfo(torch.float64).max), runs)
    return limited


class _Recorder:
    """Collects what becomes the Result."""

    def __init__(self, runs: int, steps: int, every: int, record: dict[str, Any]) -> None:
        self.every, self.steps = every, steps
        self.scalars, self.metrics = Series(runs, steps), Series(runs, steps // every)
        self.frozen_at = torch.full((runs,), -1)
        self.last = Series(runs, 1)
        self.last_buffers = Series(runs, 1)
        self.record = record

    def log(self, rows: Rows, losses: Tensor, extra: Mapping[str, Tensor]) -> None:
        for name, values in {"loss": losses, **extra}.items():
            self.scalars.put(name, rows.runs[rows.live], rows.step, values[rows.live])

    def measure(self, rows: Rows, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            place = rows.step // self.every - 1
            self.metrics.put(name, rows.runs[rows.live], place, value[rows.live])

    def freeze(self, rows: Rows, bad: Sequence[int]) -> None:
        self.frozen_at[rows.runs[bad]] = rows.step
        self.keep(rows, torch.tensor(bad))

    def keep(self, rows: Rows, which: Tensor) -> None:
        """The parameters and buffers of the rows `which`, a mask or numbers, are final."""
        for series, stacks in ((self.last, rows.parameters()), (self.last_buffers, rows.buffers)):
            for name, stack in stacks.items():
                series.put(name, rows.runs[which], 0, stack[which])

    def finish(self) -> Result:
        scalars = dict(self.scalars.values)
        return Result(
            losses=scalars.pop("loss"),
            scalars=scalars,
            metrics=self.metrics.values,
            times=list(range(self.every, self.steps + 1, self.every)),
            frozen_at=self.frozen_at,
            parameters={name: stack[:, 0] for name, stack in self.last.values.items()},
            buffers={name: stack[:, 0] for name, stack in self.last_buffers.values.items()},
            record=self.record,
        )
