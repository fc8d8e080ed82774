"""What is shown while an ensemble trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fractalkern.ensemble.rows import Rows
from fractalkern.sweeps.progress import Display, Meter, display, duration, short


class RunMeter(Meter):
    """Counts steps of runs; those that a frozen run does not take count when its chunk ends."""

    def __init__(
        self, runs: int, steps: int, chunk: int, chunks: Sequence[Sequence[int]], rows: Rows | None
    ) -> None:
        done = sum(len(before) for before in chunks[:chunk]) * steps
        if rows is not None:
            done += len(chunks[chunk]) * rows.step
        super().__init__(runs * steps, done, 1)
        self._runs, self._steps_each = runs, steps

    def text(self) -> str:
        """Runs, steps done of each on average, steps a second, time left."""
        parts = [f"{self._runs:,} runs, {self.done // self._runs:,} of {self._steps_each:,} steps"]
        if (rate := self.rate()) > 0:
            parts.append(f"{short(rate)} run-steps/s")
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)


class _Silent:
    def advance(self, cells: int) -> None:
        """Shows nothing."""

    def note(self, line: str) -> None:
        """Shows nothing."""


@contextmanager
def showing(title: str | None, meter: Meter) -> Iterator[Display]:
    """The meter on stderr under `title`; None: nothing."""
    if title is None:
        yield _Silent()
        return
    with display(title, meter) as shown:
        yield shown
