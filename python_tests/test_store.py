import errno
import fcntl
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fractalkern.errors import InputError
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.grid import log_axis, tile_count, tiles
from fractalkern.sweeps.progress import Meter, display, short
from fractalkern.sweeps.runner import run_tiles
from fractalkern.sweeps.store import Store

SETTINGS = {"steps": 500, "window": (-3.0, 6.0), "name": "a"}


def arrays(number):
    return {"value": np.full((2, 3), number, dtype=np.float64), "done": np.array([True, False])}


def fill(folder, count=4):
    with Store(folder, "demo", SETTINGS) as store:
        for number in range(count):
            store.commit(number, arrays(number), seconds=0.5)


def one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("out must ")
    return message


def test_committed_tiles_are_found_again(tmp_path):
    fill(tmp_path / "run")
    with Store(tmp_path / "run", "demo", SETTINGS) as store:
        assert store.finished() == {0, 1, 2, 3}
        assert store.damaged == []
        assert store.compute_seconds() == 2.0
        for number in range(4):
            loaded = store.load(number)
            assert loaded.keys() == arrays(number).keys()
            for name, expected in arrays(number).items():
                assert loaded[name].dtype == expected.dtype
                assert np.array_equal(loaded[name], expected)


def test_strided_arrays_are_kept_as_they_read(tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    strided = {
        "slice": grid[:, :2],
        "transposed": grid.T,
        "broadcast": np.broadcast_to(np.float64(3.9), (4, 1)),
        "scalar": np.array(2.5),
    }
    with Store(tmp_path, "demo", SETTINGS) as store:
        store.commit(0, strided, seconds=0.5)
        for name, array in store.load(0).items():
            assert array.shape == strided[name].shape
            assert np.array_equal(array, strided[name])


def test_seconds_add_up_over_sittings(tmp_path):
    fill(tmp_path)
    with Store(tmp_path, "demo", SETTINGS) as store:
        first = store.seconds()
    with Store(tmp_path, "demo", SETTINGS) as store:
        assert store.seconds() > first > 0


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "corrupt"),
        (lambda path: path.unlink(), "missing"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
    ids=["truncated", "empty", "altered", "missing", "folder"],
)
def test_damaged_tile_is_named_and_only_it_forgotten(tmp_path, harm, word):
    fill(tmp_path)
    harm(tmp_path / "tiles" / "00002.safetensors")
    with Store(tmp_path, "demo", SETTINGS) as store:
        assert store.finished() == {0, 1, 3}
        (damage,) = store.damaged
        assert "tile 2 " in damage
        assert "00002.safetensors" in damage
        assert word in damage
    with Store(tmp_path, "demo", SETTINGS) as store:
        assert store.damaged == []


def test_tile_damaged_while_open_is_not_loaded(tmp_path):
    with Store(tmp_path, "demo", SETTINGS) as store:
        store.commit(0, arrays(0), seconds=0.0)
        store.path(0).write_bytes(b"nothing")
        with pytest.raises(InputError, match=r"tile 0 .* is corrupt or truncated"):
            store.load(0)


def test_time_that_cannot_be_recorded_is_a_sentence(tmp_path):
    with Store(tmp_path, "demo", SETTINGS) as store:
        store.commit(0, arrays(0), seconds=0.0)
        store._database.execute("PRAGMA query_only = ON")  # as a full disk, which is hard to have
        with pytest.raises(InputError, match=r"state\.sqlite: attempt to write"):
            store.seconds()


def test_file_without_a_record_is_not_finished(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "tiles" / "00001.safetensors").write_bytes(b"half a tile")
    with Store(tmp_path, "demo", SETTINGS) as store:
        assert store.finished() == {0}
        store.commit(1, arrays(1), seconds=0.0)
        assert np.array_equal(store.load(1)["value"], arrays(1)["value"])


def test_changed_settings_are_refused_with_the_difference(tmp_path):
    fill(tmp_path)
    asked = {"steps": 100, "window": (-3.0, 7.0), "name": "a", "new": 1}
    with pytest.raises(InputError) as error:
        Store(tmp_path, "demo", asked)
    message = one_sentence(error)
    assert "(steps: 500 -> 100, window: [-3.0, 6.0] -> [-3.0, 7.0], new: absent -> 1)" in message


def test_folder_of_another_experiment_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(InputError) as error:
        Store(tmp_path, "other", SETTINGS)
    assert "holds a run of demo, not of other" in one_sentence(error)


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(InputError) as error:
        Store(tmp_path, "demo", SETTINGS)
    assert "thesis.tex" in one_sentence(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(InputError) as error:
        Store(path, "demo", SETTINGS)
    assert "is a file" in one_sentence(error)
    with pytest.raises(InputError) as error:
        Store(path / "below", "demo", SETTINGS)
    assert "Not a directory" in one_sentence(error)


def test_folder_that_cannot_be_made_is_refused():
    with pytest.raises(InputError) as error:
        Store(Path("/proc/fractalkern/run"), "demo", SETTINGS)  # even root cannot make it
    assert "No such file or directory" in one_sentence(error)


def test_second_process_on_a_folder_is_refused(tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError) as error:
            Store(tmp_path, "demo", SETTINGS)
    assert "no other process" in one_sentence(error)
    Store(tmp_path, "demo", SETTINGS).close()


def test_beginning_of_a_killed_process_is_taken_over(tmp_path):
    for name in (".lock", "state.sqlite"):
        (tmp_path / name).touch()
    with Store(tmp_path, "demo", SETTINGS) as store:
        assert store.finished() == set()


def test_state_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "state.sqlite").write_bytes(b"not a database, at some length" * 100)
    with pytest.raises(InputError) as error:
        Store(tmp_path, "demo", SETTINGS)
    assert "state.sqlite" in one_sentence(error)


def test_state_without_a_run_is_refused(tmp_path):
    Store(tmp_path, "demo", SETTINGS).close()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as database, database:
        database.execute("DELETE FROM run")
    with pytest.raises(InputError) as error:
        Store(tmp_path, "demo", SETTINGS)
    assert "state.sqlite: it does not say which run it is of" in one_sentence(error)


def test_failed_write_keeps_the_old_file_and_says_why(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as error:
        write_atomically(path, b"new")
    assert "No space left on device" in one_sentence(error)
    assert path.read_bytes() == b"old"


def test_failed_commit_leaves_the_tile_unfinished(tmp_path, monkeypatch):
    with Store(tmp_path, "demo", SETTINGS) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store, "_record_time", _no_room)
            with pytest.raises(InputError, match="disk is full"):
                store.commit(0, arrays(0), seconds=0.0)
        assert store.finished() == set()
        store.commit(0, arrays(0), seconds=0.0)
        assert store.finished() == {0}


def _no_room():
    raise sqlite3.OperationalError("database or disk is full")


def test_runner_computes_only_what_is_missing(tmp_path, capsys):
    fill(tmp_path, 2)
    computed = []

    def compute(tile):
        computed.append(tile.index)
        return arrays(tile.index)

    with Store(tmp_path, "demo", SETTINGS) as store, display("demo", Meter(28, 16, 5)) as shown:
        run_tiles(store, tiles(7, 2), compute, 4, shown)
        assert store.finished() == {0, 1, 2, 3}
    assert computed == [2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "demo: 16 of 28 cells"
    assert lines[-1].startswith("demo: 28 of 28 cells, ")
    assert "network-steps/s" in lines[-1]
    assert lines[-1].endswith("0:00 left")


@pytest.mark.parametrize("colour", [True, False])
def test_bar_only_on_a_terminal_that_wants_one(monkeypatch, capsys, colour):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    with display("demo", Meter(10, 0, 5)) as shown:
        shown.note("a [note]")
        shown.advance(10)
    printed = capsys.readouterr().err
    assert ("\x1b" in printed) == colour
    assert "a [note]" in printed
    assert "10 of 10 cells" in printed


def test_bar_of_the_largest_grid_fits_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    meter = Meter(4096**2, 0, 500)
    meter._started -= 36000.0
    with display("trainability init-offset-published", meter) as shown:
        shown.advance(12_345_678)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).splitlines()[-1]
    assert "12,345,678 of 16,777,216 cells, 171k network-steps/s, 3:35:" in last
    assert last.rstrip().endswith(" left")
    assert len(last.rstrip()) <= 80
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 5 in last


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.14159, "3.14"), (999.4, "999"), (999.6, "1k"), (592141, "592k"), (2e9, "2G")],
)
def test_rates_have_three_digits_and_a_unit(number, text):
    assert short(number) == text


@pytest.mark.parametrize(("rows", "height"), [(1, 1), (7, 2), (8, 4), (5, 9)])
def test_tiles_cover_every_row_once(rows, height):
    parts = list(tiles(rows, height))
    assert [row for tile in parts for row in range(tile.start, tile.stop)] == list(range(rows))
    assert [tile.index for tile in parts] == list(range(tile_count(rows, height)))


def test_log_axis_has_its_ends_and_even_steps():
    axis = log_axis(-3.0, 6.0, 10)
    assert axis.tolist() == [10.0**exponent for exponent in range(-3, 7)]
    assert log_axis(-0.1, 0.3, 7)[[0, -1]].tolist() == [10.0**-0.1, 10.0**0.3]
