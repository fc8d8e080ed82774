"""Races contenders against each other, interleaved round by round.

Each contender lives in its own process: its threads, its environment variables and its compiled
functions are its own, and one that is not installed is a row that says so. In a round every
contender runs once, so whatever else the machine does falls on all of them, and ratios are medians
of the rounds' own ratios.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

ROUND_SECONDS = 0.05  # a contender's turn repeats calls until this much time has passed


@dataclass(frozen=True)
class Contender:
    """One way to do the work: `build(*arguments)`, called in its own process, returns the call."""

    name: str
    build: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...]
    work: dict[str, float]  # what one call does: network_steps, flops, bytes
    package: str = "fractalkern"
    role: Literal["ours", "peer", "floor"] = "peer"
    rounds: int | None = None  # a cap for slow ones
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Race:
    """Contenders for the same work; the first one is ours, against which ratios are taken.

    `per` is the unit of work of the ratios, `share` the one whose rate is set against the floor's.
    `check(contender, answer)` raises if an answer is wrong; nothing is timed before it has passed.
    `derive(rows)` is what follows from several rows; it is kept in ours.
    """

    kernel: str
    case: str
    dtype: str
    contenders: list[Contender]
    per: str
    share: str
    check: Callable[[Contender, Any], None]
    derive: Callable[[list[dict[str, Any]]], dict[str, float]] | None = None


class Entrant:
    """A contender in its own process, waiting for its turn."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self.turns: dict[int, float] = {}  # round -> seconds of one call
        self._pipe, other_end = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(other_end, contender, threads), daemon=True
        )
        before = dict(os.environ)
        os.environ.update({f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "NUMBA")})
        os.environ.update(contender.environment)
        self.process.start()
        os.environ.clear()
        os.environ.update(before)
        other_end.close()
        self.missing: str | None
        self.missing, self.answer = self._pipe.recv()

    def run(self, index: int) -> None:
        self._pipe.send("run")
        self.turns[index] = self._pipe.recv()

    def stop(self) -> None:
        if self.process.is_alive() and self.missing is None:
            self._pipe.send(None)
        self.process.join()


def _serve(pipe: Connection, contender: Contender, threads: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        call = contender.build(*contender.arguments)
        pipe.send((None, call()))  # the first call compiles
    except ImportError as error:
        pipe.send((str(error), None))
        return
    while pipe.recv():
        start = time.perf_counter()
        call()
        seconds = [time.perf_counter() - start]
        if seconds[0] < ROUND_SECONDS:
            seconds.clear()  # it found the caches as another contender left them
            while sum(seconds) < ROUND_SECONDS:
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
        pipe.send(statistics.median(seconds))


def _busy_seconds(entrants: list[Entrant]) -> float:
    """CPU seconds that all processes but this race's have used since the machine started."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, *others = (int(text) for text in file.readline().split()[1:9])
    ticks = user + nice + system + sum(others)
    for pid in [os.getpid(), *(entrant.process.pid for entrant in entrants)]:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            ticks -= sum(int(text) for text in file.read().rsplit(")", 1)[1].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def run(
    race: Race, *, threads: int, rounds: int, max_load: float
) -> tuple[list[Entrant], list[float]]:
    """The contenders with their times, and for each round how many cores other processes used.

    A round in which they used more than `max_load` is repeated, until as many rounds again have
    been spent on that.
    """
    entrants = [Entrant(contender, threads) for contender in race.contenders]
    try:
        running = [entrant for entrant in entrants if entrant.missing is None]
        for entrant in running:
            race.check(entrant.contender, entrant.answer)
        loads: list[float] = []
        spare = rounds
        while len(loads) < rounds:
            index = len(loads)
            turn = [e for e in running if e.contender.rounds is None or index < e.contender.rounds]
            first = index % len(turn)
            before, start = _busy_seconds(running), time.perf_counter()
            for entrant in turn[first:] + turn[:first]:
                entrant.run(index)
            others = _busy_seconds(running) - before
            load = max(0.0, others / (time.perf_counter() - start))
            if load > max_load and spare > 0:
                spare -= 1
            else:
                loads.append(load)
    finally:
        for entrant in entrants:
            entrant.stop()
    return entrants, loads
