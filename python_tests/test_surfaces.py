"""differential_box_dimension: boxes counted by hand, and fields of a known roughness."""

import itertools
import math
import re

import numpy as np
import pytest
import shapes
import torch

import fractalkern as fk

HURST = [0.1, 0.3, 0.5, 0.7, 0.9]


@pytest.mark.parametrize("shape", [(64,), (32, 40), (16, 16, 17), (16, 16, 16, 16)], ids=str)
def test_a_constant_field_has_the_dimension_of_its_space(shape):
    result = fk.differential_box_dimension(torch.full(shape, 3), [2, 3, 4])
    assert float(result) == pytest.approx(len(shape), abs=1e-12)
    sides = [math.prod(n / s for n in shape) for s in (2, 3, 4)]
    assert result.counts.tolist() == pytest.approx(sides, rel=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_plane_has_the_dimension_of_its_space(ndim):
    ramp = torch.arange(64.0).expand([64] * ndim)
    published = fk.differential_box_dimension(ramp, shared_edges=False)
    assert float(published) == pytest.approx(ndim, abs=1e-12)
    assert published.counts.tolist() == [(64 // s) ** ndim for s in (2, 4, 8, 16)]
    # With its neighbour's first cell, every block but the last reaches into the next box.
    shared = fk.differential_box_dimension(ramp)
    assert shared.counts.tolist() == [
        (2 * 64 // s - 1) * (64 // s) ** (ndim - 1) for s in (2, 4, 8, 16)
    ]
    assert float(shared) == pytest.approx(ndim, abs=0.08)


@pytest.mark.parametrize(
    ("shared_edges", "readings"),
    [(True, [2.54, 2.44, 2.33, 2.22, 2.13]), (False, [2.45, 2.35, 2.23, 2.12, 2.04])],
    ids=["shared", "published"],
)
def test_surfaces_are_in_order_of_roughness_and_read_as_documented(shared_edges, readings):
    means = []
    for hurst in HURST:
        fields = torch.stack([shapes.fractional_brownian(512, hurst, seed) for seed in range(4)])
        result = fk.differential_box_dimension(fields, spatial_dims=2, shared_edges=shared_edges)
        assert result.dimension.std() < 0.03
        means.append(float(result.dimension.mean()))
    assert means == pytest.approx(readings, abs=0.02)
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("ndim", [1, 3])
def test_other_numbers_of_axes_are_in_order_too(ndim):
    side = {1: 4096, 3: 48}[ndim]
    means = []
    for hurst in HURST:
        beta = ndim + 2 * hurst
        fields = [fk.fractal_noise([side] * ndim, beta, seed=seed) for seed in range(4)]
        dimensions = [float(fk.differential_box_dimension(field)) for field in fields]
        assert all(ndim < dimension < ndim + 1 for dimension in dimensions)
        means.append(sum(dimensions) / 4)
    assert means == sorted(means, reverse=True)
    assert means[0] - means[-1] > 0.2


def count_by_hand(field, size, shared_edges):
    n, low, high = min(field.shape), field.min().item(), field.max().item()
    boxes = []
    for corner in itertools.product(*(range(0, side - size + 1, size) for side in field.shape)):
        reach = size + shared_edges
        block = field[tuple(slice(c, c + reach) for c in corner)].flatten().tolist()
        top = -(-n // size) - 1
        index = [min(int((v - low) / (high - low) * n // size), top) for v in block]
        boxes.append(max(index) - min(index) + 1)
    return sum(boxes) / len(boxes) * math.prod(side / size for side in field.shape)


@pytest.mark.parametrize("shared_edges", [True, False], ids=["shared", "published"])
@pytest.mark.parametrize("shape", [(50,), (24, 33), (9, 12, 10)], ids=str)
def test_counts_are_as_by_hand(shape, shared_edges):
    generator = torch.Generator().manual_seed(len(shape))
    field = torch.randint(0, 1000, shape, generator=generator)
    sizes = range(2, min(shape) + 1)
    result = fk.differential_box_dimension(field, sizes, shared_edges=shared_edges)
    by_hand = [count_by_hand(field, size, shared_edges) for size in sizes]
    assert result.counts.tolist() == pytest.approx(by_hand, rel=1e-12)


def test_a_batch_is_each_field_on_its_own_in_any_unit():
    fields = torch.stack([shapes.fractional_brownian(64, h, 0) for h in (0.2, 0.8)])[:, :, :50]
    together = fk.differential_box_dimension(fields, spatial_dims=2)
    assert together.dimension.shape == (2,)
    for index in range(2):
        alone = fk.differential_box_dimension(fields[index].numpy())
        assert torch.equal(alone.counts, together.counts[index])
        scaled = fk.differential_box_dimension(fields[index] * 2.0**-100)
        assert torch.equal(scaled.counts, alone.counts)
    with pytest.raises(fk.InputError, match="needs one dimension, this result has 2"):
        float(together)


ONES = torch.ones(32, 32)
BAD = {
    "bool": (fk.InputTypeError, "field must be real numbers, got torch.bool", ONES > 0),
    "nan": (fk.InputError, "field must be finite", ONES * math.nan),
    "0-d": (fk.InputError, "at least one spatial axis", torch.tensor(1.0)),
    "empty": (fk.InputError, "no spatial side of 0", ONES[:0]),
    "small": (fk.InputError, "got 2: the smallest side of 16", ONES[:16]),
    "size 1": (fk.InputError, "sizes must be at least 2, got 1", ONES, {"sizes": [1, 2, 4]}),
    "size 33": (fk.InputError, "smallest spatial side (32), got 33", ONES, {"sizes": [33]}),
    "2 sizes": (fk.InputError, "at least 3 different box sizes", ONES, {"sizes": [2, 4, 4]}),
    "dims 3": (fk.InputError, "spatial_dims must be from 1 to 2", ONES, {"spatial_dims": 3}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, field, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.differential_box_dimension(field, **(options[0] if options else {}))
    assert str(caught.value).startswith("differential_box_dimension: ")
    assert "\n" not in str(caught.value)


def test_lists_are_taken_as_float64():
    values = np.random.default_rng(0).random((20, 20))
    from_list = fk.differential_box_dimension(values.tolist(), [2, 3, 4])
    assert torch.equal(from_list.counts, fk.differential_box_dimension(values, [2, 3, 4]).counts)
