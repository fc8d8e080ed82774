"""Processes that kill themselves at an event, for tests of runs that go on where they stopped.

Children are forked from a server that has already imported everything, so that many sittings fit in
a few seconds.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

MODULES = [
    "fractalkern.experiments.trainability.preview",
    "fractalkern.experiments.trainability.run",
    "fractalkern.experiments.zoom.run",
]


def processes() -> Any:
    """The context whose `Process` starts a child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


def killing_at(event: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps functions whose calls are the events: at that one, counted from 1, SIGKILL comes."""
    events = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal events
            events += 1
            if events == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    return counted


def run_until_killed(sitting: Callable[..., None], *arguments: Any) -> None:
    """Runs `sitting` in a child, which must be killed."""
    child = processes().Process(target=sitting, args=arguments)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
