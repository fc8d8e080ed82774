"""What a row of the GPU bench is, and how a case is raced."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from bench.on_gpu.timing import Timing, by_clock, by_events

SECONDS = 3.0  # for each contender


@dataclass(frozen=True)
class Contender:
    """One way to do the work. `build()` returns the call; one that raises ImportError is absent.

    A peer that fails is a row that says so.

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

    `ratio` is how many times ours is as fast for the same work, `share` its part of the ceiling.
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


def run(case: Case, ceilings: dict[str, float]) -> Iterator[Row]:
    """Checks and times every contender of a case; `ceilings` are rates by their case's name."""
    ours: float | None = None
    for one in case.contenders:
        head = case.kernel, case.case, one.name, one.role, case.unit
        target = case.target if one.role == "ours" and ours is None else ""
        call = None
        try:
            call = one.build()
            if one.check is not None:
                one.check(call())
            timing = (by_events if one.clock == "events" else by_clock)(call, SECONDS)
        except ImportError as error:
            yield Row(*head, None, None, None, None, target, f"not installed: {error}")
            continue
        except Exception as error:
            if one.role != "peer":  # what is wrong with a peer must not end the run
                raise
            reason = f"failed: {type(error).__name__}: {error}".splitlines()[0]
            yield Row(*head, None, None, None, None, target, reason[:100])
            continue
        rate = one.work / timing.median
        ours = ours or rate
        share = None
        if case.ceiling in ceilings:
            share = rate * case.per_unit / ceilings[case.ceiling]
        yield Row(*head, timing, rate, ours / rate, share, target)
        del call
        torch.cuda.empty_cache()


def as_json(row: Row) -> dict[str, Any]:
    """A row for the results file."""
    return asdict(row)


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
            f"{'' if row.share is None else f'{row.share:.1%}':>12}{row.ratio:>8.2f}x"
            + (f"  target: {row.target}" if row.target else "")
        )
    return "\n".join(lines)
