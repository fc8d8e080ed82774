"""Fixtures for instruction sets and thread counts, and the rule on what may be skipped.

A test of an optional part carries `@pytest.mark.needs("nvcc")`. It is skipped where that part is
missing, unless FRACTALKERN_REQUIRE (comma-separated names) lists it: then it fails.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch

import fractalkern as fk

OPTIONAL: dict[str, Callable[[], bool]] = {
    "nvcc": lambda: shutil.which("nvcc") is not None,
    "triton": lambda: importlib.util.find_spec("triton") is not None,
    "cuda": torch.cuda.is_available,
    "second-cuda": lambda: torch.cuda.device_count() > 1,
    "video": lambda: importlib.util.find_spec("imageio_ffmpeg") is not None,
    "transformers": lambda: importlib.util.find_spec("transformers") is not None,
    "x86-64-v3": lambda: "x86-64-v3" in fk.build_info()["supported_instruction_sets"],
    "x86-64-v4": lambda: "x86-64-v4" in fk.build_info()["supported_instruction_sets"],
}
# Tests of Triton kernels need a process whose environment says so: test_triton.py starts it.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted_triton.py"]
REQUIRED = set(filter(None, os.environ.get("FRACTALKERN_REQUIRE", "").split(",")))


def pytest_configure(config: pytest.Config) -> None:
    # Tests of threads ask for them. To all others, arrays this small gain nothing from a second
    # one, and where other programs have that core each call waits until they give it up.
    torch.set_num_threads(1)
    config.addinivalue_line("markers", f"needs(part): one of {', '.join(OPTIONAL)}")
    unknown = REQUIRED - OPTIONAL.keys()
    if unknown:
        raise pytest.UsageError(
            f"FRACTALKERN_REQUIRE must list only {', '.join(OPTIONAL)}, "
            f"got {', '.join(sorted(unknown))}"
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        (part,) = marker.args
        if OPTIONAL[part]():
            continue
        if part in REQUIRED:
            pytest.fail(f"FRACTALKERN_REQUIRE lists {part}, which is missing here", pytrace=False)
        pytest.skip(f"{part} is missing here")


@pytest.fixture(params=fk.build_info()["supported_instruction_sets"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on each instruction set that this CPU supports."""
    before = fk.build_info()["instruction_set"]
    fk.set_instruction_set(request.param)
    yield request.param
    fk.set_instruction_set(before)


@pytest.fixture(params=[1, 2, 5], ids=lambda count: f"{count}threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with 1, 2 and 5 threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
