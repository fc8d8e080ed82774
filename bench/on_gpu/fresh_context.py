"""A pytest plugin: a test that hangs or loses the device's context ends the process.

Without it every later test would fail for that one. Failures are printed as they come, for a
process that ends so has no summary. The file that FRACTALKERN_TESTS_BEGUN names holds the tests
that have begun, for the next process to leave out, and `FINISHED` after the last.
"""

import faulthandler
import os
from pathlib import Path

import pytest
import torch

FINISHED = "finished"

_STDERR = os.dup(2)  # pytest captures the other one


def _begun() -> Path:
    return Path(os.environ["FRACTALKERN_TESTS_BEGUN"])


def _add(line: str) -> None:
    with _begun().open("a") as file:
        file.write(f"{line}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    begun = set(_begun().read_text().splitlines())
    items[:] = [item for item in items if item.nodeid not in begun]


def pytest_runtest_logstart(nodeid: str) -> None:
    _add(nodeid)
    seconds = float(os.environ["FRACTALKERN_SECONDS_OF_A_TEST"])
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        os.write(_STDERR, f"\n{report.nodeid}\n{report.longreprtext}\n".encode())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        os.write(_STDERR, f"\n{report.nodeid}\n{report.longreprtext}\n".encode())


def pytest_runtest_logfinish(nodeid: str) -> None:
    faulthandler.cancel_dump_traceback_later()
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        pytest.exit(f"{nodeid} lost the device's context: {reason}", pytest.ExitCode.INTERRUPTED)


def pytest_sessionfinish(exitstatus: int) -> None:
    ends = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED
    if exitstatus in ends:
        _add(FINISHED)
