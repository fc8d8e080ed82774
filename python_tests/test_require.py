"""The rule on skips: what FRACTALKERN_REQUIRE lists must be there."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TEST = """
import pytest

@pytest.mark.needs("nvcc")
def test_of_an_optional_part():
    pass
"""


@pytest.fixture
def run_without_nvcc(pytester, monkeypatch):
    """Runs `TEST` under this folder's conftest where no nvcc is found."""
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(TEST)
    monkeypatch.setenv("PATH", "")

    def run(required):
        monkeypatch.setenv("FRACTALKERN_REQUIRE", required)
        return pytester.runpytest_inprocess("-rs")

    return run


def test_missing_part_is_skipped(run_without_nvcc):
    result = run_without_nvcc("")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*nvcc is missing here*")


def test_missing_part_fails_where_it_is_required(run_without_nvcc):
    result = run_without_nvcc("triton,nvcc")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*FRACTALKERN_REQUIRE lists nvcc, which is missing here*")


def test_unknown_part_is_refused(run_without_nvcc):
    result = run_without_nvcc("nvc")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*FRACTALKERN_REQUIRE must list only nvcc, triton, cuda*")
