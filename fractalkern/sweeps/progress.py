"""What is shown on stderr while a grid is computed: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_SECONDS_BETWEEN_LINES = 5.0


class Meter:
    """Counts the cells finished in this sitting and says how fast and how long still.

    `at_most`: the total is an upper limit, and so is the time left.
    """

    def __init__(self, total: int, done: int, steps: int, *, at_most: bool = False) -> None:
        self.total, self.done, self._steps = total, done, steps
        self._limit = "at most " * at_most
        self._done_before = done
        self._started = time.monotonic()

    def rate(self) -> float:
        """Cells a second in this sitting."""
        elapsed = time.monotonic() - self._started
        return (self.done - self._done_before) / elapsed if elapsed > 0 else 0.0

    def text(self) -> str:
        """Cells done, network-steps a second, time left."""
        parts = [f"{self.done:,} of {self._limit}{self.total:,} cells"]
        rate = self.rate()
        if rate > 0:
            parts.append(f"{short(rate * self._steps)} network-steps/s")
            left = duration((self.total - self.done) / rate)
            parts.append(f"{self._limit}{left} left")
        return ", ".join(parts)


class Display(Protocol):
    """Shows a meter."""

    def advance(self, cells: int) -> None:
        """Counts `cells` more as finished."""

    def note(self, line: str) -> None:
        """Prints a line that stays."""


@contextmanager
def display(title: str, meter: Meter) -> Iterator[Display]:
    """A bar if stderr is a terminal that wants one, else plain lines."""
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        yield _Lines(title, meter)
        return
    # No title: 80 columns hold the figures of the largest grids and a bar, and no more.
    columns = BarColumn(), TextColumn("{task.fields[text]}")
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(meter, progress)


class _Bar:
    def __init__(self, meter: Meter, progress: Progress) -> None:
        self._meter, self._progress = meter, progress
        self._task = progress.add_task(
            "", total=meter.total, completed=meter.done, text=meter.text()
        )

    def advance(self, cells: int) -> None:
        self._meter.done += cells
        self._progress.update(self._task, completed=self._meter.done, text=self._meter.text())

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


class _Lines:
    def __init__(self, title: str, meter: Meter) -> None:
        self._title, self._meter = title, meter
        self._show()

    def advance(self, cells: int) -> None:
        self._meter.done += cells
        finished = self._meter.done == self._meter.total
        if finished or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._show()

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _show(self) -> None:
        self._last_line = time.monotonic()
        self.note(f"{self._title}: {self._meter.text()}")


def short(number: float) -> str:
    """Three digits and a unit: 592k."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g}G"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
