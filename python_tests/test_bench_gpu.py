"""`python -m bench.gpu` where tests or contenders fail, hang or lose the device; needs none."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

TESTS = """
import time
import torch

def test_that_fails():
    assert 1 + 1 == 3

def test_that_hangs():
    time.sleep(60)

def test_that_loses_the_device():
    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, lost

def test_behind():
    with open({log!r}, "a") as log:
        log.write("reached ")
"""


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("REQUIRE", "TESTS_BEGUN", "SECONDS_OF_A_TEST"):
        monkeypatch.setenv(f"FRACTALKERN_{name}", "")
    return import_module


def test_a_test_that_hangs_loses_the_device_or_cannot_be_read_takes_no_other_with_it(
    bench, monkeypatch, tmp_path, capfd
):
    gpu = bench("bench.gpu")
    monkeypatch.setattr(gpu, "_SCRATCH", tmp_path)
    tests, log = tmp_path / "test_some.py", tmp_path / "log"
    tests.write_text(TESTS.format(log=str(log)))
    unreadable = tmp_path / "test_unreadable.py"
    unreadable.write_text("import a_package_that_is_not_there")
    monkeypatch.setattr(gpu, "_TESTS", [str(unreadable), str(tests)])
    assert not gpu._test("tests", [], "", seconds_of_a_test=5, seconds=600)
    assert log.read_text() == "reached "
    said = "".join(capfd.readouterr())
    assert "E   assert (1 + 1) == 3" in said
    assert "in test_that_hangs" in said
    assert "E   ModuleNotFoundError: No module named 'a_package_that_is_not_there'" in said
    assert "test_that_loses_the_device lost the device's context: CUDA error: an illegal" in said


def test_a_step_that_hangs_is_ended(bench, capfd):
    gpu = bench("bench.gpu")
    assert gpu._step("sleep", ["sh", "-c", "sleep 60 & sleep 60"], 0.2) is None
    assert gpu._step("false", ["false"], 60) == 1
    assert "bench.gpu: sleep: ended after 0 s" in capfd.readouterr().err


def test_a_missing_sanitizer_is_one_sentence(bench, monkeypatch, capfd):
    gpu = bench("bench.gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu, "_test", lambda *arguments, **options: True)
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--sanitize", "--no-build"])
    monkeypatch.setenv("PATH", "")
    assert gpu.main() == 1
    assert capfd.readouterr().err.endswith("needs compute-sanitizer on the PATH\n")


def test_a_contender_that_fails_is_a_row(bench, monkeypatch, tmp_path):
    rows = bench("bench.on_gpu.rows")
    monkeypatch.setattr(rows, "by_events", lambda call, seconds: rows.Timing(call(), 1, 3, 5))

    def broken():
        raise ValueError("no\nanswer")

    def absent():
        raise ImportError("no module")

    def race(first, time_for_peers=True):
        contenders = [
            rows.Contender("ours", lambda: first, 6.0, role="ours"),
            rows.Contender("absent", absent, 6.0),
            rows.Contender("peer", lambda: lambda: 3.0, 6.0),
            rows.Contender("floor", lambda: lambda: 1.0, 6.0, role="floor"),
        ]
        case = rows.Case("kernel", "case", "B/s", contenders, "a target", "copy", 0.5)
        return list(rows.run(case, {"copy": 2.0}, lambda: time_for_peers))

    good = race(lambda: 2.0)
    assert [row.ratio for row in good] == [1, None, 1.5, 0.5]
    assert [row.share for row in good] == [0.75, None, 0.5, 1.5]
    assert [row.missing for row in good] == [None, "not installed: no module", None, None]
    bad = race(broken)
    assert [row.failed for row in bad] == [True, False, False, False]
    assert bad[0].missing == "failed: ValueError: no answer"
    assert [row.ratio for row in bad] == [None] * 4
    assert [row.rate for row in bad] == [None, None, 2, 6]
    late = race(lambda: 2.0, time_for_peers=False)
    assert [row.missing for row in late] == [None, "no time left", "no time left", None]

    lines = tmp_path / "rows.jsonl"
    found = [*good, *bad]
    lines.write_text("\n".join(json.dumps(rows.as_json(row)) for row in found))
    assert rows.read(lines) == found
    assert "failed: ValueError: no answer" in rows.table(found)


def test_a_contender_that_costs_the_device_ends_the_race(bench, monkeypatch):
    rows = bench("bench.on_gpu.rows")

    def lost():
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    case = rows.Case("kernel", "case", "B/s", [rows.Contender("ours", lambda: lost, 1.0)])
    race = rows.run(case, {}, lambda: True)
    assert next(race).failed
    with pytest.raises(RuntimeError, match="CUDA error"):
        next(race)
