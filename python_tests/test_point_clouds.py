"""correlation_dimension: pairs counted by hand, and clouds of a known dimension."""

import json
import math
import re

import numpy as np
import pytest
import torch

import fractalkern as fk
from fractalkern import point_clouds


def uniform_cloud(n, ndim, seed, embedded=None):
    """Points in a unit cube of `ndim` axes, turned into a space of `embedded`."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.rand(n, ndim, dtype=torch.float64, generator=generator)
    if embedded is None:
        return cloud
    turn = torch.randn(embedded, ndim, dtype=torch.float64, generator=generator)
    return cloud @ torch.linalg.qr(turn).Q.T


def cantor_dust(n, seed):
    """The square of the middle-third set: 2 log 2 / log 3."""
    generator = torch.Generator().manual_seed(seed)
    digits = 2 * torch.randint(0, 2, (n, 2, 30), generator=generator)
    return (digits * 3.0 ** -torch.arange(1, 31, dtype=torch.float64)).sum(-1)


def henon(n, x=0.1, y=0.1):
    points = []
    for _ in range(n + 1000):
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
        points.append((x, y))
    return torch.tensor(points[1000:], dtype=torch.float64)


@pytest.mark.parametrize(
    ("cloud", "dimension", "tolerance"),
    [
        (uniform_cloud(8000, 1, seed=0), 1, 0.02),
        (uniform_cloud(8000, 1, seed=1, embedded=3), 1, 0.02),
        (uniform_cloud(8000, 2, seed=2), 2, 0.05),
        (uniform_cloud(8000, 2, seed=3, embedded=5), 2, 0.05),
        (uniform_cloud(8000, 3, seed=4), 3, 0.12),
        (cantor_dust(8000, seed=5), 2 * math.log(2, 3), 0.05),
        (henon(12_000), 1.21, 0.05),
    ],
    ids=["line", "line in space", "square", "square in 5-d", "cube", "cantor dust", "henon"],
)
def test_clouds_have_their_dimension(cloud, dimension, tolerance):
    assert float(fk.correlation_dimension(cloud)) == pytest.approx(dimension, abs=tolerance)


def test_both_norms_and_any_scale_give_one_dimension():
    cloud = uniform_cloud(3000, 2, seed=6)
    plain = fk.correlation_dimension(cloud)
    assert float(fk.correlation_dimension(cloud, norm="max")) == pytest.approx(2, abs=0.08)
    moved = fk.correlation_dimension(cloud * 2.0**-300 + 0)
    assert moved.counts == plain.counts
    assert float(moved) == pytest.approx(float(plain), abs=1e-9)


@pytest.mark.parametrize("norm", ["euclidean", "max"])
@pytest.mark.parametrize("theiler", [0, 1, 37, 150])
def test_pairs_are_counted_as_by_hand_over_many_blocks(norm, theiler, monkeypatch):
    monkeypatch.setattr(point_clouds, "_BLOCK", 29)
    cloud = uniform_cloud(200, 2, seed=7).mul(16).round() / 16  # ties at a radius count
    radii = [0.125, 0.25, 0.5, 0.75]
    counts, pairs = [0] * 4, 0
    for i in range(200):
        for j in range(i + theiler + 1, 200):
            dx, dy = (cloud[i] - cloud[j]).abs().tolist()
            distance = max(dx, dy) if norm == "max" else math.hypot(dx, dy)
            counts = [c + (distance <= r) for c, r in zip(counts, radii, strict=True)]
            pairs += 1
    result = fk.correlation_dimension(cloud, radii, theiler=theiler, norm=norm)
    assert result.counts == tuple(counts)
    assert result.pairs == pairs
    assert result.correlation == tuple(c / pairs for c in counts)


def test_close_points_far_from_the_origin_are_told_apart():
    cloud = uniform_cloud(1000, 2, seed=8)
    radii = [2.0**-k for k in range(1, 6)]
    near = fk.correlation_dimension(cloud, radii).counts
    far = fk.correlation_dimension((cloud + 2**20), radii).counts
    assert far == pytest.approx(near, abs=2)  # adding has moved the points by up to 2^-33


def test_a_theiler_window_drops_the_neighbours_in_time():
    # Eight samples on a short line at each of many states that fill a square.
    states = uniform_cloud(750, 2, seed=10)
    walk = (states[:, None] + torch.arange(8)[:, None] * 1e-5).flatten(0, 1)
    radii = [2.0**-k for k in range(3, 7)]
    apart = fk.correlation_dimension(walk, radii, theiler=7)
    together = fk.correlation_dimension(walk, radii)
    assert float(apart) == pytest.approx(2, abs=0.15)
    assert float(together) < 1.7
    # 28 pairs on each line, and the few of neighbouring states that are close by chance.
    assert 0 <= together.counts[0] - apart.counts[0] - 750 * 28 < 100


def test_the_default_radii_hold_100_pairs_to_a_hundredth_of_all():
    result = fk.correlation_dimension(uniform_cloud(4000, 2, seed=9))
    assert 100 <= result.counts[0] < 200
    assert 0.008 < result.correlation[-1] <= 0.01
    ratios = np.diff(np.log2(result.radii))
    assert np.allclose(ratios, 1 / 8)
    assert json.loads(result.to_json())["radii"] == list(result.radii)


CLOUD = uniform_cloud(200, 2, seed=0)
BAD = {
    "1-d": (fk.InputError, "points must be [n, d], got shape (200,)", CLOUD[:, 0]),
    "no axis": (fk.InputError, "points must be [n, d]", CLOUD[:, :0]),
    "few": (fk.InputError, "points must be at least 100, got 99", CLOUD[:99]),
    "nan": (fk.InputError, "points must be finite", CLOUD * math.nan),
    "bool": (fk.InputTypeError, "points must be real numbers, got torch.bool", CLOUD > 0.5),
    "same": (fk.InputError, "points must not coincide", CLOUD * 0),
    "norm": (fk.InputError, "norm must be one of euclidean, max, got 1", CLOUD, {"norm": 1}),
    "theiler -1": (fk.InputError, "theiler must be at least 0, got -1", CLOUD, {"theiler": -1}),
    "theiler 1.0": (fk.InputTypeError, "theiler must be an integer", CLOUD, {"theiler": 1.0}),
    "theiler 190": (fk.InputError, "which leaves 36", CLOUD, {"theiler": 191}),
    "theiler 999": (fk.InputError, "got 999, which leaves 0", CLOUD, {"theiler": 999}),
    "radius 0": (fk.InputError, "radii must be positive, got 0", CLOUD, {"radii": [0, 1, 2]}),
    "2 radii": (fk.InputError, "radii must hold at least 3", CLOUD, {"radii": [0.5, 1, 1]}),
    "tiny": (fk.InputError, "there are pairs, got 0", CLOUD, {"radii": [1e-9, 1e-8, 1e-7]}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, points, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.correlation_dimension(points, **(options[0] if options else {}))
    assert str(caught.value).startswith("correlation_dimension: ")
    assert "\n" not in str(caught.value)
