"""generalized_dimensions against measures whose tau(q) is known in closed form."""

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest
import shapes
import torch

import fractalkern as fk
from fractalkern import multifractal

ORDERS = [-10, -4, -1, 0, 0.5, 1, 1.5, 2, 3, 10]


def cascade(shares, levels):
    """The multinomial measure: every cell is split by `shares`, `levels` times over."""
    pattern = torch.tensor(shares, dtype=torch.float64)
    measure = pattern
    for _ in range(levels - 1):
        measure = torch.kron(measure, pattern)
    return measure


def exact_tau(shares, q, ratio=2):
    """-log sum p^q / log ratio, over the parts that hold something."""
    parts = torch.tensor(shares, dtype=torch.float64).flatten()
    return -math.log(sum(p**q for p in parts.tolist() if p > 0)) / math.log(ratio)


def exact_alpha(shares, q, ratio=2):
    parts = [p for p in torch.tensor(shares, dtype=torch.float64).flatten().tolist() if p > 0]
    weights = [p**q for p in parts]
    mean = sum(w * math.log(p) for w, p in zip(weights, parts, strict=True)) / sum(weights)
    return -mean / math.log(ratio)


CASCADES = {
    "binomial": ([0.3, 0.7], 12, 2),
    "triadic with a gap": ([0.2, 0, 0.8], 7, 3),
    "square": ([[0.1, 0.2], [0.3, 0.4]], 7, 2),
    "square with a hole": ([[0.5, 0.25], [0.25, 0]], 7, 2),
    "cube": ([[[0.05, 0.1], [0.1, 0.05]], [[0.2, 0.1], [0.1, 0.3]]], 5, 2),
}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", CASCADES)
def test_cascades_have_their_exact_spectrum(case, backend):
    shares, levels, ratio = CASCADES[case]
    sizes = [ratio**level for level in range(levels)]
    result = fk.generalized_dimensions(
        cascade(shares, levels), ORDERS, sizes=sizes, backend=backend
    )
    for index, q in enumerate(ORDERS):
        tau, alpha = exact_tau(shares, q, ratio), exact_alpha(shares, q, ratio)
        assert result.tau[index] == pytest.approx(tau, abs=1e-9)
        assert result.alpha[index] == pytest.approx(alpha, abs=1e-9)
        assert result.f_alpha[index] == pytest.approx(q * alpha - tau, abs=1e-9)
        assert result.dimension[index] == pytest.approx(
            alpha if q == 1 else tau / (q - 1), abs=1e-9
        )
        assert result.stderr[index] < 1e-9
        assert result.local_slopes[index].tolist() == pytest.approx(
            [float(result.dimension[index])] * levels, abs=1e-9
        )
    assert result.warnings == ()


@pytest.mark.parametrize("shape", [(64,), (32, 32), (16, 16, 16), (12, 12, 12, 12)], ids=str)
def test_a_uniform_measure_has_the_dimension_of_its_space_at_every_order(shape):
    sizes = [1, 2, 4]
    for measure in (
        torch.ones(shape, dtype=torch.bool),
        torch.full(shape, 0.3),
        torch.full(shape, 7),
    ):
        result = fk.generalized_dimensions(measure, ORDERS, sizes=sizes)
        assert result.dimension == pytest.approx([len(shape)] * len(ORDERS), abs=1e-10)
        assert result.alpha == pytest.approx([len(shape)] * len(ORDERS), abs=1e-10)
        assert result.f_alpha == pytest.approx([len(shape)] * len(ORDERS), abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "sizes", "dimension"),
    [
        (shapes.cantor(7), [3**k for k in range(6)], math.log(2, 3)),
        (shapes.carpet(5), [3**k for k in range(5)], math.log(8, 3)),
        (shapes.sierpinski_triangle(9), None, math.log(3, 2)),
        (shapes.menger(4), [3**k for k in range(4)], math.log(20, 3)),
    ],
    ids=["cantor", "carpet", "triangle", "menger"],
)
def test_self_similar_sets_have_one_dimension_at_every_order(mask, sizes, dimension):
    result = fk.generalized_dimensions(mask, ORDERS, sizes=sizes)
    assert result.dimension == pytest.approx([dimension] * len(ORDERS), abs=1e-9)
    assert result.warnings == ()


def test_order_zero_is_the_box_dimension():
    mask = shapes.koch(512)
    counts = fk.box_dimension(fk.box_count(mask))
    result = fk.generalized_dimensions(mask, 0)
    assert result.at(0) == pytest.approx(float(counts), abs=1e-12)
    assert result.stderr[0] == pytest.approx(float(counts.stderr), abs=1e-12)
    assert result.sizes == tuple(int(size) for size in counts.sizes)


def test_order_one_is_the_limit_of_its_neighbours():
    measure = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    below, one, above = fk.generalized_dimensions(measure, [0.999, 1, 1.001]).dimension
    one = float(one)
    assert one == pytest.approx(float(below + above) / 2, abs=1e-6)
    for q in (1 - 1e-7, 1 + 1e-7, 1 - 1e-5, 1 + 1e-5):
        assert fk.generalized_dimensions(measure, q).at(q) == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(
    "orders",
    [[3, -1, 0, 0.5, -4.5, 3], [0.3, 0.7, -1.1], [-0.5, 100], [0], [-2, -1]],
    ids=["multiples", "unrelated", "far", "zero", "negative"],
)
def test_each_order_is_what_it_is_alone(orders, monkeypatch):
    for measure in (cascade([0.1, 0.35, 0.55], 5), shapes.koch(128)):
        monkeypatch.setattr(multifractal, "_FEW", 0)  # blocks of powers, however few there are
        monkeypatch.setattr(multifractal, "_BLOCK", 37)
        together = fk.generalized_dimensions(measure, orders, sizes=[1, 2, 3, 9])
        monkeypatch.undo()
        for index, q in enumerate(orders):
            alone = fk.generalized_dimensions(measure, q, sizes=[1, 2, 3, 9])
            for name in ("dimension", "alpha", "f_alpha", "stderr"):
                value, single = getattr(together, name)[index], getattr(alone, name)[0]
                assert float(value) == pytest.approx(float(single), abs=1e-11)


SEEDED = torch.Generator().manual_seed(3)
BATCHES = {
    "masks": torch.rand(2, 3, 40, 70, generator=SEEDED) ** torch.tensor([[[9.0]], [[2]], [[1]]])
    > 0.7,
    "small integers": torch.randint(0, 4, (5, 33), generator=SEEDED),
    "floats, many boxes": torch.rand(3, 96, 96, generator=SEEDED) ** 4,
    "large integers, strided": torch.randint(0, 2**40, (4, 24, 28), generator=SEEDED).mT,
}


@pytest.mark.parametrize("offsets", [1, 3])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_is_what_its_arrays_are_alone(case, backend, offsets):
    batch = BATCHES[case]
    dims = 1 if case == "small integers" else 2
    options = {"q": ORDERS, "sizes": [1, 2, 3, 7], "offsets": offsets, "backend": backend}
    together = fk.generalized_dimensions(batch, spatial_dims=dims, **options)
    leading, warnings = batch.shape[: batch.ndim - dims], []
    assert together.dimension.shape == (*leading, len(ORDERS))
    assert together.local_slopes.shape == (*leading, len(ORDERS), 4)
    for number, index in enumerate(itertools.product(*map(range, leading))):
        alone = fk.generalized_dimensions(batch[index], **options)
        for field in dataclasses.fields(alone):
            value = getattr(alone, field.name)
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(
                    getattr(together, field.name)[index], value, rtol=1e-9, atol=1e-9
                )
        torch.testing.assert_close(together.at(2)[index], alone.at(2), rtol=1e-9, atol=1e-9)
        warnings += [f"array {number}: {text}" for text in alone.warnings]
    assert together.warnings == tuple(warnings)


def test_dimensions_do_not_grow_with_the_order():
    measure = torch.rand(128, 128, generator=torch.Generator().manual_seed(1)) ** 3
    dimensions = fk.generalized_dimensions(measure, [0, 1, 2, 5, 20]).dimension
    assert all(before >= after for before, after in itertools.pairwise(dimensions))


def test_the_unit_of_mass_does_not_matter():
    counts = torch.randint(0, 50, (40, 56), generator=torch.Generator().manual_seed(2))
    by_int = fk.generalized_dimensions(counts, [-2, 0, 1, 3])
    for scaled in (
        counts * 2**40,
        counts.double() * 1e-200,
        counts.to(torch.float32),
        counts * 2**54,
    ):
        result = fk.generalized_dimensions(scaled, [-2, 0, 1, 3])
        assert result.dimension == pytest.approx(by_int.dimension, abs=1e-10)
        assert result.warnings == by_int.warnings


def test_extreme_orders_do_not_overflow():
    result = fk.generalized_dimensions(cascade([0.001, 0.999], 10), [-300, 300])
    expected = [math.log2(1000) * 300 / 301, -math.log2(0.999) * 300 / 299]
    assert result.dimension == pytest.approx(expected, rel=1e-9)


def test_origins_are_averaged():
    mask = shapes.disc(64)
    shifted = torch.zeros(66, 66, dtype=torch.bool)
    sums = []
    for row in range(2):
        for column in range(2):
            shifted.zero_()
            shifted[row : row + 64, column : column + 64] = mask
            (masses,) = fk.box_masses(shifted, [2]).per_size
            sums.append(((masses.double() / mask.sum()) ** 3).sum())
    result = fk.generalized_dimensions(mask, 3, sizes=[1, 2, 4], offsets=2)
    first = -2 * math.log(mask.sum())
    slope = (math.log(sum(sums) / 4) - first) / math.log(2) / 2
    assert result.local_slopes[0][0] == pytest.approx(slope, abs=1e-12)


def test_poor_fits_are_named():
    # The border cuts the carpet's boxes of 2^k, some of which then hold one cell.
    result = fk.generalized_dimensions(shapes.carpet(6), [-5, 0, 2])
    assert any(text.startswith("q = -5: more than half of the sum") for text in result.warnings)
    assert not any(text.startswith(("q = 0", "q = 2")) for text in result.warnings)
    # One heavy cell in a dilute background has no power law.
    measure = torch.ones(64, 64)
    measure[20, 20] = 500
    texts = fk.generalized_dimensions(measure, [0, 4]).warnings
    assert len(texts) == 1
    assert texts[0].startswith("q = 4: the sums do not lie on a line")


def test_the_result_as_json():
    result = fk.generalized_dimensions(shapes.carpet(4), [0, 2], sizes=(9, 1, 3, 3))
    read = json.loads(result.to_json())
    assert read["sizes"] == [1, 3, 9]
    assert read["dimension"] == result.dimension.tolist()
    assert list(read) == [*result.__dataclass_fields__]


ONES = torch.ones(32, 32)
BAD = {
    "negative": (fk.InputError, "must not be negative, got -1", -ONES),
    "nan": (fk.InputError, "must be finite", ONES * float("nan")),
    "one of zeros": (
        fk.InputError,
        "must have some mass, got only zeros in array 1 of the batch",
        torch.stack([ONES, ONES * 0]),
        {"spatial_dims": 2},
    ),
    "none": (fk.InputError, "at least one array", ONES.expand(0, 32, 32), {"spatial_dims": 2}),
    "spatial dims": (fk.InputError, "spatial_dims must be from 1 to 2", ONES, {"spatial_dims": 3}),
    "zeros": (fk.InputError, "must have some mass, got only zeros", ONES * 0),
    "sum": (fk.InputError, "mask_or_measure must have a finite sum", ONES.double() * 1e308),
    "complex": (fk.InputTypeError, "must be bool, integer or floating", ONES + 1j),
    "text": (fk.InputTypeError, "must be a tensor or an array, got str", "abc"),
    "6-d": (fk.InputError, "at most 5 spatial dimensions, got 6", torch.ones(6 * [4])),
    "0-d": (fk.InputError, "at least one spatial axis", torch.tensor(1)),
    "empty": (fk.InputError, "no spatial side of 0", ONES[:0]),
    "small": (fk.InputError, "at least 3 different box sizes, got 2: the smallest", ONES[:8]),
    "two sizes": (
        fk.InputError,
        "at least 3 different box sizes, got 2",
        ONES,
        {"sizes": [1, 2, 2]},
    ),
    "size 33": (fk.InputError, "smallest spatial side (32), got 33", ONES, {"sizes": [1, 2, 33]}),
    "no q": (fk.InputError, "q must hold at least one order", ONES, {"q": []}),
    "q nan": (fk.InputError, "q must be finite, got nan", ONES, {"q": [0, math.nan]}),
    "q text": (fk.InputTypeError, "q must be numbers, got 'all'", ONES, {"q": "all"}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, measure, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.generalized_dimensions(measure, **(options[0] if options else {}))
    assert "\n" not in str(caught.value)
    with pytest.raises(fk.InputError, match="q must be one of 0, 1, got 2"):
        fk.generalized_dimensions(np.ones(16), [0, 1]).at(2)
