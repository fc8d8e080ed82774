import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from kills import killing_at, run_until_killed

from fractalkern import confidence
from fractalkern.cli import main
from fractalkern.errors import InputError
from fractalkern.experiments.trainability import preview as preview_module
from fractalkern.experiments.trainability import training
from fractalkern.experiments.trainability.config import Condition, TrainabilityConfig
from fractalkern.experiments.trainability.preview import run_preview
from fractalkern.sweeps.refinement import refine
from fractalkern.sweeps.store import Store

SMALL = TrainabilityConfig(width=8, steps=100, resolution=128)


class Field:
    """A field with a known label in every cell, which counts how often each is asked for."""

    def __init__(self, label):
        self.label = np.asarray(label)
        self.calls = np.zeros(self.label.shape, dtype=int)

    def __call__(self, cells):
        assert (np.diff(cells) > 0).all()
        self.calls.ravel()[cells] += 1
        label = self.label.ravel()[cells]
        return np.where(label, -1.0, 1.0) * (1 + cells), label


def disc(shape, row, column, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.mark.parametrize("shape", [(64, 64), (65, 65), (61, 100), (9, 70), (2, 2), (3, 50)])
@pytest.mark.parametrize("stride", [1, 2, 8, 16])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_smooth_boundary_is_found_exactly(shape, stride, reach):
    field = Field(disc(shape, shape[0] * 0.4, shape[1] * 0.3, max(shape) * 0.45))
    result = refine(field, shape, seed=0, stride=stride, reach=reach)
    assert (result.label == field.label).all()
    assert (field.calls <= 1).all()
    assert (result.computed == (field.calls == 1)).all()


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_skipped_cells_hold_the_label_of_a_computed_cell_and_no_value(stride):
    rng = np.random.default_rng(0)
    label = disc((90, 120), 50, 40, 30) ^ (rng.random((90, 120)) < 0.002)
    result = refine(Field(label), label.shape, seed=3, stride=stride)
    assert np.isnan(result.value[~result.computed]).all()
    assert np.isfinite(result.value[result.computed]).all()
    assert result.computed.ravel()[result.source].all()
    assert (result.label.ravel()[result.source] == result.label).all()
    assert (result.source[result.computed] == np.flatnonzero(result.computed)).all()
    assert ((result.shown() < 0) == result.label).all()
    assert (result.label == label)[result.computed].all()


def test_no_change_of_label_is_left_unexamined():
    rng = np.random.default_rng(1)
    coarse = rng.random((16, 16)) < 0.5
    label = np.kron(coarse, np.ones((13, 13), dtype=bool))
    result = refine(Field(label), label.shape, seed=0, reach=1)
    change = (result.label[:-1] != result.label[1:]) & ~(result.computed[:-1] & result.computed[1:])
    assert not change.any()


def test_a_connected_boundary_is_followed_past_the_lattice():
    """A line one cell wide that no lattice point but those near its start can see."""
    label = np.zeros((128, 128), dtype=bool)
    label[3:125, 61] = True
    label[0:8, 56:65] = True
    result = refine(Field(label), label.shape, seed=0, stride=8, reach=0, sample=1e-9)
    assert (result.label == label).all()


def test_a_sample_of_everything_finds_everything():
    rng = np.random.default_rng(2)
    label = rng.random((40, 40)) < 0.02
    result = refine(Field(label), label.shape, seed=0, stride=16, reach=0, sample=1.0)
    assert result.computed.all()
    assert (result.label == label).all()
    assert result.missed > 0


def test_a_miss_is_reported_and_its_whole_island_repaired():
    label = disc((257, 257), 128, 128, 60)
    islands = disc((257, 257), 20.5, 20.5, 3.2) | disc((257, 257), 235.5, 28.5, 3.2)
    label |= islands
    found = 0
    for seed in range(12):
        result = refine(Field(label), label.shape, seed=seed, stride=16, reach=0, sample=0.02)
        wrong = result.label != label
        # Each island is either repaired whole or was not hit at all.
        for corner in (slice(0, 60), slice(200, 257)):
            part = wrong[corner, :60]
            assert part.sum() in (0, islands[corner, :60].sum())
        assert not wrong[60:200, 60:].any()
        assert (result.missed > 0) == (result.repaired > 0)
        assert (wrong.sum() < islands.sum()) == (result.missed > 0)
        found += result.missed > 0
    assert 0 < found < 12


def test_the_bound_is_that_of_the_sample():
    label = np.zeros((100, 100), dtype=bool)
    result = refine(Field(label), label.shape, seed=0, stride=16)
    lattice = 8 * 8  # 0, 16, ..., 96 and 99
    assert result.skipped_before_repair == 10_000 - lattice
    assert result.sampled == math.ceil(0.01 * (10_000 - lattice))
    assert result.missed_bound == pytest.approx(1 - 0.05 ** (1 / result.sampled))
    share = result.skipped_before_repair / 10_000
    assert result.missed_bound_of_grid == pytest.approx(result.missed_bound * share)


def test_the_bound_holds_as_often_as_it_says():
    """Isolated cells at a rate of 1 %: the bound must not fall below the truth in over 5 %."""
    rng = np.random.default_rng(5)
    below, trials = 0, 400
    for seed in range(trials):
        label = rng.random((64, 64)) < 0.01
        label[::16] = label[:, ::16] = label[-1] = label[:, -1] = False
        result = refine(Field(label), label.shape, seed=seed, stride=16, reach=0, sample=0.1)
        truth = label.sum() / result.skipped_before_repair
        assert (result.label != label).sum() <= label.sum()
        below += result.missed_bound < truth
    # The standard error of a share of 5 % in 400 trials is 1.1 %.
    assert below / trials < 0.05 + 3 * 0.011
    assert below > 0


def test_the_sample_is_uniform_and_keyed_by_the_seed():
    label = np.zeros((33, 33), dtype=bool)
    hits, draws = np.zeros((33, 33)), 300
    for seed in range(draws):
        field = Field(label)
        result = refine(field, label.shape, seed=seed, stride=16, sample=0.1)
        hits += result.computed
    lattice = np.zeros((33, 33), dtype=bool)
    lattice[::16, ::16] = True
    assert (hits[lattice] == draws).all()
    # Each other cell is drawn in a tenth of the draws; 4.5 standard errors for the worst of 1,080.
    assert abs(hits[~lattice] / draws - 0.1).max() < 4.5 * math.sqrt(0.09 / draws)
    again = [refine(Field(label), label.shape, seed=7, sample=0.1).computed for _ in range(2)]
    assert (again[0] == again[1]).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shape": (1, 5)}, "shape must have at least 2"),
        ({"stride": 3}, "stride must be a power of two, got 3"),
        ({"stride": 0}, "stride must be a power of two, got 0"),
        ({"reach": -1}, "reach must be at least 0, got -1"),
        ({"sample": 0.0}, r"sample must lie in \(0, 1\], got 0.0"),
        ({"sample": float("nan")}, r"sample must lie in \(0, 1\], got nan"),
    ],
)
def test_bad_input_is_one_sentence(change, named):
    with pytest.raises(InputError, match=f"^refine: {named}") as error:
        refine(Field(np.zeros((9, 9))), **({"shape": (9, 9), "seed": 0} | change))
    assert "\n" not in str(error.value)


def test_limits_of_confidence():
    # The defining equation: at the limit, so few hits have probability 5 %.
    for hits, trials in [(0, 1), (0, 59), (3, 50), (20, 100), (49, 50)]:
        p = confidence.clopper_pearson_upper(hits, trials)
        tail = sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits + 1))
        assert tail == pytest.approx(0.05, rel=1e-9)
    assert confidence.clopper_pearson_upper(5, 5) == 1.0
    assert confidence.student_quantile(0.5, 1) == pytest.approx(1.0)  # Cauchy's quartile
    assert confidence.student_quantile(0.95, 10**7) == pytest.approx(1.959964, abs=1e-5)
    mean, low, high = confidence.mean_interval([1.0, 3.0])
    assert mean == 2.0
    assert high - 2.0 == pytest.approx(math.tan(0.475 * math.pi))
    assert 2.0 - low == pytest.approx(high - 2.0)
    assert confidence.mean_interval([1.0]) is None
    assert confidence.mean_interval([1.5, 1.5]) is None
    for bad in [(-1, 5), (6, 5), (0, 0)]:
        with pytest.raises(InputError, match=r"^clopper_pearson_upper: hits must"):
            confidence.clopper_pearson_upper(*bad)
    with pytest.raises(InputError, match="level must lie in"):
        confidence.student_quantile(1.0, 3)
    with pytest.raises(InputError, match="degrees must be at least 1"):
        confidence.student_quantile(0.9, 0)


@pytest.mark.parametrize("condition", Condition.__args__)
def test_first_views_cost_at_most_a_quarter_and_agree_with_the_full_grid(condition):
    config = dataclasses.replace(SMALL, condition=condition, resolution=256, width=4)
    grid = training.tile_trainer(config)(training.Tile(0, 0, 256))
    value, label = grid["value"].ravel(), grid["converged"].ravel()
    found = refine(lambda cells: (value[cells], label[cells]), (256, 256), seed=0)
    assert found.computed_fraction < 0.25
    wrong = found.label.ravel() != label
    assert wrong.mean() <= found.missed_bound_of_grid
    assert wrong.sum() <= 20


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("preview") / "run"
    return out, run_preview(SMALL, out)


def test_a_preview_folder_agrees_with_the_full_grid(finished):
    out, text = finished
    grid = safetensors.torch.load_file(out / "grid.safetensors")
    full = training.tile_trainer(SMALL)(training.Tile(0, 0, 128))
    computed = grid["computed"].numpy()
    assert (grid["value"].numpy() == full["value"])[computed].all()
    assert grid["value"].isnan().numpy()[~computed].all()
    assert (grid["converged"].numpy() != full["converged"]).sum() <= 3
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers["preview"]["computed_fraction"] == computed.mean() < 0.3
    assert numbers["preview"]["sampled"] > 0
    assert numbers["converged_fraction"] == grid["converged"].double().mean().item()
    assert f"{int(computed.sum()):,} networks trained" in text
    assert "with 95% confidence" in text
    assert {"fractal.png", "dimension.png", "config.toml"} <= {p.name for p in out.iterdir()}


def _sitting(out, kill_at):
    os.replace = killing_at(kill_at)(os.replace)
    preview_module._CELLS_PER_BATCH = 512
    run_preview(SMALL, Path(out))


def test_a_killed_preview_goes_on_to_the_same_bytes(finished, tmp_path, monkeypatch):
    out, counts = tmp_path / "run", []
    for kill_at in (4, 5, 8):
        run_until_killed(_sitting, str(out), kill_at)
        with Store(out, "trainability-preview", preview_module.identity(SMALL)) as store:
            counts.append(len(store.finished()))
    assert 0 < counts[0] < counts[1] < counts[2]
    monkeypatch.setattr(preview_module, "_CELLS_PER_BATCH", 512)
    run_preview(SMALL, out)
    assert (out / "grid.safetensors").read_bytes() == (
        finished[0] / "grid.safetensors"
    ).read_bytes()


def test_a_full_grids_folder_is_refused(tmp_path, capsys):
    command = ["trainability", "--width", "4", "--steps", "20", "--resolution", "20"]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--preview"]) == 0
    assert "networks trained" in capsys.readouterr().out
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "holds a run of trainability-preview, not of trainability" in line


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preview_module, "cell_trainer", lambda _: interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_preview(SMALL, tmp_path / "run")
    said = capsys.readouterr().err
    assert "0 batches are finished and kept. To go on: fractalkern trainability --preview" in said


def test_shown_fills_a_picture():
    label = disc((64, 64), 30, 30, 20)
    result = refine(Field(label), label.shape, seed=0)
    shown = torch.from_numpy(result.shown())
    assert not shown.isnan().any()
    assert (shown < 0).numpy().tolist() == label.tolist()
