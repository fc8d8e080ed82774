import dataclasses
import itertools
import json
import math
import os
import statistics
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from kills import killing_at, run_until_killed
from matplotlib.figure import Figure
from PIL import Image

from fractalkern.cli import main
from fractalkern.commands import animate as commands_animate
from fractalkern.dimension import estimate_dimension
from fractalkern.edges import boundary
from fractalkern.errors import InputError
from fractalkern.experiments.settings import from_toml
from fractalkern.experiments.trainability import training
from fractalkern.experiments.trainability.config import Condition
from fractalkern.experiments.zoom import figures, report, table
from fractalkern.experiments.zoom import frames as frames_module
from fractalkern.experiments.zoom import measure as measure_module
from fractalkern.experiments.zoom import run as run_module
from fractalkern.experiments.zoom.config import ZoomConfig, quick
from fractalkern.experiments.zoom.frames import Frame, frame_path, load_path
from fractalkern.experiments.zoom.measure import Measured, measure
from fractalkern.experiments.zoom.rounding import flipped
from fractalkern.experiments.zoom.run import Level, Zoom, run, zoom
from fractalkern.experiments.zoom.windows import (
    about_final,
    densest_window,
    random_window,
    smaller_side,
)
from fractalkern.scaling import joint_dimension
from fractalkern.sweeps.store import Store

TINY = ZoomConfig(
    width=4, steps=20, resolution=24, paths=2, levels=2, factor=3.0, tile_rows=8, flips_sample=16
)
FIRST = (-3.0, 6.0, -3.0, 6.0)


@pytest.fixture(scope="module", autouse=True)
def without_nulls():
    """A null of 199 draws for each tiny frame would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "estimate_dimension", partial(estimate_dimension, null=None))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted zoom and what it printed."""
    out = tmp_path_factory.mktemp("zoom") / "run"
    return out, run(TINY, out)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(run_module.figures, "overview", lambda *_: b"")


def results(out):
    return json.loads((out / "results.json").read_text())


def inside(inner, outer):
    return all(
        outer[i] <= inner[i] < inner[i + 1] <= outer[i + 1] + 1e-12 * abs(outer[i + 1])
        for i in (0, 2)
    )


def test_folder_holds_what_is_promised(finished):
    out, text = finished
    found = results(out)
    places = [(frame["path"], frame["level"]) for frame in found["frames"]]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
    for path, level in places:
        arrays = safetensors.torch.load_file(frame_path(out, path, level))
        assert {name: tuple(array.shape) for name, array in arrays.items()} == {
            "value": (24, 24),
            "converged": (24, 24),
            "axis0": (24,),
            "axis1": (24,),
        }
    assert len(list((out / "frames").iterdir())) == 5
    assert from_toml(ZoomConfig(), out / "config.toml") == TINY
    assert "2 random paths" in text
    assert "level      width" in text
    with Image.open(out / "zoom.png") as picture:
        assert picture.width > 1500
        assert picture.convert("RGB").resize((50, 50)).getcolors(maxcolors=10) is None


def test_a_frame_is_the_grid_of_its_window(finished):
    out, _ = finished
    for frame in load_path(out, 1):
        config = TINY.view(frame.window)
        grid = training.tile_trainer(config)(training.Tile(0, 0, 24))
        assert (frame.value.numpy() == grid["value"]).all()
        assert (frame.converged.numpy() == grid["converged"]).all()


def test_results_follow_from_the_frames(finished):
    out, _ = finished
    found = results(out)
    by_place = {(frame["path"], frame["level"]): frame for frame in found["frames"]}
    for path in (0, 1):
        frames = load_path(out, path)
        for outer, inner in itertools.pairwise(frames):
            assert inside(inner.window, outer.window)
            assert smaller_side(inner.window) == pytest.approx(smaller_side(outer.window) / 3)
        for frame in frames:
            entry = by_place[0 if frame.level == 0 else path, frame.level]
            assert tuple(entry["window"]) == frame.window
            assert entry["converged_fraction"] == frame.converged.double().mean().item()
            assert entry["measured"]["boundary_cells"] == int(boundary(frame.converged).sum())
            ours = entry["measured"]["dimension"]
            if ours is not None:
                assert ours == float(estimate_dimension(frame.converged, null=None))
    for level in (1, 2):
        row = found["levels"][level]
        entries = [by_place[path, level] for path in (0, 1)]
        used = [entry["measured"] for entry in entries if entry["trusted"]]
        dimensions = [m["dimension"] for m in used if m["dimension"] is not None]
        assert row["used"] == len(dimensions)
        if len(dimensions) == 2:
            assert row["dimension"] == pytest.approx(statistics.mean(dimensions))
            # Student's quantile of one degree of freedom is 12.706.
            half = 12.7062 * abs(dimensions[0] - dimensions[1]) / 2
            if half == 0:  # both paths took the same cell
                assert row["low"] is row["high"] is None
            else:
                assert row["high"] - row["dimension"] == pytest.approx(half, rel=1e-4)
            slopes = [s for m in used for s in m["published_slopes"]]
            assert row["published"] == statistics.median(slopes)
    assert found["levels"][0]["low"] is None


def _zoom_with(measured):
    """A path whose frames were measured so; nothing is computed."""
    levels = [
        Level(0, i, FIRST, 0.5, each, flipped=0.0, trusted=True) for i, each in enumerate(measured)
    ]
    return Zoom(TINY, tuple(levels), {}, compute_seconds=0.0, seconds=0.0)


def test_frames_with_an_interval_are_fitted_together(tmp_path):
    frames = [
        Measured(100, dimension=d, stderr=0.05, ci_low=d - 0.1, ci_high=d + 0.1)
        for d in (1.2, 1.4, 1.6)
    ]
    found = _zoom_with([*frames, Measured(100, dimension=1.9, stderr=0.001)])
    content, text = report.results(found), report.text(found, tmp_path)
    expected = joint_dimension(torch.tensor([1.2, 1.4, 1.6]), torch.full((3,), 0.05))
    assert content["joint_fit"] == pytest.approx(dataclasses.asdict(expected))
    assert content["no_joint_fit_because"] is None
    assert "D, all frames together: 1.400, 95 % interval 0.903 to 1.897" in text
    assert (
        "they differ by 0.194 beyond their errors (p = 0.000 under one dimension for all)" in text
    )
    assert "from the 3 frames that have an interval of their own" in text


@pytest.mark.parametrize("lacking", [0, 3])
def test_too_few_intervals_give_no_joint_fit(lacking, tmp_path):
    one = Measured(100, dimension=1.2, stderr=0.05, ci_low=1.1, ci_high=1.3)
    none = Measured(100, dimension=1.9, stderr=0.001)
    found = _zoom_with([one] * (1 if lacking == 0 else 2) + [none] * lacking)
    count = len(found.levels)
    reason = f"{count - lacking} of {count} frames with a dimension have an interval of their own"
    content = report.results(found)
    assert (content["joint_fit"], content["no_joint_fit_because"]) == (None, reason)
    text = report.text(found, tmp_path)
    assert f"D, all frames together: no honest interval, because {reason}" in text


def test_measure_by_both_estimators():
    half_plane = torch.arange(129).expand(129, 129) < 40
    found = measure(half_plane)
    assert found.dimension == pytest.approx(1.0, abs=0.01)
    slopes = estimate_dimension(half_plane, estimator="sohl-dickstein").local_slopes
    assert found.published_slopes == pytest.approx([float(slope) for slope in slopes])
    assert found.published_dimension == pytest.approx(statistics.median(found.published_slopes))
    assert measure(torch.ones(40, 40, dtype=torch.bool)).missing_because == "no boundary"
    speck = torch.zeros(400, 400, dtype=torch.bool)
    speck[7, 7] = True
    assert measure(speck).missing_because == "the boundary has only 4 cells"


def test_measure_keeps_interval_and_null(monkeypatch):
    monkeypatch.setattr(measure_module, "estimate_dimension", estimate_dimension)
    found = measure(torch.arange(129).expand(129, 129) < 40)
    assert found.ci_low <= 1.0 <= found.ci_high
    assert 0.05 < found.p_value <= 1
    noise = measure(torch.rand(129, 129, generator=torch.Generator().manual_seed(0)) < 0.5)
    assert noise.p_value <= 0.01


# The rules.


def test_random_window_is_about_a_boundary_cell_each_equally_likely():
    edges = torch.zeros(23, 23, dtype=torch.bool)
    places = [(11, 7), (11, 8), (15, 15), (9, 14)]
    for row, column in places:
        edges[row, column] = True
    seen, draws = dict.fromkeys(places, 0), 400
    for path in range(draws):
        window = random_window(FIRST, edges, 3.0, seed=5, path=path, level=1)
        assert inside(window, FIRST)
        assert window[1] - window[0] == pytest.approx(3.0)
        column = ((window[0] + window[1]) / 2 + 3) / 9 * 23 - 0.5
        row = ((window[2] + window[3]) / 2 + 3) / 9 * 23 - 0.5
        seen[round(row), round(column)] += 1
        assert (row, column) == pytest.approx((round(row), round(column)), abs=1e-9)
    # Four standard errors of a quarter in 400 draws.
    assert all(abs(count / draws - 0.25) < 4 * math.sqrt(0.1875 / draws) for count in seen.values())


def test_random_window_stays_inside_and_holds_its_cell():
    for row, column in ((0, 0), (0, 22), (22, 0), (22, 11)):
        edges = torch.zeros(23, 23, dtype=torch.bool)
        edges[row, column] = True
        window = random_window(FIRST, edges, 4.0, seed=0, path=0, level=0)
        assert inside(window, FIRST)
        x, y = ((k + 0.5) / 23 * 9 - 3 for k in (column, row))
        assert window[0] <= x <= window[1]
        assert window[2] <= y <= window[3]


def test_paths_do_not_depend_on_how_many_there_are():
    edges = boundary(torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) < 0.5)
    windows = [
        random_window(FIRST, edges, 8.0, seed=1, path=path, level=level)
        for path in range(5)
        for level in range(5)
    ]
    assert len(set(windows)) > 20
    assert windows[7] == random_window(FIRST, edges, 8.0, seed=1, path=1, level=2)
    assert windows[7] != random_window(FIRST, edges, 8.0, seed=2, path=1, level=2)


def test_densest_window_is_found():
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(40, 40, generator=generator) < 0.1
    edges[24:34, 6:16] = True
    window = densest_window((0.0, 40.0, 0.0, 40.0), edges, 4.0)
    assert window == (6.0, 16.0, 24.0, 34.0)
    best = max(int(edges[r : r + 10, c : c + 10].sum()) for r in range(31) for c in range(31))
    assert best == 100


def test_window_path_is_the_originals_widening():
    final = (1.0, 1.5, 2.0, 3.0)
    path = about_final(final, 2.0)
    assert path[-1] == final
    assert [smaller_side(window) for window in path] == [8.0, 4.0, 2.0, 1.0, 0.5]
    assert all((w[0] + w[1], w[2] + w[3]) == (2.5, 5.0) for w in path)
    assert [w[3] - w[2] for w in path] == [16.0, 8.0, 4.0, 2.0, 1.0]


def test_window_path_ends_at_the_final_window(tmp_path, no_figures):
    config = dataclasses.replace(
        TINY, path="window", final_window=(1.0, 1.25, 0.5, 0.75), factor=5.0, levels=7
    )
    found = zoom(config, tmp_path / "run")
    assert [entry.window for entry in found.levels] == config.window_path()
    assert found.levels[-1].window == config.final_window
    assert len(found.levels) == 3 == config.frame_count


def test_densest_path_is_called_what_it_is(tmp_path, no_figures):
    text = run(dataclasses.replace(TINY, path="densest"), tmp_path / "run")
    assert "the greedy densest path, which biases D upwards" in text
    found = results(tmp_path / "run")
    assert [frame["path"] for frame in found["frames"]] == [0, 0, 0]


# Where a zoom ends.


@pytest.mark.parametrize(("dtype", "least"), [("float64", 1e-15), ("float32", 1e-7)])
def test_a_path_ends_where_rates_are_no_longer_distinct(dtype, least, tmp_path, no_figures):
    config = dataclasses.replace(
        TINY, paths=1, levels=40, factor=12.0, dtype=dtype, flips=1.0, flips_sample=1
    )
    found = zoom(config, tmp_path / "run")
    width = smaller_side(found.levels[-1].window)
    assert least < width < 1e6 * least
    unit = 2.0**-52 if dtype == "float64" else 2.0**-23
    assert width / 23 * math.log(10) > unit / 2
    reason = found.ends[0]
    if "there is no boundary" not in reason:
        assert f"ends at a width of {width:.3g} decades" in reason
        assert f"no longer distinct in {dtype}" in reason
    last = safetensors.torch.load_file(frame_path(tmp_path / "run", 0, len(found.levels) - 1))
    typed = last["axis0"].to(getattr(torch, dtype))
    assert (typed[1:] > typed[:-1]).all()


def test_a_path_ends_where_rounding_decides_the_labels(tmp_path, no_figures, monkeypatch):
    shares = iter([0.0, 0.05, 0.5])
    monkeypatch.setattr(run_module.FrameStore, "flipped_share", lambda *_: next(shares))
    found = zoom(dataclasses.replace(TINY, paths=1, levels=5), tmp_path / "run")
    assert [entry.trusted for entry in found.levels] == [True, True, False]
    width = smaller_side(found.levels[2].window)
    assert f"ends at a width of {width:.3g} decades: 50.0% of the labels" in found.ends[0]
    levels = results(tmp_path / "run")["levels"]
    assert levels[2]["used"] == 0
    assert levels[2]["dimension"] is None


def test_flips_are_those_of_one_unit_in_the_last_place(monkeypatch):
    config = TINY.view((1.0, 2.0, 0.0, 1.0))
    converged = torch.arange(24).expand(24, 24) < 10
    edges = boundary(converged)
    asked = []

    def trainer(_):
        def train(first, second):
            asked.append((first, second))
            return {"converged": np.ones(len(first), dtype=bool)}

        return train

    monkeypatch.setattr("fractalkern.experiments.zoom.rounding.cell_trainer", trainer)
    flips = flipped(config, converged, edges, 200)
    axis0, axis1 = training.axes(config)
    ((first, second),) = asked
    columns = [int(torch.where(torch.nextafter(axis0, axis0 * 2) == x)[0]) for x in first]
    rows = [int(torch.where(torch.nextafter(axis1, axis1 * 2) == y)[0]) for y in second]
    assert set(columns) == {9, 10}
    assert len(set(rows)) > 15
    assert flips.tolist() == [column == 10 for column in columns]


def test_a_calm_boundary_has_no_flips_and_the_last_digits_of_a_wild_one_do(tmp_path, no_figures):
    # Width 8 at 100 steps: two layers in the chaotic part of the first view.
    config = quick(ZoomConfig(paths=1, levels=12, factor=16.0, flips=0.05))
    config = dataclasses.replace(config, paths=1, levels=12, factor=16.0, flips=0.05)
    found = zoom(config, tmp_path / "run")
    shares = [entry.flipped for entry in found.levels if entry.flipped is not None]
    assert shares[0] < 0.05
    assert 0 in found.ends  # in float64 no path is 12 levels of a factor 16 deep


def test_a_view_without_boundary_ends_at_once(tmp_path, no_figures):
    found = zoom(dataclasses.replace(TINY, window=(-3.0, -2.0, -3.0, -2.0)), tmp_path / "run")
    assert len(found.levels) == 1
    assert "ends at a width of 1 decades: there is no boundary" in found.ends[0]
    assert found.levels[0].measured.missing_because == "no boundary"


# Kills.


def _sitting(out, kill_at):
    os.replace = killing_at(kill_at)(os.replace)
    measure_module.estimate_dimension = partial(estimate_dimension, null=None)
    run_module.figures.overview = lambda *_: b""
    run(TINY, Path(out))


def test_killed_it_goes_on_to_the_same_bytes(finished, tmp_path, no_figures):
    out, counts = tmp_path / "run", []
    for kill_at in (5, 7, 9, 12):
        run_until_killed(_sitting, str(out), kill_at)
        with Store(out, "zoom", run_module._identity(TINY)) as store:
            assert store.damaged == []
            counts.append(len(store.finished()))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] > 0
    run(TINY, out)
    for frame in sorted((finished[0] / "frames").iterdir()):
        assert (out / "frames" / frame.name).read_bytes() == frame.read_bytes()
    timed = {"seconds", "compute_seconds"}
    ours, theirs = results(out), results(finished[0])
    assert all(ours[key] == theirs[key] for key in theirs if key not in timed)


def never(*_):
    raise AssertionError("measured again")


def test_a_frame_is_measured_once(finished, tmp_path, no_figures, monkeypatch):
    """The frame that all paths share too, and none when a finished zoom is asked for again."""
    measured = []

    def counting(converged):
        measured.append(converged)
        return measure(converged)

    monkeypatch.setattr(frames_module, "measure", counting)
    assert run(TINY, tmp_path / "run")
    assert len(measured) == 5
    first = results(tmp_path / "run")
    monkeypatch.setattr(frames_module, "measure", never)
    run(TINY, tmp_path / "run")
    again = results(tmp_path / "run")
    timed = {"seconds", "compute_seconds"}
    assert all(again[key] == first[key] for key in first if key not in timed)


def test_what_was_measured_is_kept_to_the_last_bit():
    for labels in (torch.ones(40, 40).bool(), torch.arange(129).expand(129, 129) < 40):
        found = measure(labels)
        assert Measured.from_json(found.to_json()) == found


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.FrameStore, "frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path / "run")
    said = capsys.readouterr().err
    assert "Interrupted: 0 tiles are finished and kept. To go on: fractalkern zoom" in said


# Bad input.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factor": 1.0}, "factor must be a number above 1, got 1.0"),
        ({"factor": math.nan}, "factor must be a number above 1, got nan"),
        ({"factor": 13.0}, "factor must be at most half the resolution, 12, "),
        ({"levels": -1}, "levels must be from 0 to 1000, got -1"),
        ({"paths": 0}, "paths must be at least 1, got 0"),
        ({"flips": 1.5}, r"flips must lie in \[0, 1\], got 1.5"),
        ({"flips_sample": 0}, "flips_sample must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"resolution": 16}, "resolution must be at least 17"),
        ({"path": "window"}, "final_window must have LO0 < HI0 for a window path, got 0.0 and 0.0"),
        (
            {"path": "window", "final_window": (1.0, 2.0, 5.0, 7.0)},
            "final_window must lie inside window, -3 to 6 along axis 1, got 5.0 to 7.0",
        ),
        (
            {"path": "window", "final_window": (-3.0, 6.0, -3.0, 6.0)},
            "final_window must be at most 6 decades wide, got 9",
        ),
    ],
)
def test_bad_setting_is_one_sentence(change, said):
    with pytest.raises(InputError, match=f"^{said}") as error:
        dataclasses.replace(TINY, **change).checked()
    assert "\n" not in str(error.value)


def test_other_settings_are_refused_with_the_difference(finished, capsys):
    options = ["--config", str(finished[0] / "config.toml"), "--out", str(finished[0])]
    assert main(["zoom", *options, "--factor", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run with other settings (factor: 3.0 -> 5.0)" in line


def test_frames_of_other_settings_are_refused(finished, tmp_path):
    out = tmp_path / "run"
    (out / "frames").mkdir(parents=True)
    (out / "config.toml").write_text((finished[0] / "config.toml").read_text())
    with pytest.raises(InputError, match=r"^zoom must be the folder of a zoom with frames, but"):
        load_path(out, 0)
    name = "path00-level000.safetensors"
    data = (finished[0] / "frames" / name).read_bytes()
    (out / "frames" / name).write_bytes(data)
    assert len(load_path(out, 0)) == 1
    (out / "config.toml").write_text(
        (finished[0] / "config.toml").read_text().replace("seed = 0", "seed = 1")
    )
    with pytest.raises(InputError, match=r"level000.safetensors was computed with others$"):
        load_path(out, 0)
    (out / "frames" / name).write_bytes(data[:50])
    with pytest.raises(InputError, match=r"^zoom must hold readable frames, but"):
        load_path(out, 0)
    with pytest.raises(InputError, match=r"^path must be from 0 to 1, got 2"):
        load_path(out, 2)
    with pytest.raises(InputError, match=r"^zoom must be the folder of a zoom with frames, got"):
        load_path(tmp_path, 0)


def test_command_prints_its_settings(capsys, tmp_path):
    assert main(["zoom", "--quick", "--path", "densest", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "config.toml").write_text(text)
    expected = dataclasses.replace(quick(ZoomConfig()), path="densest")
    assert from_toml(ZoomConfig(), tmp_path / "config.toml") == expected


def test_a_thumbnail_has_at_most_512_cells_an_axis_spread_over_the_frame():
    value = torch.arange(1100.0).expand(1100, 1100)
    small = figures.thumbnail(Frame(0, 1, FIRST, value, value < 3))
    assert small.value.shape == small.converged.shape == (367, 367)
    assert small.value[0, :3].tolist() == [0.0, 3.0, 6.0]
    assert small.window == FIRST
    whole = Frame(0, 1, FIRST, value[:512, :512], value[:512, :512] < 3)
    assert torch.equal(figures.thumbnail(whole).value, whole.value)


# The table.

SMALL_TABLE = table.TableConfig(width=4, steps=(10,), resolutions=(24,), paths=2, levels=1)


def test_table_sets_the_published_dimensions():
    assert set(table.PUBLISHED) == set(Condition.__args__)
    numbers = sorted(number for number in table.PUBLISHED.values() if number is not None)
    assert numbers == [1.17, 1.20, 1.41, 1.55, 1.66, 1.98]
    assert table.PUBLISHED["tanh"] == 1.66
    paper = table.PAPER
    assert (paper.width, paper.steps, paper.resolutions) == (16, (500, 1000), (2048, 4096))
    assert paper.zooms(500, 2048, "tanh")[0].frame_count == 50


def test_table_runs_every_condition(tmp_path, no_figures, capsys):
    said = []
    text = table.run(SMALL_TABLE, tmp_path / "out", said.append)
    assert "35 frames, at most about" in said[0]  # 7 conditions of 1 + 2 and 1 + 1
    capsys.readouterr()
    written = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["condition"] for row in written["rows"]] == list(table.PUBLISHED)
    assert (tmp_path / "out" / "table.md").read_text() == text
    for row in written["rows"]:
        folder = tmp_path / "out" / f"{row['condition']}-10-24-random"
        found = results(folder)
        assert row["estimator_random"] == found["published_estimate_all_frames"]
        assert row["first_view"] == found["levels"][0]["dimension"]
        assert row["deepest"] == found["levels"][-1]["dimension"]
        assert f"| {row['condition']} |" in text


def test_a_table_again_measures_no_frame(tmp_path, no_figures, monkeypatch):
    text = table.run(SMALL_TABLE, tmp_path, print)
    written = (tmp_path / "table.json").read_text()
    monkeypatch.setattr(frames_module, "measure", never)
    assert table.run(SMALL_TABLE, tmp_path, print) == text
    again = json.loads((tmp_path / "table.json").read_text())
    assert again["rows"] == json.loads(written)["rows"]


def test_controls_are_a_line_and_noise():
    straight, coins = table.controls(256, seed=0)
    assert straight.ours == pytest.approx(1.0, abs=0.02)
    assert coins.ours > 1.9
    # What the report says of the published estimator: at 256 cells coin flips get 1.65.
    assert coins.published == pytest.approx(1.65, abs=0.02)


def test_estimate_is_frames_times_steps_over_the_measured_rate():
    ticks = iter(range(1000))
    seconds, rates = table.estimate_seconds(SMALL_TABLE, clock=lambda: next(ticks))
    # One second by that clock for 1,024 networks of 100 steps.
    assert set(rates.values()) == {102_400.0}
    frames = 7 * ((1 + 2) + (1 + 1))
    assert seconds == pytest.approx(frames * 24 * 24 * 10 / 102_400)


def test_paper_says_how_long_it_takes_before_it_starts(capsys, monkeypatch):
    monkeypatch.setattr(table, "estimate_seconds", lambda _: (1e8, {"tanh": 123456.0}))
    assert main(["table", "--paper", "--estimate"]) == 0
    said = capsys.readouterr().out
    assert "measured network-steps/s: tanh 123,456" in said
    assert "1,624 frames, at most about 3.2 years on this machine" in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(90.0, "1.5 minutes"), (7200.0, "2.0 hours"), (9e4, "1.0 days")]
)
def test_duration(seconds, text):
    assert table.duration(seconds) == text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quick", "--paper"], "quick and paper must not both be asked for"),
        (["--levels", "-1"], "levels must be from 0 to 1000, got -1"),
        (["--resolutions", "3"], "factor must be at most half the resolution"),
    ],
)
def test_bad_table_is_one_sentence(options, said, capsys, tmp_path):
    assert main(["table", *options, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_commands_of_the_report_parse(capsys, monkeypatch):
    text = (DOCS / "trainability.md").read_text()
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("    fractal")]
    assert len(commands) >= 5
    assert {command[0] for command in commands} == {"table", "zoom", "animate", "trainability"}
    ran = []
    monkeypatch.setattr(table, "run", lambda *_: ran.append("table") or "")
    monkeypatch.setattr(table, "announcement", lambda *_: ran.append("estimate"))
    monkeypatch.setattr(commands_animate, "load_path", lambda *_: ran.append("frames") or [])
    for verb, *options in commands:
        if verb == "animate":
            with pytest.raises(InputError, match="frames"):
                commands_animate.run(options)
        else:
            printing = [] if verb == "table" else ["--print-config"]
            assert main([verb, *options, *printing]) == 0
    assert sorted(ran) == ["estimate", "frames", "table"]
    capsys.readouterr()


def test_the_report_shows_the_committed_table():
    text = (DOCS / "trainability.md").read_text()
    written = json.loads(
        (DOCS.parent / "bench" / "results" / "trainability_table.json").read_text()
    )
    rows = [table.Row(**row) for row in written["rows"]]
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in written["settings"].items()
    }
    lines = table.markdown(table.TableConfig(**settings), rows).splitlines()
    assert all(line in text for line in lines if line.startswith("| "))
    assert len(rows) == 7


def test_pictures_of_the_report_exist():
    text = (DOCS / "trainability.md").read_text()
    assert "figures/zoom.gif" in text
    picture = DOCS / "figures" / "zoom.gif"
    assert picture.stat().st_size < 2_000_000
    with Image.open(picture) as image:
        assert image.n_frames > 50


def test_no_number_falls_out_of_the_plot(monkeypatch):
    level = SimpleNamespace(dimension=1.1, width=9.0, low=None, high=None, published=0.4)
    monkeypatch.setattr(figures, "by_level", lambda _: [level])
    axes = Figure().subplots()
    figures._plot(axes, SimpleNamespace(levels=[]))
    assert axes.get_ylim() == pytest.approx((0.35, 2.05))
