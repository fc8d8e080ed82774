"""How often the intervals of `estimate_dimension` cover, and how often its verdicts are false.

    python studies/dimension_coverage.py                 several hours on two cores
    python studies/dimension_coverage.py --count 100     a cut of it
    python studies/dimension_coverage.py --power 1000 1000 100     the committed tables

Draws boundaries of known dimension, none of them used in the calibration, and writes
`results/dimension_coverage.json` and `.md` beside this file. Boundary i of a class has a seed of
its own, so that a second run gives the same table. Verdicts, which take the time, are kept ten
boundaries a line in `results/dimension_verdicts.jsonl`, and a killed run goes on from there; delete
the file when the nulls change.
"""

import argparse
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fractalkern import synthetic
from fractalkern.boundary_statistics import boundary_statistics
from fractalkern.calibration import infer
from fractalkern.dimension import estimate_dimension
from fractalkern.nulls import NullName

RESULTS = Path(__file__).parent / "results"
LEVEL = 0.95
_BATCH = 10
_SEED = 4_000_000_000_000

Draw = Callable[[int, int, torch.Generator], Tensor]


def _brownian(dimension: float) -> Draw:
    def draw(count: int, side: int, generator: torch.Generator) -> Tensor:
        return synthetic.brownian_level_sets(count, side, dimension, generator)

    return draw


def _noisy(base: Draw, width: float) -> Draw:
    def draw(count: int, side: int, generator: torch.Generator) -> Tensor:
        return synthetic.with_noise(base(count, side, generator), width, generator)

    return draw


CLASSES: dict[str, tuple[Draw, float]] = {
    "line": (synthetic.straight_lines, 1.0),
    "circle": (synthetic.circles, 1.0),
    "contour": (synthetic.smooth_contours, 1.0),
    "fBm 1.2": (_brownian(1.2), 1.2),
    "fBm 1.5": (_brownian(1.5), 1.5),
    "fBm 1.8": (_brownian(1.8), 1.8),
    "Koch": (synthetic.koch_snowflakes, math.log(4, 3)),
    "Sierpinski": (synthetic.sierpinski_gaskets, math.log2(3)),
}
# Boundaries, the null they are held against, and its width.
VERDICTS: tuple[tuple[str, Draw, NullName, float], ...] = (
    ("line", synthetic.straight_lines, "smooth", 0.5),
    ("circle", synthetic.circles, "smooth", 0.5),
    ("contour", synthetic.smooth_contours, "smooth", 0.5),
    *(
        (
            f"contour + noise {width:g}",
            _noisy(synthetic.smooth_contours, width),
            "smooth+noise",
            width,
        )
        for width in (0.5, 1.0, 2.0)
    ),
    ("fBm 1.3", _brownian(1.3), "smooth", 0.5),
    *(("fBm 1.3", _brownian(1.3), "smooth+noise", width) for width in (0.5, 1.0, 2.0)),
)
_FRACTAL = ("fBm 1.3",)  # of them a verdict "fractal" is right: their rows tell the power


@dataclass(frozen=True)
class Coverage:
    """Over `drawn` boundaries of one class and side; shares are of the given intervals."""

    name: str
    side: int
    truth: float
    drawn: int
    given: int
    covered: int
    below: int
    above: int
    mean: float
    half_width: float


@dataclass(frozen=True)
class Verdicts:
    """How many of `drawn` boundaries the null was rejected for at `1 - LEVEL`."""

    name: str
    null: str
    width: float | None
    side: int
    drawn: int
    rejected: int


def _generator(number: int, side: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(_SEED + (number * 10_000 + side) * 10_000 + part)


def _intervals(job: tuple[str, int, int]) -> list[tuple[str, float, float, float]]:
    name, side, part = job
    torch.set_num_threads(1)
    draw, _ = CLASSES[name]
    values = draw(_BATCH, side, _generator(list(CLASSES).index(name), side, part))
    found = infer(boundary_statistics(values < 0), side, LEVEL)
    return [(one.kind, one.dimension, one.low, one.high) for one in found]


def _rejections(job: tuple[int, int, int, int]) -> int:
    row, side, part, draws = job
    torch.set_num_threads(1)
    _, draw, null, width = VERDICTS[row]
    generator = _generator(100 + row, side, part)
    values = draw(_BATCH, side, generator)
    result = estimate_dimension(
        values < 0,
        spatial_dims=2,
        level=LEVEL,
        null=null,
        noise_width=width,
        null_draws=draws,
        generator=generator,
    )
    return int(result.fractal.sum())


def coverage(pool: ProcessPoolExecutor, name: str, side: int, count: int) -> Coverage:
    """Intervals of one class."""
    jobs = [(name, side, part) for part in range(count // _BATCH)]
    found = [one for part in pool.map(_intervals, jobs) for one in part]
    given = [(d, low, high) for kind, d, low, high in found if kind != "none"]
    truth = CLASSES[name][1]
    widths = sorted((high - low) / 2 for _, low, high in given)
    return Coverage(
        name=name,
        side=side,
        truth=truth,
        drawn=len(found),
        given=len(given),
        covered=sum(low <= truth <= high for _, low, high in given),
        below=sum(high < truth for _, low, high in given),
        above=sum(low > truth for _, low, high in given),
        mean=math.fsum(d for d, _, _ in given) / len(given) if given else math.nan,
        half_width=widths[len(widths) // 2] if given else math.nan,
    )


def verdicts(
    pool: ProcessPoolExecutor, row: int, side: int, count: int, draws: int, kept: Path
) -> Verdicts:
    """Verdicts of one row of `VERDICTS`; `kept` holds what is known and gets what is new."""
    name, _, null, width = VERDICTS[row]
    jobs = [(row, side, part, draws) for part in range(count // _BATCH)]
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {tuple(job): rejected for *job, rejected in map(json.loads, lines)}
    missing = [job for job in jobs if job not in known]
    with kept.open("a") as file:
        for job, rejected in zip(missing, pool.map(_rejections, missing), strict=True):
            known[job] = rejected
            file.write(json.dumps([*job, rejected]) + "\n")
            file.flush()
    shown = width if null == "smooth+noise" else None
    total = sum(known[job] for job in jobs)
    return Verdicts(name, null, shown, side, len(jobs) * _BATCH, total)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.96
    centre = (successes + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * math.sqrt(successes * (total - successes) / total + z**2 / 4)
    return centre - half, centre + half


def table(covered: list[Coverage], judged: list[Verdicts], draws: int) -> str:
    """Both tables as Markdown."""
    lines = [
        "# How often the intervals cover, and how often the verdicts are wrong",
        "",
        "Made by `python studies/dimension_coverage.py`, where seeds and rules stand. In brackets",
        "the 95 % interval of the study's own binomial error.",
        "",
        "## Intervals of 95 %",
        "",
        "| boundary | D | side | drawn | given | cover the truth | miss below, above | mean D | "
        "median half width |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in covered:
        start = f"| {one.name} | {one.truth:.3f} | {one.side} | {one.drawn} | "
        if not one.given:
            lines.append(start + "0 | no honest interval | | | |")
            continue
        low, high = wilson(one.covered, one.given)
        lines.append(
            start + f"{one.given} | {one.covered / one.given:.1%} ({low:.1%} to {high:.1%}) | "
            f"{one.below}, {one.above} | {one.mean:.3f} | {one.half_width:.4f} |"
        )
    lines += [
        "",
        f"## Verdicts: the null rejected at 5 %, {draws} draws of it for each boundary",
        "",
        "| boundary | null | side | drawn | called fractal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in judged:
        low, high = wilson(row.rejected, row.drawn)
        null = row.null if row.width is None else f"{row.null} {row.width:g}"
        lines.append(
            f"| {row.name} | {null} | {row.side} | {row.drawn} | {row.rejected / row.drawn:.1%} "
            f"({low:.1%} to {high:.1%}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the study and writes its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="boundaries a class and side")
    parser.add_argument(
        "--verdicts", type=int, nargs="+", help="boundaries a row of verdicts, one number a side"
    )
    parser.add_argument(
        "--power", type=int, nargs="+", help="the same for fractal boundaries (default: as many)"
    )
    parser.add_argument("--draws", type=int, default=99, help="draws of a null for each boundary")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    smooth_counts = arguments.verdicts or [arguments.count] * len(arguments.sides)
    fractal_counts = arguments.power or smooth_counts
    arguments.out.mkdir(exist_ok=True)
    kept = arguments.out / "dimension_verdicts.jsonl"
    covered, judged = [], []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for side in arguments.sides:
            for name in CLASSES:
                covered.append(coverage(pool, name, side, arguments.count))
                print(covered[-1], flush=True)
        for side, smooth, fractal in zip(
            arguments.sides, smooth_counts, fractal_counts, strict=True
        ):
            for row, (name, *_) in enumerate(VERDICTS):
                count = fractal if name in _FRACTAL else smooth
                judged.append(verdicts(pool, row, side, count, arguments.draws, kept))
                print(judged[-1], flush=True)
    numbers = {
        "level": LEVEL,
        "null_draws": arguments.draws,
        "coverage": [asdict(one) for one in covered],
        "verdicts": [asdict(row) for row in judged],
    }
    text = json.dumps(numbers, indent=1).replace("NaN", "null")
    (arguments.out / "dimension_coverage.json").write_text(text + "\n")
    (arguments.out / "dimension_coverage.md").write_text(table(covered, judged, arguments.draws))


if __name__ == "__main__":
    main()
