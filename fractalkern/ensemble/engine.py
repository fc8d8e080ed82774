"""Train R copies of a model at once, each with its own seed, start, data and hyper-parameters."""

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractalkern._native import build_info
from fractalkern.ensemble import sizes
from fractalkern.ensemble.checkpoint import Checkpoint
from fractalkern.ensemble.data import Data
from fractalkern.ensemble.dense import dense_networks
from fractalkern.ensemble.gradients import Gradients, Loss
from fractalkern.ensemble.optimizers import Optimizer, PerRun, per_run
from fractalkern.ensemble.penalties import Penalty
from fractalkern.ensemble.progress import RunMeter, showing
from fractalkern.ensemble.recorder import Forgetful, Recorder
from fractalkern.ensemble.result import Result
from fractalkern.ensemble.rows import Group, Rows, arranged, constants, layout_of, trainable
from fractalkern.ensemble.schedules import Schedule
from fractalkern.ensemble.training import Rules
from fractalkern.ensemble.view import Metrics, View
from fractalkern.errors import InputError, InputTypeError
from fractalkern.ops._inputs import as_number, device_of, require_choice, require_whole

OP = "Ensemble"

# Which parameters an optimiser of several takes: called with the name and the parameter of a run.
Choice = Callable[[str, Tensor], bool]


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
        width: runs a batched call; by default chosen by memory and, on a CPU, by how large the
            model's operations are: 1, nothing is batched, where batching would cost time.
        chunk: runs that are in memory at a time; by default as many as fit.
        compile: pass the batched call through torch.compile, to the named backend if a name.
        kernel: "vmap" for any model; "dense" for plain ReLU networks (`ensemble.dense`), many times
            as fast; None for "dense" where it fits.

    A run's result depends on its seed, its data and its hyper-parameters, and by rounding on
    `width`, its place in its block, the number of threads and the machine; never on which runs
    share its batch. Another width moves the losses of the first steps by a relative 1e-4 at most
    (float32); whatever amplifies rounding amplifies that. By the "dense" kernel runs are bit-equal
    in any company, chunking and number of threads. A run whose loss, gradient or updated parameters
    are not finite is frozen with the parameters it has.

    Raises:
        InputError: a wrong number; runs of unlike modules; a parameter without an optimiser;
            "dense" where it does not fit.
        InputTypeError: an argument of a wrong type.
        BackendError: the device is not there.

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
        compile: bool | str = False,
        kernel: str | None = None,
    ) -> None:
        if runs is None and seeds is None:
            raise InputError(f"{OP}: runs or seeds must be given, got neither")
        if seeds is not None:
            self.seeds = _integers("seeds", seeds)
            runs = max(1, len(self.seeds)) if runs is None else runs
        self.runs = require_whole(OP, "runs", runs, 1)
        if seeds is None:
            self.seeds = list(range(self.runs))
        if len(self.seeds) != self.runs:
            raise InputError(
                f"{OP}: seeds must be one for each of the {self.runs} runs, got {len(self.seeds)}"
            )
        if not all(0 <= seed < 2**64 for seed in self.seeds):
            raise InputError(f"{OP}: seeds must be from 0 to 2^64 - 1, got {self.seeds}")
        self.width = None if width is None else require_whole(OP, "width", width, 1)
        self.chunk = None if chunk is None else require_whole(OP, "chunk", chunk, 1)
        if kernel is not None:
            require_choice(OP, "kernel", kernel, ("dense", "vmap"))
        if not callable(build):
            raise InputTypeError(
                f"{OP}: build must be a module or make one, got {type(build).__name__}"
            )
        if not callable(loss):
            raise InputTypeError(f"{OP}: loss must be a function, got {type(loss).__name__}")
        self._build = build
        self.device = device_of(OP, device)
        if schedule is not None:
            if not isinstance(schedule, Schedule):
                raise InputTypeError(f"{OP}: schedule must be a Schedule, got {schedule!r}")
            schedule.check(self.runs)
        _require_function("penalty", penalty)
        clip = None if clip_norm is None else _clip_norms(clip_norm, self.runs)
        self._template = self.module(0)
        shapes = trainable(self._template)
        self._groups = []
        for part, names in _divided(_choices(optimizer), shapes):
            layout = layout_of({name: tuple(shapes[name].shape) for name in names})
            part.check(layout)
            self._groups.append((part, layout, part.hyper(self.runs)))
        self._template = self._template.to(self.device)
        dense = None
        if kernel != "vmap":
            dense = dense_networks(self._template, loss, [part[1] for part in self._groups])
        if kernel == "dense" and dense is None:
            raise InputError(
                f"{OP}: kernel must be 'vmap' but for a Sequential of Linear and ReLU layers with "
                f"one optimiser and a loss of fractalkern.ensemble, got 'dense'"
            )
        self._kernel, self._dense = kernel, dense
        gradients = Gradients(self._template, loss, compile)
        self.rules = Rules(self.seeds, self.device, gradients, dense, penalty, schedule, clip)

    def module(self, run: int) -> nn.Module:
        """The module that run number `run` starts from."""
        if isinstance(self._build, nn.Module):
            return self._build
        with torch.random.fork_rng(devices=[]):
            # As torch.manual_seed, which would also leave a call behind for a GPU's first use.
            torch.default_generator.manual_seed(self.seeds[run])
            module = self._build(run)
        if not isinstance(module, nn.Module):
            raise InputTypeError(f"{OP}: build must return a module, got {type(module).__name__}")
        return module

    def _begin(self, runs: Sequence[int], live: Sequence[bool], width: int) -> Rows:
        rows = Rows(runs, live, width)
        dtype = next(iter(trainable(self._template).values())).dtype
        for optimizer, layout, hyper in self._groups:
            flat = torch.zeros(len(rows), layout.width, dtype=dtype, device=self.device)
            mine = {name: value[rows.runs, None].to(self.device) for name, value in hyper.items()}
            rows.groups.append(Group(optimizer, layout, flat, torch.zeros_like(flat), mine))
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
        at_start: bool = False,
        only: Sequence[int] | None = None,
        progress: str | None = None,
        checkpoint: Path | str | None = None,
        checkpoint_seconds: float = 60.0,
        config: Mapping[str, Any] | None = None,
    ) -> Result:
        """Trains the runs for `steps` steps.

        Args:
            data: what the steps see.
            steps: how many.
            metrics: called when `every` steps more are done, after the update.
            every: steps from one call of `metrics` to the next.
            at_start: whether `metrics` are also called before the first step, with losses that are
                NaN: to the last bit what they would be later if nothing were trained.
            only: the numbers of the runs to train; the others are NaN in the result.
            progress: a title; shows runs, steps and the time left on stderr.
            checkpoint: a file to keep the state in; if it is there, training goes on from it, to
                the same bits.
            checkpoint_seconds: from one writing to the next.
            config: what else the results depend on, as JSON values: model, loss, penalty, metrics.
                A checkpoint of another config is refused.

        Raises:
            InputError: the forward cannot be batched, and why; data that do not fit; a checkpoint
                of other settings.
            InputTypeError: an argument of a wrong type, or metrics that return no values by name.
        """
        chosen = list(range(self.runs)) if only is None else _integers("only", only)
        if not chosen or not all(0 <= run < self.runs for run in chosen):
            raise InputError(f"{OP}: only must be numbers from 0 to {self.runs - 1}, got {only!r}")
        steps = require_whole(OP, "steps", steps, 1)
        every = require_whole(OP, "every", every, 1)
        _require_function("metrics", metrics)
        self._prepare(data)
        config = {} if config is None else config
        if not isinstance(config, Mapping):
            raise InputTypeError(f"{OP}: config must be values by name, got {config!r}")
        kept = None
        if checkpoint is not None:
            if not isinstance(checkpoint, str | os.PathLike):
                raise InputTypeError(f"{OP}: checkpoint must be a path, got {checkpoint!r}")
            bound = self._settings(data, steps, every, at_start, chosen, config)
            seconds = as_number(OP, "checkpoint_seconds", checkpoint_seconds)
            kept = Checkpoint(checkpoint, bound, seconds)
        width, chunks = self._chunks(chosen, data)
        recorder = Recorder(self.runs, steps, every, self._record(chunks, width), at_start)
        first, rows = 0, None
        if kept is not None and kept.path.exists():
            first = kept.load(recorder)
            width, chunks = int(recorder.record["width"]), recorder.record["chunks"]
            if kept.has_rows:
                rows = self._begin(*arranged(chunks[first], width), width)
                kept.restore(rows)
        meter = RunMeter(len(chosen), steps, first, chunks, rows)
        with showing(progress, meter) as shown:
            for number in range(first, len(chunks)):
                if rows is None:
                    rows = self._begin(*arranged(chunks[number], width), width)
                    self._measure_start(rows, metrics, recorder)
                while rows.step < steps and len(rows):
                    self._step(rows, data, metrics, recorder)
                    shown.advance(len(chunks[number]))
                    if kept is not None and kept.due():
                        kept.save(recorder, number, rows)
                shown.advance(len(chunks[number]) * (steps - rows.step))
                recorder.keep(rows, rows.live)
                rows = None
                if kept is not None:
                    kept.save(recorder, number + 1, None)
        return recorder.finish()

    def steps(self, data: Data) -> Iterator[View]:
        """Trains all runs together without end, for loops of one's own: a view after each step.

        Ends when all runs are frozen.

        Args:
            data: what the steps see.

        Raises:
            InputError: as `fit`; or the runs are more than fit into memory.

        >>> import torch
        >>> from fractalkern.ensemble import SGD, Data, Ensemble, MeanSquaredError
        >>> ensemble = Ensemble(torch.nn.Linear(2, 1), MeanSquaredError(), SGD(lr=0.1), runs=3)
        >>> for view in ensemble.steps(Data(torch.eye(2), torch.ones(2, 1))):
        ...     if view.losses.max() < 1e-3:
        ...         break
        >>> view.losses.shape
        torch.Size([3])
        """
        self._prepare(data)
        width, chunks = self._chunks(list(range(self.runs)), data)
        if len(chunks) > 1:
            raise InputError(
                f"{OP}: chunk must hold all {self.runs} runs in steps(), got {len(chunks[0])}"
            )
        rows = self._begin(*arranged(chunks[0], width), width)
        recorder = Forgetful(self.runs)
        while len(rows):
            losses = self.rules.step(rows, data, recorder)
            yield View(rows, self.rules, losses)

    def repeat(
        self,
        run: int,
        record: Mapping[str, Any],
        data: Data,
        steps: int,
        *,
        metrics: Metrics | None = None,
        every: int = 1,
        at_start: bool = False,
    ) -> Result:
        """Trains one run alone as it was trained with others: the same bits on the same machine.

        Args:
            run: its number.
            record: of the result it was in.
            data: as then.
            steps: as then.
            metrics: as then.
            every: as then.
            at_start: as then.

        Raises:
            InputError: a run that is not in `record`; a `record` that is of no result.
            InputTypeError: an argument of a wrong type.
        """
        run = require_whole(OP, "run", run, 0)
        width, chunks = _recorded(record)
        chunk = next((chunk for chunk in chunks if run in chunk), None)
        if chunk is None or run >= self.runs:
            raise InputError(f"{OP}: run must be one of those in record, got {run}")
        steps = require_whole(OP, "steps", steps, 1)
        every = require_whole(OP, "every", every, 1)
        _require_function("metrics", metrics)
        self._prepare(data)
        place = chunk.index(run) % width
        recorder = Recorder(self.runs, steps, every, self._record([[run]], width), at_start)
        rows = self._begin([run] * width, [row == place for row in range(width)], width)
        self._measure_start(rows, metrics, recorder)
        while rows.step < steps and len(rows):
            self._step(rows, data, metrics, recorder)
        recorder.keep(rows, rows.live)
        return recorder.finish()

    def _step(self, rows: Rows, data: Data, metrics: Metrics | None, recorder: Recorder) -> None:
        losses = self.rules.step(rows, data, recorder)
        if metrics is not None and rows.step % recorder.every == 0 and len(rows):
            self._measure(rows, metrics, losses, recorder)

    def _measure_start(self, rows: Rows, metrics: Metrics | None, recorder: Recorder) -> None:
        if metrics is not None and recorder.at_start:
            losses = torch.full((len(rows),), torch.nan, device=self.device)
            self._measure(rows, metrics, losses, recorder)

    def _measure(self, rows: Rows, metrics: Metrics, losses: Tensor, recorder: Recorder) -> None:
        values = metrics(View(rows, self.rules, losses))
        _require_stacks(values, len(rows))
        recorder.measure(rows, values)

    def _prepare(self, data: Data) -> None:
        if not isinstance(data, Data):
            raise InputTypeError(f"{OP}: data must be Data, got {type(data).__name__}")
        data.check(self.runs)
        data.to(self.device)
        dense = self._dense
        if dense is not None and not dense.fits(data):
            if self._kernel == "dense":
                raise InputError(
                    f"{OP}: data must be float32 points [N, d] and a target for each, float32 or, "
                    f"for CrossEntropy, int64 from 0 to the last class, if kernel is 'dense', "
                    f"got {[(list(t.shape), t.dtype) for t in data.tensors]}"
                )
            dense = None
        self.rules = replace(self.rules, dense=dense)
        if dense is None:
            self.rules.gradients.look_for_dropout(data.of_one_row())

    def _chunks(self, chosen: list[int], data: Data) -> tuple[int, list[list[int]]]:
        """The width of a block, and the runs of each chunk."""
        if self.rules.dense is not None and getattr(self.rules.penalty, "independent", True):
            width = 1
        else:
            width = self.width or sizes.width(self.rules, len(chosen), data)
        chunk = self.chunk or sizes.chunk(self._template, self.device, width)
        return width, [chosen[start : start + chunk] for start in range(0, len(chosen), chunk)]

    def _record(self, chunks: list[list[int]], width: int) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "seeds": self.seeds,
            "kernel": "vmap" if self.rules.dense is None else "dense",
            "width": width,
            "chunks": chunks,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "instruction_set": build_info()["instruction_set"],
            "torch": torch.__version__,
        }

    def _settings(
        self,
        data: Data,
        steps: int,
        every: int,
        at_start: bool,
        chosen: list[int],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What a checkpoint is bound to, as JSON values."""
        names = {name: list(p.shape) for name, p in trainable(self._template).items()}
        groups = [
            {"rule": type(part).__name__, **{n: v.tolist() for n, v in hyper.items()}}
            | {name: getattr(part, name) for name in part.switches}
            for part, _, hyper in self._groups
        ]
        return {
            "seeds": self.seeds,
            "parameters": names,
            "optimizer": groups,
            "schedule": self.rules.schedule and self.rules.schedule.settings(self.runs),
            "clip_norm": None if self.rules.clip is None else self.rules.clip.tolist(),
            "data": data.digest(),
            "steps": steps,
            "every": every,
            "at_start": at_start,
            "runs": chosen,
            "device": str(self.device),
            "kernel": "vmap" if self.rules.dense is None else "dense",
            "asked_width": self.width,
            "asked_chunk": self.chunk,
            **config,
        }


def _require_same(first: nn.Module, module: nn.Module, run: int) -> None:
    for kind in (trainable, constants):
        mine, theirs = (
            {n: (tuple(t.shape), t.dtype) for n, t in kind(m).items()} for m in (module, first)
        )
        if mine != theirs:
            name = next(n for n in {**theirs, **mine} if mine.get(n) != theirs.get(n))
            raise InputError(
                f"{OP}: build must return modules of one shape, but run {run} differs from run 0 "
                f"in {name!r}: {mine.get(name)} instead of {theirs.get(name)}"
            )


def _integers(name: str, values: Sequence[int]) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise InputTypeError(f"{OP}: {name} must be integers, got {values!r}") from None


def _require_function(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise InputTypeError(f"{OP}: {name} must be a function, got {value!r}")


def _require_stacks(values: Any, rows: int) -> None:
    """Raises unless metrics returned tensors `[rows, ...]` by name."""
    if not isinstance(values, Mapping):
        raise InputTypeError(
            f"{OP}: metrics must return tensors by name, got {type(values).__name__}"
        )
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (rows,):
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputTypeError(
                f"{OP}: metrics must return tensors of {rows} rows by name, got {got} for {name!r}"
            )


def _recorded(record: Any) -> tuple[int, list[list[int]]]:
    """The width of a block and the runs of each chunk, as a result's record has them."""
    if not isinstance(record, Mapping) or not {"width", "chunks"} <= record.keys():
        got = sorted(record) if isinstance(record, Mapping) else type(record).__name__
        raise InputTypeError(
            f"{OP}: record must be that of a result, with width and chunks, got {got}"
        )
    chunks = record["chunks"]
    if not isinstance(chunks, list | tuple):
        raise InputTypeError(f"{OP}: the chunks of record must be lists of runs, got {chunks!r}")
    width = require_whole(OP, "the width of record", record["width"], 1)
    return width, [_integers("the chunks of record", chunk) for chunk in chunks]


def _choices(
    optimizer: Optimizer | Sequence[tuple[Choice, Optimizer]],
) -> Sequence[tuple[Choice, Optimizer]]:
    """Which parameters go to which optimiser; one alone takes all."""
    if isinstance(optimizer, Optimizer):
        return [(lambda name, parameter: True, optimizer)]
    pairs: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for pair in pairs:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not (is_pair and callable(pair[0]) and isinstance(pair[1], Optimizer)):
            raise InputTypeError(
                f"{OP}: optimizer must be one of fractalkern.ensemble or a list of (choice, "
                f"optimizer), got {type(pair).__name__}"
            )
    return pairs


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
    try:
        finite = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(f"{OP}: clip_norm must be numbers, got {value!r}") from None
    if (finite.isnan() | (finite <= 0)).any():
        raise InputError(f"{OP}: clip_norm must be above 0, got {value!r}")
    limited = per_run(OP, "clip_norm", finite.clamp(max=torch.finfo(torch.float64).max), runs)
    return limited
