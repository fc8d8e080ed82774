"""What a row of the GPU bench is, and how a case is raced."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench.on_gpu.timing import Timing, by_clock, by_events

SECONDS = 3.0  # for each contender


@dataclass(frozen=True)
class Contender:
    """One way to do the work. `build()` returns the call; one that raises ImportError is absent.

    One that fails is a row that says so.

    `check(answer)` raises if an answer is wrong; nothing is timed before it has passed.
    """

    name: str
    build: Callable[[], Callable[[], Any]]
    work: float  # units that one call does
    check: Callable[[Any], None] | None = None
    role: Literal["ours", "peer", "floor"] = "peer"
    clock: Literal["events", "host"] = "events"


@dataclass(frozen=True)
class Case:
    """Contenders for the same work, the first one ours; `target` says what ours has to reach.

    `ceiling` names a case of `ceilings`, `per_unit` how many of its units one of ours takes.
    """

    kernel: str
    case: str
    unit: str
    contenders: list[Contender]
    target: str = ""
    ceiling: str = ""
    per_unit: float = 1.0


@dataclass(frozen=True)
class Row:
    """One contender's outcome.

    `ratio` is how many times ours, the case's first contender, is as fast for the same work,
    `share` the contender's part of the ceiling. `missing` says why there is no timing.
    """

    kernel: str
    case: str
    contender: str
    role: str
    unit: str
    timing: Timing | None
    rate: float | None  # units a second
    ratio: float | None
    share: float | None
    target: str
    missing: str | None = None
    failed: bool = False


def run(
    case: Case, ceilings: dict[str, float], time_for_peers: Callable[[], bool]
) -> Iterator[Row]:
    """Checks and times every contender of a case; `ceilings` are rates by their case's name.

    Raises where a contender has cost the process its device.
    """
    ours: float | None = None
    for one in case.contenders:
        head = case.kernel, case.case, one.name, one.role, case.unit
        target = case.target if one is case.contenders[0] else ""
        if one.role == "peer" and not time_for_peers():
            yield Row(*head, None, None, None, None, target, "no time left")
            continue
        call = missing = None
        failed = False
        try:
            call = one.build()
            if one.check is not None:
                one.check(call())
            timing = (by_events if one.clock == "events" else by_clock)(call, SECONDS)
        except ImportError as error:
            missing = f"not installed: {error}"
        except Exception as error:
            missing = " ".join(f"failed: {type(error).__name__}: {error}".split())[:300]
            failed = True
        if missing is not None:
            call = None
            yield Row(*head, None, None, None, None, target, missing, failed)
            if failed and torch.cuda.is_initialized():
                torch.cuda.synchronize()
            torch.cuda.empty_cache()
            continue
        rate = one.work / timing.median
        if one is case.contenders[0]:
            ours = rate
        share = None
        if case.ceiling in ceilings:
            share = rate * case.per_unit / ceilings[case.ceiling]
        yield Row(*head, timing, rate, ours / rate if ours else None, share, target)
        del call
        torch.cuda.empty_cache()


def as_json(row: Row) -> dict[str, Any]:
    """A row for the results file."""
    return asdict(row)


def read(lines: Path) -> list[Row]:
    """The rows of a file with one of `as_json` a line."""
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    return [Row(**row | {"timing": row["timing"] and Timing(**row["timing"])}) for row in found]


def table(rows: list[Row]) -> str:
    """The rows as a plain table."""
    heads = f"{'median ms':>11}{'quartiles':>19}{'rate':>16}{'of ceiling':>12}{'ours is':>9}"
    lines = [f"{'contender':<44}{heads}"]
    before = None
    for row in rows:
        if (row.kernel, row.case) != before:
            before = row.kernel, row.case
            lines.append(f"\n{row.kernel}: {row.case}")
        if row.timing is None:
            lines.append(f"  {row.contender:<42}{row.missing}")
            continue
        low, mid, high = (1e3 * t for t in (row.timing.lower, row.timing.median, row.timing.upper))
        lines.append(
            f"  {row.contender:<42}{mid:>11.3f}{f'{low:.3f} to {high:.3f}':>19}"
            f"{f'{row.rate:.3g} {row.unit}':>16}"
            f"{'' if row.share is None else f'{row.share:.1%}':>12}"
            f"{'' if row.ratio is None else f'{row.ratio:.2f}x':>9}"
            + (f"  target: {row.target}" if row.target else "")
        )
    return "\n".join(lines)
