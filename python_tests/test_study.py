"""The run folder of an ensemble study: nothing finished is lost, mistakes are sentences."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from fractalkern.errors import InputError
from fractalkern.experiments.names import require_name
from fractalkern.experiments.settings import from_toml, to_toml
from fractalkern.experiments.study import Part, Series, Study, tracker
from fractalkern.experiments.study import folder as study_folder


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 3
    arms: tuple[str, ...] = ("none", "fixed")
    rates: tuple[float, ...] = (0.1, 0.01)
    deep: bool = False
    path: str = ""


PARTS = [
    Part("first", ({"run": 0, "arm": "none"}, {"run": 1, "arm": "fixed"})),
    Part("second", ({"run": 2, "arm": "none"},)),
]


def series_of(part: Part) -> dict[str, Series]:
    runs = len(part.runs)
    loss = torch.arange(3.0).expand(runs, 3) + torch.tensor([r["run"] for r in part.runs])[:, None]
    return {"train": Series([1, 2, 3], {"loss": loss}), "test": Series([3], {"error": loss[:, 2:]})}


def commit(study: Study, number: int) -> None:
    study.commit(number, series_of(study.parts[number]), {"map": torch.ones(2, 2)}, 0.5)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_rows_hold_label_step_and_scalars(tmp_path):
    with Study(tmp_path, "example", Config(), PARTS) as study:
        for number in study.missing():
            commit(study, number)
        series, arrays = study.load(1)
    rows = lines(tmp_path)
    assert len(rows) == 3 * (3 + 1)
    assert rows[6] == {"run": 1, "arm": "fixed", "step": 2, "loss": 2.0}
    assert rows[8] == {"run": 2, "arm": "none", "step": 3, "error": 4.0}
    assert series["train"].steps == [1, 2, 3] and arrays["map"].shape == (2, 2)


def test_what_is_not_finite_is_null(tmp_path):
    with Study(tmp_path, "example", Config(), PARTS) as study:
        study.commit(1, {"a": Series([1], {"loss": torch.full((1, 1), torch.nan)})}, {}, 0.0)
    assert lines(tmp_path)[0]["loss"] is None


def test_goes_on_with_what_is_missing(tmp_path):
    with Study(tmp_path, "example", Config(), PARTS) as study:
        commit(study, 1)
    before = (tmp_path / "runs.jsonl").read_bytes()
    with open(tmp_path / "runs.jsonl", "ab") as file:
        file.write(b'{"run": 0, "lo')  # as a killed process leaves it
    with Study(tmp_path, "example", Config(), PARTS) as study:
        assert study.missing() == [0]
        assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_killed_at_any_moment_loses_nothing_finished(tmp_path):
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_study import *
parts = [Part(str(n), ({{"run": n}},)) for n in range(10_000)]
with Study(Path({str(tmp_path)!r}), "example", Config(), parts) as study:
    for n in study.missing():
        commit(study, n)
        print(n, flush=True)
"""
    finished = -1
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            number = int(child.stdout.readline())
            assert number > finished  # nothing is computed again
            finished = number
        os.kill(child.pid, signal.SIGKILL)
        finished = max([finished, *map(int, child.stdout.read().split())])
        child.wait()
        child.stdout.close()
    parts = [Part(str(n), ({"run": n},)) for n in range(10_000)]
    with Study(tmp_path, "example", Config(), parts) as study:
        kept = 10_000 - len(study.missing())
        assert kept >= finished + 1
    runs = [row["run"] for row in lines(tmp_path) if "loss" in row]
    assert runs == [n for n in range(kept) for _ in range(3)]


def test_refuses_another_config(tmp_path):
    Study(tmp_path, "example", Config(), PARTS).close()
    with pytest.raises(InputError, match=r"holds a run with other settings .*steps: 3 -> 4"):
        Study(tmp_path, "example", Config(steps=4), PARTS)
    with pytest.raises(InputError, match="holds a run of example, not of other"):
        Study(tmp_path, "other", Config(), PARTS)


def test_no_disk_left_is_a_sentence_and_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def full(path: Path, data: bytes) -> None:
        with study_folder.writing(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(InputError, match="No space left on device"),
        Study(tmp_path, "example", Config(), PARTS) as study,
    ):
        commit(study, 0)
        monkeypatch.setattr("fractalkern.sweeps.store.write_atomically", full)
        commit(study, 1)
    assert "1 of 2 parts are finished and kept" in capsys.readouterr().err
    monkeypatch.undo()
    with Study(tmp_path, "example", Config(), PARTS) as study:
        assert study.missing() == [1]
    assert {row["run"] for row in lines(tmp_path)} == {0, 1}


def test_refuses_scalars_of_another_shape(tmp_path):
    wrong = {"train": Series([1, 2], {"loss": torch.ones(2, 3)})}
    with Study(tmp_path, "example", Config(), PARTS) as study:
        with pytest.raises(InputError, match=r"'loss' of series 'train' must have shape \[2, 2\]"):
            study.commit(0, wrong, {}, 0.0)
        assert study.missing() == [0, 1]


def test_config_comes_back_from_its_file(tmp_path):
    config = Config(4, (), (1.0,), True, 'a "b" \\ é')
    Study(tmp_path / "run", "example", config, PARTS).close()
    assert from_toml(Config(), tmp_path / "run" / "config.toml") == config
    assert to_toml(config).splitlines()[1] == "arms = []"
    (tmp_path / "bad.toml").write_text("deep = 1")
    with pytest.raises(InputError, match="deep must be of type bool, got 1"):
        from_toml(Config(), tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("rates = 0.1")
    with pytest.raises(InputError, match=r"rates must be a list, got 0\.1"):
        from_toml(Config(), tmp_path / "bad.toml")


def test_trackers_are_given_every_run(tmp_path, monkeypatch):
    seen: list[tuple] = []
    fake = types.ModuleType("trackio")
    fake.init = lambda project, name, config: seen.append((project, name, config["run"]))
    fake.log = lambda scalars, step: seen.append((step, scalars))
    fake.finish = lambda: None
    monkeypatch.setitem(sys.modules, "trackio", fake)
    chosen = tracker("trackio", "example", tmp_path)
    with Study(tmp_path / "run", "example", Config(), PARTS, tracker=chosen) as study:
        commit(study, 1)
    assert seen[0] == ("fractalkern-example", "2-none", 2)
    assert seen[1:] == [(3, {"error": 4}), (1, {"loss": 2}), (2, {"loss": 3}), (3, {"loss": 4})]


def test_tracker_that_fails_is_a_sentence_and_the_part_is_kept(tmp_path, monkeypatch, capsys):
    class Failing:
        name = "wandb"

        def add(self, *_: object) -> None:
            raise RuntimeError("api_key not configured\nmore")

    with (
        pytest.raises(InputError, match=r"wandb failed with run 2-none: api_key not configured;"),
        Study(tmp_path, "example", Config(), PARTS, tracker=Failing()) as study,
    ):
        commit(study, 1)
    said = capsys.readouterr().err
    assert "1 of 2 parts are finished" in said and said.strip().endswith("--tracker wandb")
    assert {row["run"] for row in lines(tmp_path)} == {2}


def test_altered_part_is_named_and_computed_again(tmp_path, capsys):
    with Study(tmp_path, "example", Config(), PARTS) as study:
        commit(study, 0)
    (tmp_path / "tiles" / "00000.safetensors").write_bytes(b"other")
    with Study(tmp_path, "example", Config(), PARTS) as study:
        assert study.missing() == [0, 1]
    assert "is corrupt or truncated; computing it again" in capsys.readouterr().err


def test_files_are_complete_before_their_part_is_finished(tmp_path):
    def files():
        yield "model/weights", b"1"
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Study(tmp_path, "example", Config(), PARTS) as study,
    ):
        study.commit(1, series_of(PARTS[1]), {}, 0.5, files())
    with Study(tmp_path, "example", Config(), PARTS) as study:
        assert study.missing() == [0, 1]
        study.commit(1, series_of(PARTS[1]), {}, 0.5, {"model/weights": b"12"}.items())
    assert (tmp_path / "model" / "weights").read_bytes() == b"12"


def test_absent_tracker_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"'wandb': pip install wandb"):
        tracker("wandb", "example", tmp_path)
    with pytest.raises(InputError, match="tracker must be one of none, tensorboard"):
        tracker("mlflow", "example", tmp_path)
    assert tracker("none", "example", tmp_path) is None


def test_unknown_name_names_the_nearest():
    with pytest.raises(InputError, match=r"got 'mons' \(did you mean 'moons'\?\)"):
        require_name("task", "mons", ["moons", "circles"])
