"""The published conditions side by side: their dimension, their estimator on our frames, ours."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from fractalkern.confidence import mean_interval
from fractalkern.errors import InputError
from fractalkern.experiments.environment import environment
from fractalkern.experiments.trainability.config import Condition
from fractalkern.experiments.trainability.findings import half_planes
from fractalkern.experiments.trainability.training import cell_trainer
from fractalkern.experiments.zoom.config import ZoomConfig
from fractalkern.experiments.zoom.measure import point_estimates
from fractalkern.experiments.zoom.report import by_level, pooled_published, used
from fractalkern.experiments.zoom.run import Level, Zoom, zoom
from fractalkern.sweeps.files import write_atomically

# As tabulated by the fractal-LLM project for J. Sohl-Dickstein, arXiv:2402.06184: the median of the
# local slopes over the frames of a zoom to a window chosen by hand.
PUBLISHED: dict[Condition, float | None] = {
    "linear": 1.17,
    "relu": 1.20,
    "tanh-single": 1.41,
    "tanh-minibatch": 1.55,
    "tanh": 1.66,
    "init-offset-published": 1.98,
    "init-offset": None,
}
_CELLS_FOR_THE_RATE = 1024
_CONTROLS = 8  # of each kind


@dataclass(frozen=True)
class TableConfig:
    """What is run for each condition; the defaults are the quick size."""

    width: int = 8
    """Inputs and hidden units."""
    steps: tuple[int, ...] = (100,)
    """Gradient-descent steps; a table for each number."""
    resolutions: tuple[int, ...] = (256,)
    """Cells along each axis of each frame; a table for each number."""
    paths: int = 4
    """Independent random paths."""
    levels: int = 8
    """Levels below the first view."""
    factor: float = 4.0
    """How many times narrower each level is than the one before."""
    seed: int = 0
    """Key of the random numbers."""

    def zooms(self, steps: int, resolution: int, condition: Condition) -> list[ZoomConfig]:
        """The random paths and the greedy densest path of a condition."""
        common = ZoomConfig(
            condition=condition,
            width=self.width,
            steps=steps,
            resolution=resolution,
            paths=self.paths,
            levels=self.levels,
            factor=self.factor,
            seed=self.seed,
        )
        return [dataclasses.replace(common, path=path).checked() for path in ("random", "densest")]


QUICK = TableConfig()
# 50 frames a condition on the random paths, as many as the original's zooms have.
PAPER = TableConfig(width=16, steps=(500, 1000), resolutions=(2048, 4096), paths=7, levels=7)


@dataclass(frozen=True)
class Row:
    """One condition.

    Attributes:
        published: the published dimension.
        estimator_random, estimator_densest: the published estimator, the median of local slopes
            over all frames of our random paths and of our greedy densest path.
        first_view: ours, of the frame that all paths share.
        deepest: ours at the last level, mean over random paths; low, high: Student's 95 % interval.
        all_levels: ours, mean over random paths of the mean over a path's levels below the first.
        p_value: median over the frames of the last level, if the estimate has a null.
        frames, frames_used: computed on the random paths, and those of them that the dimensions
            above rest on: with a boundary that can be fitted and that rounding does not decide.
    """

    condition: str
    steps: int
    resolution: int
    published: float | None
    estimator_random: float | None
    estimator_densest: float | None
    first_view: float | None
    deepest: float | None
    deepest_low: float | None
    deepest_high: float | None
    deepest_width: float
    all_levels: float | None
    all_levels_low: float | None
    all_levels_high: float | None
    p_value: float | None
    frames: int
    frames_used: int
    compute_seconds: float


def estimate_seconds(
    config: TableConfig, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, dict[Condition, float]]:
    """Time of all runs if no network stops early, and the measured network-steps/s by condition."""
    rates: dict[Condition, float] = {}
    total = 0.0
    for condition in PUBLISHED:
        one, _ = config.zooms(100, min(config.resolutions), condition)
        # Small rates: no network diverges, so none stops early and flatters the rate.
        rate = 10.0 ** torch.linspace(-3, -2, _CELLS_FOR_THE_RATE, dtype=torch.float64)
        train = cell_trainer(one.view(one.window))
        train(rate[:16], rate[:16])
        started = clock()
        train(rate, rate)
        rates[condition] = _CELLS_FOR_THE_RATE * one.steps / (clock() - started)
        for steps, resolution in _sizes(config):
            frames = sum(z.frame_count for z in config.zooms(steps, resolution, condition))
            total += frames * resolution**2 * steps / rates[condition]
    return total, rates


def announcement(config: TableConfig) -> str:
    """What would be run and how long it would take here, from a measured rate."""
    _check(config)
    seconds, rates = estimate_seconds(config)
    frames = sum(
        z.frame_count for s, r in _sizes(config) for c in PUBLISHED for z in config.zooms(s, r, c)
    )
    measured = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    return (
        f"measured network-steps/s: {measured}\n"
        f"{frames:,} frames, at most about {duration(seconds)} on this machine"
    )


def run(config: TableConfig, out: Path, say: Callable[[str], None]) -> str:
    """Runs every zoom that `out` lacks; writes table.json and table.md, returns the latter.

    Each zoom has a run folder of its own in `out`, so a killed table goes on where it was.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold these runs.
    """
    say(announcement(config))
    rows = []
    for steps, resolution in _sizes(config):
        for condition in PUBLISHED:
            zooms = []
            for one in config.zooms(steps, resolution, condition):
                say(f"{condition}, {steps} steps, {resolution} x {resolution}, {one.path}")
                name = f"{condition}-{steps}-{resolution}-{one.path}"
                zooms.append(zoom(one, out / name))
            rows.append(_row(*zooms))
    content = {
        "settings": dataclasses.asdict(config),
        "environment": environment(),
        "controls": _controls_by_size(config),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_atomically(out / "table.json", (json.dumps(content, indent=2) + "\n").encode())
    table = "\n\n".join(markdown(config, part) for part in _by_size(rows)) + "\n"
    write_atomically(out / "table.md", table.encode())
    return table


def _sizes(config: TableConfig) -> Iterator[tuple[int, int]]:
    for steps in config.steps:
        for resolution in config.resolutions:
            yield steps, resolution


def _by_size(rows: list[Row]) -> list[list[Row]]:
    sizes = dict.fromkeys((row.steps, row.resolution) for row in rows)
    return [[row for row in rows if (row.steps, row.resolution) == size] for size in sizes]


def _row(paths: Zoom, densest: Zoom) -> Row:
    config, levels = paths.config, by_level(paths)
    last = levels[-1]
    good = used(list(paths.levels))
    means = [
        mean
        for path in range(config.path_count)
        if (mean := _mean([e for e in good if e.path == path and e.level > 0])) is not None
    ]
    _, low, high = mean_interval(means) or (None, None, None)
    return Row(
        condition=config.condition,
        steps=config.steps,
        resolution=config.resolution,
        published=PUBLISHED[config.condition],
        estimator_random=pooled_published(good),
        estimator_densest=pooled_published(used(list(densest.levels))),
        first_view=levels[0].dimension,
        deepest=last.dimension,
        deepest_low=last.low,
        deepest_high=last.high,
        deepest_width=last.width,
        all_levels=statistics.fmean(means) if means else None,
        all_levels_low=low,
        all_levels_high=high,
        p_value=last.p_value,
        frames=len(paths.levels),
        frames_used=len(good),
        compute_seconds=paths.compute_seconds + densest.compute_seconds,
    )


def _mean(entries: list[Level]) -> float | None:
    dimensions = [e.measured.dimension for e in entries if e.measured.dimension is not None]
    return statistics.fmean(dimensions) if dimensions else None


def _controls_by_size(config: TableConfig) -> dict[str, object]:
    found = {n: controls(n, config.seed) for n in dict.fromkeys(config.resolutions)}
    return {
        str(n): {
            "straight lines": dataclasses.asdict(straight),
            "coin flips": dataclasses.asdict(coins),
        }
        for n, (straight, coins) in found.items()
    }


def markdown(config: TableConfig, rows: list[Row]) -> str:
    """The rows of one size as a Markdown table under a line that says what was run."""
    with_p = any(row.p_value is not None for row in rows)
    head = [
        "condition",
        "published",
        "published estimator, random paths",
        "the same, densest path",
        "ours, first view",
        f"ours, deepest ({rows[0].deepest_width:.2g} decades)",
        "ours, all levels below the first",
        "frames used",
        *(["p, deepest"] if with_p else []),
    ]
    straight, coins = controls(rows[0].resolution, config.seed)
    lines = [
        f"Width {config.width}, {rows[0].steps} steps, {rows[0].resolution} x "
        f"{rows[0].resolution} networks a frame; {config.paths} random paths of "
        f"{config.levels} levels, each {config.factor:g} times narrower; seed {config.seed}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for row in rows:
        cells = [
            row.condition,
            _number(row.published, ".2f"),
            _number(row.estimator_random),
            _number(row.estimator_densest),
            _number(row.first_view),
            _interval(row.deepest, row.deepest_low, row.deepest_high),
            _interval(row.all_levels, row.all_levels_low, row.all_levels_high),
            f"{row.frames_used} of {row.frames}",
            *([_number(row.p_value, ".3f")] if with_p else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Controls of that size: for straight lines the published estimator says "
        f"{straight.published:.2f} and ours {straight.ours:.2f}; for labels by coin flips they say "
        f"{coins.published:.2f} and {coins.ours:.2f}.",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Control:
    """Mean dimension of sets that are known, by both estimators."""

    ours: float
    published: float


@cache
def controls(resolution: int, seed: int) -> tuple[Control, Control]:
    """What both estimators say of straight lines (D = 1) and of coin flips (D = 2) of that size."""
    generator = torch.Generator().manual_seed(seed)
    shape = resolution, resolution
    lines = half_planes(resolution, seed)[:_CONTROLS]
    coins = [torch.rand(shape, generator=generator) < 0.5 for _ in range(_CONTROLS)]
    straight, flips = (
        Control(*(statistics.fmean(numbers) for numbers in zip(*estimates, strict=True)))
        for estimates in (map(point_estimates, masks) for masks in (lines, coins))
    )
    return straight, flips


def _interval(mean: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _number(mean)
    return f"{_number(mean)} [{low:.2f}, {high:.2f}]"


def _number(value: float | None, form: str = ".2f") -> str:
    return "none" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """In the largest unit that fits: 3.2 minutes."""
    for unit, size in (("years", 31_557_600.0), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds / 60:.1f} minutes"


def _check(config: TableConfig) -> None:
    for name in ("steps", "resolutions"):
        if not getattr(config, name):
            raise InputError(f"{name} must hold at least one number, got none")
    for steps, resolution in _sizes(config):
        for condition in PUBLISHED:
            config.zooms(steps, resolution, condition)
