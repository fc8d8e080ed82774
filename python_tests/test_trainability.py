import dataclasses
import json
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from kills import killing_at, processes, run_until_killed
from pictures import assert_no_text_runs_off
from PIL import Image

from fractalkern import memory, train_sweep
from fractalkern.errors import BackendError, InputError
from fractalkern.experiments import settings
from fractalkern.experiments.trainability import figures, report, training
from fractalkern.experiments.trainability import run as run_module
from fractalkern.experiments.trainability.config import Condition, TrainabilityConfig, quick
from fractalkern.experiments.trainability.data import shared
from fractalkern.experiments.trainability.figures import restretch
from fractalkern.experiments.trainability.findings import find
from fractalkern.experiments.trainability.run import run
from fractalkern.experiments.trainability.training import axes
from fractalkern.sweeps.store import Store

TINY = TrainabilityConfig(width=4, steps=20, resolution=20, tile_rows=1)
TIMES = {"seconds", "compute_seconds", "network_steps_per_second"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run and what it printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run(TINY, out)


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than computing a tiny grid."""
    monkeypatch.setattr(run_module.figures, "fractal", lambda *_: b"")
    monkeypatch.setattr(run_module.figures, "dimension", lambda *_: b"")


def grid(out):
    return safetensors.torch.load_file(out / "grid.safetensors")


def summary(out):
    return json.loads((out / "summary.json").read_text())


def timeless(out):
    return {key: value for key, value in summary(out).items() if key not in TIMES}


def test_run_folder_holds_what_is_promised(finished):
    out, text = finished
    arrays = grid(out)
    assert {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()} == {
        "value": (torch.float64, (20, 20)),
        "converged": (torch.bool, (20, 20)),
        "final_loss": (torch.float64, (20, 20)),
        "steps_run": (torch.int64, (20, 20)),
        "axis0": (torch.float64, (20,)),
        "axis1": (torch.float64, (20,)),
    }
    numbers = summary(out)
    assert numbers["converged_fraction"] == arrays["converged"].double().mean().item()
    assert 0.9 < numbers["dimension"] < 1.3
    assert numbers["dimension_estimate"]["slope_stderr"] > 0
    assert abs(numbers["control_dimension"] - 1) < 0.05
    assert numbers["seconds"] > numbers["compute_seconds"] > 0
    rate = 400 * 20 / numbers["compute_seconds"]
    assert numbers["network_steps_per_second"] == pytest.approx(rate)
    environment = json.loads((out / "environment.json").read_text())
    assert {"fractalkern", "torch", "build", "threads", "commit"} <= environment.keys()
    assert settings.from_toml(TrainabilityConfig(), out / "config.toml") == TINY
    assert f"D = {numbers['dimension']:.3f} (the slope of the counts, without an interval)" in text
    assert text.count("interval:") == 1
    assert "; no honest interval: it needs at least 64 cells a side" in text
    assert f"{numbers['control_dimension']:.3f}" in text
    assert "fractal.png" in text
    assert "Philox4x32-10 keyed by --seed 0" in text
    assert "width 4 (16), steps 20 (500 or 1,000), resolution 20 (4,096)" in text


def test_report_claims_only_the_settings_that_are_the_originals():
    def deviations(**change):
        return report.deviations(dataclasses.replace(TrainabilityConfig(), **change))

    rule = "runs whose last losses are not all finite count as diverged"
    assert deviations() == ["resolution 512 (4,096)", rule]
    assert deviations(resolution=4096, steps=1000, protocol="published") == []
    assert deviations(resolution=4096, condition="init-offset") == [
        "the offset is added only once",
        rule,
    ]
    assert deviations(resolution=4096, protocol="published", dtype="float32", minibatch=3) == [
        "dtype float32 (float64)"
    ]
    options = {"condition": "tanh-minibatch", "resolution": 4096, "protocol": "published"}
    assert deviations(**options, minibatch=3) == ["minibatch 3 (16)"]


@pytest.mark.parametrize(("name", "width"), [("fractal.png", 2000), ("dimension.png", 1600)])
def test_pictures_are_large_and_not_blank(finished, name, width):
    with Image.open(finished[0] / name) as picture:
        assert picture.width >= width
        assert picture.convert("RGB").resize((50, 50)).getcolors(maxcolors=10) is None


WINDOWS = {
    "first view": (-3.0, 6.0, -3.0, 6.0),
    "deep zoom": (1.2345678901, 1.2345678902, 2.0000000000001, 2.0000000000002),
    "about zero": (-0.001, 0.001, -0.001, 0.001),
    "wide": (-300.0, 300.0, -300.0, 300.0),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_no_text_runs_off_the_picture(window):
    config = TrainabilityConfig(
        condition="init-offset-published",
        resolution=48,
        window=WINDOWS[window],
        seed=2**64 - 1,
    )
    value = torch.arange(48.0).expand(48, 48) - 23.5
    found = find(value, value < 0, config.seed)
    assert_no_text_runs_off(figures.fractal(config, value, found), edge=6)
    assert_no_text_runs_off(figures.dimension(config, found), edge=6)


def test_ticks_are_round_powers_of_ten():
    positions, labels, unit = figures.ticks(-3.0, 6.0)
    assert positions == list(range(-3, 7))
    assert (labels[0], labels[3], unit) == ("$10^{-3}$", "$10^{0}$", "")
    positions, labels, unit = figures.ticks(-0.05, 0.06)
    assert labels == [f"$10^{{{i / 50:.2f}}}$" for i in range(-2, 4)]
    # Too narrow to write the powers: steps from the lower end.
    positions, labels, unit = figures.ticks(2.0000001, 2.0000003)
    assert labels == ["0", "5", "10", "15", "20"]
    assert positions == pytest.approx([2.0000001 + i * 5e-8 for i in range(5)], abs=1e-14)
    assert "x = 2.0000001 + t \\times 10^{-8}" in unit


def test_row_is_the_second_axis_and_column_the_first(finished):
    arrays, data = grid(finished[0]), shared(TINY)
    lr0, lr1 = arrays["axis0"][7:8], arrays["axis1"][3:4]
    cell = train_sweep(data.x, data.y, data.w0, data.w1, lr0, lr1, steps=20)
    assert arrays["value"][3, 7] == cell.value[0]
    assert arrays["final_loss"][3, 7] == cell.final_loss[0]


def test_axes_are_log_spaced_with_both_ends():
    first, second = axes(dataclasses.replace(TINY, window=(-3.0, 6.0, -1.0, 0.5)))
    assert (first[0], first[-1]) == (1e-3, 1e6)
    assert (second[0], second[-1]) == (10**-1.0, 10**0.5)
    assert first.dtype == torch.float64


CONDITIONS = {
    "tanh": (20, {}),
    "relu": (20, {"activation": "relu"}),
    "linear": (4, {"activation": "identity"}),
    "tanh-single": (1, {}),
    "tanh-minibatch": (20, {"batches": (20, 16)}),
    "init-offset": (20, {"offset_every_step": False}),
    "init-offset-published": (20, {"offset_every_step": True}),
}


def test_every_condition_is_tested():
    assert set(CONDITIONS) == set(Condition.__args__)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_condition_trains_what_it_says(condition, dtype, monkeypatch):
    rows, expected = CONDITIONS[condition]
    config = dataclasses.replace(TINY, condition=condition, dtype=dtype).checked()
    calls = []

    def spy(*arguments, **options):
        calls.append((arguments, options))
        return train_sweep(*arguments, **options)

    monkeypatch.setattr(training, "train_sweep", spy)
    tile = training.tile_trainer(config)(training.Tile(0, 8, 10))
    ((x, y, w0, w1, lr0, lr1), options) = calls[0]
    assert (x.shape, y.shape, w0.shape, w1.shape) == ((rows, 4), (rows, 1), (4, 4), (4, 1))
    assert {tensor.dtype for tensor in (x, y, w0, w1, lr0, lr1)} == {getattr(torch, dtype)}
    assert options["activation"] == expected.get("activation", "tanh")
    first, second = (axis.to(lr1.dtype) for axis in axes(config))
    assert torch.equal(lr1, second[8:10].repeat_interleave(20))
    if "offset_every_step" in expected:
        assert torch.equal(lr0, lr1)
        assert torch.equal(options["offset"], first.repeat(2))
        assert options["offset_every_step"] == expected["offset_every_step"]
    else:
        assert options["offset"] is None
        assert torch.equal(lr0, first.repeat(2))
    if "batches" in expected:
        assert options["batches"].shape == expected["batches"]
        assert options["batches"].min() >= 0
        assert options["batches"].max() < rows
    else:
        assert options["batches"] is None
    assert tile["value"].shape == (2, 20)


def test_degenerate_boundary_has_no_number_but_a_reason(tmp_path):
    config = dataclasses.replace(TINY, window=(-3.0, -2.0, -3.0, -2.0))
    text = run(config, tmp_path / "run")
    numbers = summary(tmp_path / "run")
    assert numbers["dimension"] is None
    assert numbers["dimension_estimate"] is None
    assert "so there is no boundary" in numbers["dimension_missing_because"]
    assert numbers["boundary_cells"] == 0
    assert numbers["control_dimension"] == pytest.approx(1, abs=0.05)
    assert "dimension   none: " in text


def test_infinite_value_does_not_hide_the_boundary():
    side = torch.arange(32.0, dtype=torch.float64).expand(32, 32) - 15.5
    value = torch.where(side > 10, torch.inf, side)
    findings = find(value, value < 0, seed=0)
    assert findings.boundary_cells == 31
    assert findings.dimension.dimension == pytest.approx(1.0, abs=0.03)


def test_restretch_ranks_each_sign_over_its_range():
    value = np.array([[-1e9, -3.0, -2.0], [1.0, 2.0, 2.0], [50.0, np.inf, -2.5]])
    stretched = restretch(value)
    assert stretched[0].tolist() == [-1.0, -0.75, -0.25]
    assert stretched[2, 2] == -0.5
    assert stretched[1, 1] == stretched[1, 2]
    assert (stretched.min(), stretched.max()) == (-1.0, 1.0)
    assert stretched[1, 0] == 0.25
    assert restretch(np.array([[-1.0, -1.0]])).tolist() == [[-0.625, -0.625]]
    assert restretch(np.array([[5.0]])).shape == (1, 1)


# Kills.


def _sitting(out, log, kill_at=None, pause=0.0):
    """Runs TINY in `out`, logs each computed tile, and kills itself at the given event."""
    counted = killing_at(kill_at)

    def logged(*arguments, **options):
        with open(log, "a") as file:
            file.write("tile\n")
        time.sleep(pause)
        return train_sweep(*arguments, **options)

    os.fsync = counted(os.fsync)
    os.replace = counted(os.replace)
    Store._record_time = counted(Store._record_time)
    training.train_sweep = logged
    run(TINY, Path(out))


def _recorded(out):
    with Store(out, "trainability", run_module.identity(TINY)) as store:
        assert store.damaged == []
        return store.finished()


def test_killed_at_any_write_it_goes_on_to_the_same_bytes(tmp_path, finished, no_figures):
    out, log = tmp_path / "run", tmp_path / "log"
    finished_before, kills = set(), 0
    # Every write of a sitting's beginning and of its first tiles, then some later ones.
    for kill_at in [*range(1, 14), 22, 35]:
        run_until_killed(_sitting, str(out), str(log), kill_at)
        kills += 1
        if out.exists():
            now = _recorded(out)
            assert now >= finished_before
            finished_before = now
    assert finished_before
    text = run(TINY, out)
    assert "network-steps/s" in text
    assert (out / "grid.safetensors").read_bytes() == (
        finished[0] / "grid.safetensors"
    ).read_bytes()
    assert timeless(out) == timeless(finished[0])
    in_children = log.read_text().count("tile") if log.exists() else 0
    assert in_children <= len(finished_before) + kills


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(tmp_path, finished, no_figures):
    out, log = tmp_path / "run", tmp_path / "log"
    moments, counts = random.Random(0), []
    for _ in range(8):
        child = processes().Process(target=_sitting, args=(str(out), str(log), None, 0.03))
        child.start()
        while not log.exists():  # until the first sitting is computing
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.3))
        child.kill()
        child.join(60)
        counts.append(len(_recorded(out)))
    assert counts == sorted(counts)
    assert any(0 < count < 20 for count in counts)
    assert log.read_text().count("tile") <= counts[-1] + len(counts)
    run(TINY, out)
    assert (out / "grid.safetensors").read_bytes() == (
        finished[0] / "grid.safetensors"
    ).read_bytes()
    assert timeless(out) == timeless(finished[0])


def test_damaged_tile_is_named_and_only_it_computed_again(
    finished, tmp_path, monkeypatch, capsys, no_figures
):
    out = tmp_path / "run"
    run(TINY, out)
    before = summary(out)["seconds"]
    tile = out / "tiles" / "00003.safetensors"
    tile.write_bytes(tile.read_bytes()[:100])
    calls = []

    def spy(*arguments, **options):
        calls.append(arguments)
        return train_sweep(*arguments, **options)

    monkeypatch.setattr(training, "train_sweep", spy)
    capsys.readouterr()
    run(TINY, out)
    assert len(calls) == 1
    assert f"tile 3 ({tile}) is corrupt or truncated; computing it again" in capsys.readouterr().err
    assert (out / "grid.safetensors").read_bytes() == (
        finished[0] / "grid.safetensors"
    ).read_bytes()
    assert summary(out)["seconds"] > before


def test_tile_size_and_threads_do_not_change_the_results(finished, tmp_path, no_figures):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run(dataclasses.replace(TINY, tile_rows=7), tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    expected = grid(finished[0])
    assert all(torch.equal(array, expected[name]) for name, array in grid(tmp_path / "run").items())


@pytest.mark.parametrize("condition", ["tanh", "init-offset"])
def test_a_costly_tile_is_trained_in_several_calls(condition, monkeypatch):
    config = dataclasses.replace(TINY, condition=condition)
    tile, sizes = training.Tile(0, 3, 6), []

    def spy(*arguments, **options):
        sizes.append(len(arguments[4]))
        return train_sweep(*arguments, **options)

    monkeypatch.setattr(training, "train_sweep", spy)
    whole = training.tile_trainer(config)(tile)
    monkeypatch.setattr(training, "_LEAST_PER_CALL", 16)
    monkeypatch.setitem(training._WORK_PER_CALL, "cpu", 0)
    parts = training.tile_trainer(config)(tile)
    assert sizes == [60, 16, 16, 16, 12]
    assert all(np.array_equal(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 0}, "width"),
        ({"steps": 0}, "steps"),
        ({"steps": 2**63}, "steps"),
        ({"resolution": 16}, "resolution"),
        ({"tile_rows": 0}, "tile_rows"),
        ({"minibatch": -1}, "minibatch"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"window": (6.0, -3.0, -3.0, 6.0)}, "window"),
        ({"window": (-3.0, 6.0, 1.0, 1.0)}, "window"),
        ({"window": (-3.0, float("nan"), -3.0, 6.0)}, "window"),
        ({"window": (-3.0, 6.0, -3.0, 1000.0)}, "window"),
        ({"window": (0.0, 1e-16, -3.0, 6.0)}, "window"),
        ({"window": (0.0, 1e-7, -3.0, 6.0), "dtype": "float32"}, "window"),
        ({"resolution": 10_000_000}, "resolution and width"),
        ({"width": 100_000}, "resolution and width"),
        (
            {"condition": "tanh-minibatch", "minibatch": 10**12},
            "resolution, width, steps and minibatch",
        ),
    ],
)
def test_bad_setting_is_named(change, named):
    with pytest.raises(InputError, match=f"^{named} must") as error:
        dataclasses.replace(TINY, **change).checked()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_missing_is_one_sentence():
    with pytest.raises(BackendError, match=r"^device must be cpu here, got cuda: \S.*\S$"):
        dataclasses.replace(TINY, device="cuda").checked()


@pytest.fixture
def card(monkeypatch):
    """Puts a card of that many multiprocessors and bytes in this machine's place."""

    def insert(multiprocessors, memory):
        found = SimpleNamespace(multi_processor_count=multiprocessors, total_memory=memory)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)

    return insert


def test_tiles_are_sized_for_the_card(card):
    small = TrainabilityConfig(resolution=64, device="cuda")
    large = TrainabilityConfig(resolution=4096, device="cuda")
    card(132, 80 * 2**30)
    assert small.tile_count == 1
    assert (large.rows_per_tile, large.tile_count) == (33, 125)
    card(66, 80 * 2**30)
    assert large.rows_per_tile == 17
    card(132, 2**20)  # no room for more than 5,461 networks
    assert large.rows_per_tile == large.tile_rows
    assert small.rows_per_tile == 86
    assert TrainabilityConfig(resolution=4096).rows_per_tile == 4


def test_calls_on_a_card_keep_it_busy_and_hear_an_interrupt(card):
    card(132, 80 * 2**30)
    quick_one = TrainabilityConfig(steps=1, device="cuda")
    slow_one = TrainabilityConfig(steps=10**6, device="cuda")
    assert training.networks_of_a_call(quick_one) > quick_one.rows_per_tile * quick_one.resolution
    assert training.networks_of_a_call(slow_one) == 2 * 132 * 64
    card(10, 80 * 2**30)
    assert training.networks_of_a_call(slow_one) == 2 * 10 * 64


def test_memory_refusal_says_what_it_would_need(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    with pytest.raises(InputError, match=r"need 121 MiB and 1 MiB are available"):
        dataclasses.replace(TrainabilityConfig(), resolution=1024).checked()


def test_toml_round_trip(tmp_path):
    path = tmp_path / "config.toml"
    config = dataclasses.replace(
        quick(TrainabilityConfig()), window=(-1e-7, 2.5, -3.0, 1e16), condition="linear"
    )
    path.write_text(settings.to_toml(config))
    assert settings.from_toml(TrainabilityConfig(), path) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepz = 3", "config must have only the keys condition, .* has 'stepz'"),
        ("steps = 2.5", "steps must be of type int, got 2.5"),
        ("steps = true", "steps must be of type int, got True"),
        ("window = [1, 2]", "window must be a list of 4 values, got"),
        ('window = [1, 2, 3, "x"]', "window must be of type float, got 'x'"),
        ('dtype = "float16"', "dtype must be one of float64, float32, got 'float16'"),
        ("steps = ", "config must be TOML, but "),
        ("seed = 1\nseed = 2", "config must be TOML, but "),
    ],
)
def test_bad_toml_is_one_sentence(tmp_path, text, named):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{named}") as error:
        settings.from_toml(TrainabilityConfig(), path)
    assert "\n" not in str(error.value)


def test_integers_in_a_window_mean_the_same_run(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("window = [-3, 6, -3, 6]")
    read = settings.from_toml(TrainabilityConfig(), path)
    assert settings.to_toml(read) == settings.to_toml(TrainabilityConfig())
