"""The numbers of a zoom, as JSON and as text."""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fractalkern.confidence import mean_interval
from fractalkern.experiments.zoom.windows import smaller_side
from fractalkern.scaling import ZoomFit, joint_dimension

if TYPE_CHECKING:
    from fractalkern.experiments.zoom.run import Level, Zoom

CONFIDENCE = 0.95


@dataclass(frozen=True)
class LevelSummary:
    """A level over its paths.

    Attributes:
        width: decades along the smaller side.
        frames: frames that were computed there.
        used: those with a dimension whose labels rounding does not decide; all below are of these.
        dimension: mean of ours over paths; low, high: Student's 95 % interval, for 2 paths or more.
        published: median of the published estimator's local slopes, pooled over paths.
        flipped: mean share of labels that rounding decides, over all frames.
        p_value: median of the frames' p-values, if the estimate has them.
    """

    level: int
    width: float
    frames: int
    used: int
    converged_fraction: float
    dimension: float | None
    low: float | None
    high: float | None
    published: float | None
    flipped: float | None
    p_value: float | None


def by_level(zoom: "Zoom") -> list[LevelSummary]:
    """The table over levels, widest first."""
    deepest = max(entry.level for entry in zoom.levels)
    return [_level(zoom.at(level)) for level in range(deepest + 1)]


def used(entries: "list[Level]") -> "list[Level]":
    """The frames that a statement about the dimension may rest on."""
    return [entry for entry in entries if entry.trusted and entry.measured.dimension is not None]


def pooled_published(entries: "list[Level]") -> float | None:
    """The published estimate: the median of the local slopes of all frames together."""
    slopes = [slope for entry in entries for slope in entry.measured.published_slopes]
    return statistics.median(slopes) if slopes else None


def joint_fit(zoom: "Zoom") -> ZoomFit | str:
    """One dimension for all frames together, or why there is no honest one.

    It rests on the frames that have an interval of their own, whose error is therefore known. They
    may speak for the zoom only if they are at least half of the frames with a dimension.
    """
    good = used(list(zoom.levels))
    fitted = [(m.dimension, m.stderr) for m in (e.measured for e in good) if m.ci_low is not None]
    if len(fitted) < 2 or 2 * len(fitted) < len(good):
        return f"{len(fitted)} of {len(good)} frames with a dimension have an interval of their own"
    dimensions, stderrs = torch.tensor(fitted, dtype=torch.float64).unbind(-1)
    return joint_dimension(dimensions, stderrs, level=CONFIDENCE)


def _level(entries: "list[Level]") -> LevelSummary:
    good = used(entries)
    dimensions = [d for entry in good if (d := entry.measured.dimension) is not None]
    _, low, high = mean_interval(dimensions, CONFIDENCE) or (None, None, None)
    flips = [entry.flipped for entry in entries if entry.flipped is not None]
    p_values = [entry.measured.p_value for entry in good if entry.measured.p_value is not None]
    return LevelSummary(
        level=entries[0].level,
        width=smaller_side(entries[0].window),
        frames=len(entries),
        used=len(good),
        converged_fraction=statistics.fmean(entry.converged_fraction for entry in entries),
        dimension=statistics.fmean(dimensions) if dimensions else None,
        low=low,
        high=high,
        published=pooled_published(good),
        flipped=statistics.fmean(flips) if flips else None,
        p_value=statistics.median(p_values) if p_values else None,
    )


def results(zoom: "Zoom") -> dict[str, object]:
    """The content of results.json."""
    joint = joint_fit(zoom)
    return {
        "settings": dataclasses.asdict(zoom.config),
        "levels": [dataclasses.asdict(level) for level in by_level(zoom)],
        "joint_fit": dataclasses.asdict(joint) if isinstance(joint, ZoomFit) else None,
        "no_joint_fit_because": joint if isinstance(joint, str) else None,
        "published_estimate_all_frames": pooled_published(used(list(zoom.levels))),
        "ends": {str(path): end for path, end in zoom.ends.items()},
        "frames": [dataclasses.asdict(entry) for entry in zoom.levels],
        "compute_seconds": zoom.compute_seconds,
        "seconds": zoom.seconds,
    }


def text(zoom: "Zoom", out: Path) -> str:
    """What the command prints at its end."""
    config = zoom.config
    rule = {
        "random": f"{config.path_count} random paths",
        "window": "a path to a window chosen by hand",
        "densest": "the greedy densest path, which biases D upwards",
    }[config.path]
    lines = [
        f"{config.condition}, width {config.width}, {config.steps} steps, "
        f"{config.resolution} x {config.resolution} networks a frame; {rule}",
        "",
        "level      width  frames  converged  D, ours  95 % over paths   D, published  rounding",
    ]
    lines += [_row(level) for level in by_level(zoom)]
    pooled = pooled_published(used(list(zoom.levels)))
    lines += [
        "",
        _joint_line(joint_fit(zoom)),
        "D, published: median of the local slopes, pooled; over all frames "
        + (f"{pooled:.3f}" if pooled is not None else "none"),
        "rounding: share of labels beside the boundary that one unit in the last place changes; "
        f"frames above {config.flips:.0%} enter no D",
    ]
    if config.path_count > 1:
        lines.append(
            "the interval is that of the mean over paths in this one network (seed "
            f"{config.seed}), not over networks"
        )
    lines += [f"path {path} {end}" for path, end in zoom.ends.items()]
    lines.append(f"files: {out / 'zoom.png'}, results.json, frames/; {zoom.seconds:.1f} s in all")
    return "\n".join(lines)


def _joint_line(joint: ZoomFit | str) -> str:
    if isinstance(joint, str):
        return f"D, all frames together: no honest interval, because {joint}"
    return (
        f"D, all frames together: {joint.dimension:.3f}, {100 * joint.level:g} % interval "
        f"{joint.ci_low:.3f} to {joint.ci_high:.3f}; they differ by {joint.spread:.3f} beyond "
        f"their errors (p = {joint.heterogeneity_p:.3f} under one dimension for all); from the "
        f"{joint.frames} frames that have an interval of their own, taken as independent"
    )


def _row(level: LevelSummary) -> str:
    interval = "none"
    if level.low is not None and level.high is not None:
        interval = f"{level.low:.3f} to {level.high:.3f}"
    frames = f"{level.used} of {level.frames}" if level.used != level.frames else str(level.frames)
    return (
        f"{level.level:>5}  {level.width:>9.3g}  {frames:>6}  {level.converged_fraction:>9.1%}  "
        f"{_number(level.dimension):>7}  {interval:<15}  {_number(level.published):>12}  "
        f"{_number(level.flipped, '.1%'):>8}"
    )


def _number(value: float | None, form: str = ".3f") -> str:
    return "none" if value is None else format(value, form)
