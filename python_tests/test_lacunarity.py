"""lacunarity against sets whose value is known: exactly, on average, or as a power of the size."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import shapes
import torch

import fractalkern as fk
from fractalkern.line_fits import fit_line


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("shape", [(40,), (12, 17), (6, 7, 8), (4, 5, 4, 5), (3, 4, 3, 4, 3)])
def test_a_full_array_has_lacunarity_1(shape, backend):
    for array in (torch.ones(shape, dtype=torch.bool), torch.full(shape, 9)):
        result = fk.lacunarity(array, range(1, min(shape) + 1), backend=backend)
        assert result.lacunarity.tolist() == [1.0] * min(shape)
        assert result.variance.tolist() == [0.0] * min(shape)
        assert result.mean.tolist() == [int(array.max()) * r ** len(shape) for r in result.sizes]


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_checkerboard_is_even_at_even_sizes_and_known_at_odd_ones(ndim):
    side = 16
    grid = torch.zeros([side] * ndim, dtype=torch.int64)
    for axis in range(ndim):
        grid += torch.arange(side).reshape([-1 if k == axis else 1 for k in range(ndim)])
    result = fk.lacunarity(grid % 2, range(1, 10))
    for size, value in zip(range(1, 10), result.lacunarity.tolist(), strict=True):
        # Half of the positions hold (r^E + 1) / 2 cells and half (r^E - 1) / 2.
        assert value == (1 + 1 / size ** (2 * ndim) if size % 2 else 1)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_independent_cells_have_their_expected_lacunarity(ndim, p):
    side, seeds = {1: 4096, 2: 96, 3: 32}[ndim], 64
    generator = torch.Generator().manual_seed(ndim)
    masks = torch.rand([seeds] + [side] * ndim, generator=generator) < p
    result = fk.lacunarity(masks, [1, 2, 3, 4], spatial_dims=ndim)
    mean = result.lacunarity.mean(0)
    stderr = result.lacunarity.std(0) / math.sqrt(seeds)
    expected = 1 + (1 - p) / (p * result.sizes.double() ** ndim)
    assert ((mean - expected).abs() < 3 * stderr).all()


@pytest.mark.parametrize(
    ("mask", "exponent", "sizes", "tolerance"),
    [
        (shapes.cantor(10), math.log(2, 3) - 1, [9, 27, 81, 243], 0.015),
        (shapes.carpet(6), math.log(8, 3) - 2, [3, 9, 27], 0.03),
    ],
    ids=["cantor", "carpet"],
)
def test_self_similar_sets_have_the_slope_of_their_dimension(mask, exponent, sizes, tolerance):
    result = fk.lacunarity(mask, sizes)
    slope = fit_line(result.sizes.double().log(), result.lacunarity.log()).slope
    assert float(slope) == pytest.approx(exponent, abs=tolerance)
    assert (result.local_slopes - exponent).abs().max() < 2 * tolerance


def test_each_value_is_the_exact_ratio_rounded_once():
    weights = torch.randint(0, 2**20, (3, 20, 30), generator=torch.Generator().manual_seed(0))
    result = fk.lacunarity(weights, [1, 3, 7], spatial_dims=2)
    for item in range(3):
        for column, size in enumerate([1, 3, 7]):
            boxes = weights[item].unfold(0, size, 1).unfold(1, size, 1).sum((-2, -1))
            masses = boxes.flatten().tolist()
            exact = Fraction(len(masses) * sum(m * m for m in masses), sum(masses) ** 2)
            assert result.lacunarity[item, column].item() == float(exact)
            assert int(result.positions[column]) == len(masses)
            assert result.mean[item, column].item() == sum(masses) / len(masses)
            variance = float(np.var(np.array(masses, dtype=np.float64)))
            assert result.variance[item, column].item() == pytest.approx(variance, rel=1e-12)


def test_native_equals_reference_on_a_batch_of_odd_strides():
    masks = shapes.carpet(4)[:70, :77].flip(0).T[None].expand(4, 77, 70)
    native = fk.lacunarity(masks, spatial_dims=2)
    expected = fk.lacunarity(masks, spatial_dims=2, backend="reference")
    assert native.sizes.tolist() == [1, 2, 4, 8, 16, 32]
    assert torch.equal(native.lacunarity, expected.lacunarity)
    assert fk.lacunarity(masks[0].numpy()).lacunarity.tolist() == native.lacunarity[0].tolist()
    assert fk.lacunarity(masks[:0], spatial_dims=2).lacunarity.shape == (0, 6)


def test_one_size_has_no_slope():
    result = fk.lacunarity(shapes.carpet(2), [3])
    assert result.lacunarity.shape == (1,)
    assert result.local_slopes.shape == (0,)


ONES = torch.ones(6, 8, dtype=torch.int64)
BAD = {
    "float": (fk.InputTypeError, "mask_or_weights must be bool or integer", ONES.float()),
    "negative": (fk.InputError, "mask_or_weights must not be negative, got -1", -ONES),
    "zeros": (fk.InputError, "must have some mass, got only zeros", ONES * 0),
    "one of a batch": (
        fk.InputError,
        "got only zeros in array [2] of the batch",
        ONES[None] * torch.tensor([1, 1, 0, 1])[:, None, None],
        {"spatial_dims": 2},
    ),
    "heavy": (fk.InputError, "add up to less than 2^63", ONES * 2**56),
    "size 7": (fk.InputError, "smallest spatial side (6), got 7", ONES, {"sizes": [7]}),
    "0-d": (fk.InputError, "at least one spatial axis", torch.tensor(1)),
    "empty": (fk.InputError, "no spatial side of 0", ONES[:0]),
    "list": (fk.InputTypeError, "must be a tensor or an array, got str", "abc"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, array, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.lacunarity(array, **(options[0] if options else {}))
    assert str(caught.value).startswith("lacunarity: ")
    assert "\n" not in str(caught.value)


def test_a_uint64_above_the_range_of_int64_is_refused():
    with pytest.raises(fk.InputError, match="mask_or_weights must"):
        fk.lacunarity(np.full((4, 4), 2**63 + 5, dtype=np.uint64))
