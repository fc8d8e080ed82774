"""Intervals that cover, verdicts that are seldom wrong, and what happens to missing cells."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import fractalkern as fk
from fractalkern import calibration, synthetic
from fractalkern.boundary_statistics import boundary_statistics, scales, without_ends
from fractalkern.missing_cells import edge_bounds, filled

KOCH, GASKET = math.log(4, 3), math.log2(3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def intervals(fields, level=0.95):
    return calibration.infer(boundary_statistics(fields < 0), fields.shape[-1], level)


def brownian(count, side, dimension, seed):
    return synthetic.brownian_level_sets(count, side, dimension, generator(seed))


# A fast cut of studies/dimension_coverage.py: 300 boundaries, whose covered share lies within four
# standard errors of 95 %, 0.05 below or above.
COVERED = {
    "line": (synthetic.straight_lines, 1.0, 64),
    "circle": (synthetic.circles, 1.0, 64),
    "contour": (synthetic.smooth_contours, 1.0, 64),
    "contour 256": (synthetic.smooth_contours, 1.0, 256),
    **{
        f"Brownian {d}": (
            lambda n, side, g, d=d: synthetic.brownian_level_sets(n, side, d, g),
            d,
            256,
        )
        for d in (1.2, 1.5, 1.8)
    },
}


@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_as_often_as_they_say(name):
    draw, truth, side = COVERED[name]
    found = intervals(draw(300, side, generator(91)))
    assert all(one.kind != "none" for one in found)
    covered = sum(one.low <= truth <= one.high for one in found) / 300
    assert 0.90 <= covered <= 1.0
    missed = [one.high < truth for one in found if not one.low <= truth <= one.high]
    assert len(missed) < 30


def test_half_of_the_intervals_of_level_one_half_cover():
    for fields, truth in (
        (synthetic.smooth_contours(400, 64, generator(5)), 1.0),
        (brownian(200, 128, 1.5, 5), 1.5),
    ):
        found = intervals(fields, 0.5)
        covered = sum(one.low <= truth <= one.high for one in found) / len(found)
        assert abs(covered - 0.5) < 4 * 0.5 / math.sqrt(len(found))


def test_intervals_widen_with_their_level():
    (field,) = brownian(1, 200, 1.4, 7)
    widths = []
    for level in (0.3, 0.5, 0.9, 0.95, 0.99, 0.999):
        result = fk.estimate_dimension(field, level=level, null=None)
        low, high = map(float, result.interval)
        assert low <= float(result) <= high
        widths.append(high - low)
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_dimension_is_unbiased_between_the_calibrated_sides():
    for side in (160, 200, 400):
        found = intervals(brownian(60, side, 1.5, side))
        mean = sum(one.dimension for one in found) / 60
        assert mean == pytest.approx(1.5, abs=0.02)
        assert sum(one.low <= 1.5 <= one.high for one in found) >= 50


def test_no_interval_where_none_is_honest():
    gaskets = intervals(synthetic.sierpinski_gaskets(20, 256, generator(3)))
    assert all(
        one.kind == "none" and "neither a smooth nor a Brownian" in one.reason for one in gaskets
    )
    snowflakes = intervals(synthetic.koch_snowflakes(40, 256, generator(3)))
    assert sum(one.kind == "none" for one in snowflakes) >= 36
    assert "too few islands of one cell for a Brownian boundary" in snowflakes[0].reason
    rough = fk.estimate_dimension(brownian(1, 64, 1.5, 3)[0], null=None)
    assert rough.kind == ("none",) and rough.ci_low.isnan()
    assert "rough boundaries need at least 128 cells" in rough.warnings[0]
    assert float(rough) == float(rough.slope)
    small = fk.estimate_dimension(synthetic.circles(1, 48, generator(3))[0], null=None)
    assert "at least 64 cells a side, here are 48" in small.warnings[0]
    noisy = synthetic.with_noise(
        synthetic.smooth_contours(10, 256, generator(4)), 1.0, generator(5)
    )
    assert all(one.kind == "none" for one in intervals(noisy))


def test_verdicts_are_seldom_false_and_seldom_miss():
    smooth = synthetic.smooth_contours(100, 64, generator(11))
    options = {"spatial_dims": 2, "null_draws": 39, "generator": generator(14)}
    result = fk.estimate_dimension(smooth, **options)
    assert result.fractal.shape == (100,) and int(result.fractal.sum()) <= 12  # 3.2 standard errors
    noisy = synthetic.with_noise(smooth, 1.0, generator(13))
    against_noise = fk.estimate_dimension(noisy, null="smooth+noise", noise_width=1.0, **options)
    assert int(against_noise.fractal.sum()) <= 12
    assert float(against_noise.null.parameters["noise_width"]) == 1.0
    assert int(fk.estimate_dimension(noisy, **options).fractal.sum()) >= 80  # it is not smooth
    rough = fk.estimate_dimension(brownian(10, 256, 1.3, 15), **options)
    assert int(rough.fractal.sum()) >= 9


def test_marginal_null_knows_coin_flips_from_structure():
    flips = torch.rand(64, 64, generator=generator(1)) < torch.linspace(0, 1, 64)[:, None]
    assert not bool(fk.estimate_dimension(flips, null="marginal").fractal)
    contour = synthetic.smooth_contours(1, 64, generator(2))[0]
    assert bool(fk.estimate_dimension(contour, null="marginal").fractal)


def test_equal_input_and_generator_give_equal_output():
    field = brownian(1, 128, 1.3, 2)[0]
    first, second = (fk.estimate_dimension(field).to_json() for _ in range(2))
    assert first == second
    other = fk.estimate_dimension(field, generator=generator(9)).to_json()
    assert other != first and json.loads(other)["dimension"] == json.loads(first)["dimension"]


def test_a_batch_is_its_arrays_one_by_one():
    fields = torch.cat([brownian(2, 128, 1.4, 4), synthetic.circles(2, 128, generator(4))])
    batch = fk.estimate_dimension(fields.reshape(2, 2, 128, 128), spatial_dims=2, null=None)
    assert batch.dimension.shape == (2, 2) and batch.counts.shape == (2, 2, len(batch.sizes))
    assert batch.kind == ("brownian", "brownian", "smooth", "smooth")
    for i, field in enumerate(fields):
        one = fk.estimate_dimension(field, null=None)
        for name in ("dimension", "ci_low", "ci_high", "slope", "counts", "boundary_cells"):
            found, alone = getattr(batch, name).flatten(0, 1)[i], getattr(one, name)
            assert torch.equal(found, alone), name
    with pytest.raises(fk.InputError, match="this result has 4"):
        float(batch)


def test_straight_lines_have_slope_one_at_every_scale_once_their_ends_are_taken_off():
    statistics = boundary_statistics(synthetic.straight_lines(50, 128, generator(8)) < 0)
    counts = without_ends(statistics.counts, statistics.ends, statistics.sizes)
    few = counts[:, :4].log() @ torch.tensor([[1.0], [-1], [0], [0]], dtype=torch.float64)
    assert few.flatten().sub(math.log(2)).abs().max() < 1e-12
    assert statistics.returns.max() == 0
    assert scales(64) == (1, 2, 3, 4, 6, 8)


def test_statistics_count_what_they_say():
    """Against loops over cells."""
    mask = torch.rand(2, 33, 40, generator=generator(6)) < 0.4
    statistics = boundary_statistics(mask)
    for b, lag in ((0, 1), (1, 2), (1, 4)):
        flips = returns = changes = pairs = 0
        for lines in (mask[b].numpy(), mask[b].T.numpy()):
            for line in lines.T:
                turned = [line[i] != line[i + lag] for i in range(len(line) - lag)]
                flips, pairs = flips + sum(turned), pairs + len(turned)
                for first, second in zip(turned[:-lag], turned[lag:], strict=True):
                    changes += int(first) + int(second)
                    returns += 2 * (first and second)
        at = statistics.sizes.tolist().index(lag)
        assert statistics.flips[b, at].item() == pytest.approx(flips / pairs, rel=1e-12)
        assert statistics.returns[b, at].item() == pytest.approx(returns / changes, rel=1e-12)
        lone = sum(
            mask[b, i, j]
            not in (mask[b, i - 1, j], mask[b, i + 1, j], *mask[b, i, j - 1 : j + 2 : 2])
            for i in range(1, 32)
            for j in range(1, 39)
        )
        assert int(statistics.lone[b]) == lone


def test_synthetic_boundaries_have_their_dimensions():
    """By counts of fine rasters, for the sets that are self-similar."""
    for draw, dimension in (
        (synthetic.koch_snowflakes, KOCH),
        (synthetic.sierpinski_gaskets, GASKET),
    ):
        edges = fk.boundary(draw(1, 2048, generator(1))[0] < 0)
        counts = fk.box_count(edges, [8, 16, 32, 64, 128], offsets=4)
        assert float(fk.box_dimension((counts.sizes, counts.counts))) == pytest.approx(
            dimension, abs=0.05
        )


@pytest.mark.parametrize("dimension", [1.2, 1.5, 1.8])
def test_brownian_fields_have_increments_of_their_exponent(dimension):
    """E (f(x + r) - f(x))^2 ~ r^2H from one cell on, aliases and all."""
    fields = brownian(40, 256, dimension, 3).double()
    lags = torch.tensor([1, 2, 4, 8])
    moments = torch.stack([(fields[:, lag:] - fields[:, :-lag]).square().mean() for lag in lags])
    slope = moments.log().diff() / math.log(2) / 2
    assert (2 - slope).tolist() == pytest.approx([dimension] * 3, abs=0.05)


def test_noise_flips_half_of_the_cells_on_the_boundary_and_few_away_from_it():
    x = torch.arange(400.0).expand(400, 400) - 200
    flipped = synthetic.with_noise(x, 2.0, generator(1)) != x.sign()
    share = flipped[:, 1:].double().mean(0)
    expected = torch.special.ndtr(-x[0, 1:].double().abs() / 2)
    error = (expected * (1 - expected) / 400).sqrt()
    assert ((share - expected).abs() <= 4.5 * error + 1e-9)[x[0, 1:] != 0].all()


def test_missing_cells_take_the_side_of_their_neighbours_and_bound_the_slope():
    values = synthetic.circles(1, 64, generator(2))[0]
    missing = torch.rand(64, 64, generator=generator(3)) < 0.02
    whole = fk.estimate_dimension(values, null=None)
    holes = fk.estimate_dimension(values.where(~missing, math.nan), missing=missing, null=None)
    low, high = holes.missing_bounds.tolist()
    assert low <= float(holes.slope) <= high and low <= float(whole.slope) <= high
    assert int(holes.n_missing) == int(missing.sum()) and low < high
    assert "missing cells took the side of their neighbours" in holes.warnings[-1]
    assert whole.missing_bounds.tolist() == [float(whole.slope)] * 2
    many = fk.estimate_dimension(values, missing=torch.rand(64, 64) < 0.2, null=None)
    assert many.kind == ("none",) and "more than 5 % of its cells are missing" in many.warnings[0]


def test_filled_leaves_known_cells_and_grows_from_them():
    values = torch.tensor([[1.0, 9.0, 9.0, -1.0], [1.0, 9.0, 9.0, -1.0]])
    missing = torch.tensor([[False, True, True, False]] * 2)
    assert filled(values, missing).tolist() == [[1, 1, -1, -1]] * 2
    sure, possible = edge_bounds(values, missing)
    assert sure.tolist() == [[False] * 3] and possible.tolist() == [[True] * 3]


def test_sizes_and_offsets_of_ones_own_give_a_slope_without_an_interval():
    field = brownian(1, 128, 1.5, 1)[0]
    result = fk.estimate_dimension(field, sizes=[1, 3, 9, 27], offsets="all", null=None)
    counts = fk.box_count(fk.boundary(field), [1, 3, 9, 27], offsets="all")
    assert result.sizes == (1, 3, 9, 27)
    assert result.counts.tolist() == counts.mean.tolist()
    assert result.kind == ("none",) and "chosen by default" in result.warnings[0]


def test_plot_shows_the_fit_and_the_null():
    result = fk.estimate_dimension(brownian(2, 128, 1.4, 1), spatial_dims=2)
    axes = result.plot(index=1)
    assert axes.get_title().startswith("D = ") and "p = 0.005" in axes.get_title()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1] == f"least squares, slope {float(result.slope[1]):.3f}"
    assert "slopes of the null 'smooth'" in labels[2]


def test_dim_command_reads_each_format_and_says_what_it_shows(tmp_path, capsys):
    field = brownian(1, 128, 1.4, 1)[0]
    np.save(tmp_path / "field.npy", field.numpy())
    Image.fromarray(((field < 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    from safetensors.torch import save_file

    from fractalkern.cli import main

    save_file({"value": field, "other": -field}, tmp_path / "two.safetensors")
    out = ["--out", str(tmp_path / "dim.png"), "--json", str(tmp_path / "dim.json")]
    numbers = []
    for words in (["field.npy"], ["mask.png"], ["two.safetensors", "--array", "value"]):
        assert main(["dim", str(tmp_path / words[0]), *words[1:], *out]) == 0
        numbers.append(json.loads((tmp_path / "dim.json").read_text())["dimension"])
        assert "rough over the scales of this grid" in capsys.readouterr().out
    assert numbers[0] == numbers[1] == numbers[2] == float(fk.estimate_dimension(field))
    with Image.open(tmp_path / "dim.png") as picture:
        assert picture.size == (1760, 768)
    for words, message in (
        (["two.safetensors"], "array must be one of"),
        (["none.npy"], "file must be readable"),
        (["field.txt"], "file must end in one of .png, .npy, .safetensors"),
        (["field.npy", "--threshold", "1", "--label", "2"], "must not be given together"),
        (["field.npy", "--level", "2"], "level must lie between 0 and 1"),
    ):
        assert main(["dim", str(tmp_path / words[0]), *words[1:], *out]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
