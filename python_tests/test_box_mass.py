"""box_masses and gliding_moments: the reference by hand, the native ops against the reference."""

import itertools
import re
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fractalkern as fk
from fractalkern.ops.box_mass import gliding_moments
from fractalkern.reference.box_mass import box_mass as reference
from fractalkern.reference.box_mass import gliding_mass as gliding_reference

INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32]
DTYPES = [torch.bool, *INTEGERS, torch.uint64, torch.int64, torch.float32, torch.float64]
LONGEST_SIDE = {1: 300, 2: 60, 3: 20, 4: 9, 5: 6}


def random_weights(shape, dtype, seed, density=0.5):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 100, shape, generator=generator)
    if dtype.is_signed and not dtype.is_floating_point:
        weights -= 30
    weights *= torch.rand(shape, generator=generator) < density
    return weights.to(dtype) / 7 if dtype.is_floating_point else weights.to(dtype)


def masses_by_hand(weights, sizes, offsets):
    """Sorts every cell of [*spatial] into its box with a dictionary."""
    masses = []
    for size in sizes:
        origins = sorted({j * size // offsets for j in range(offsets)}) if offsets else range(size)
        for grid in itertools.product(origins, repeat=weights.ndim):
            boxes = {}
            for cell in itertools.product(*map(range, weights.shape)):
                box = tuple((i + o) // size for i, o in zip(cell, grid, strict=True))
                boxes[box] = boxes.get(box, 0) + int(weights[cell])
            masses += [boxes[box] for box in sorted(boxes)]
    return masses


def moments_by_hand(weights, size):
    masses = []
    for corner in itertools.product(*(range(side - size + 1) for side in weights.shape)):
        box = tuple(slice(c, c + size) for c in corner)
        masses.append(sum(weights[box].flatten().tolist()))
    square = sum(mass * mass for mass in masses)
    return [len(masses), sum(masses), square >> 62, square & (2**62 - 1)]


@st.composite
def problems(draw):
    """Weights with odd strides, and all arguments of the op; few enough grids to be quick."""
    dims = draw(st.integers(1, 5))
    side = st.integers(1, LONGEST_SIDE[dims])
    shape = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 2)))]
    shape += [draw(side) for _ in range(dims)]
    weights = random_weights(
        shape,
        draw(st.sampled_from(DTYPES)),
        draw(st.integers(0, 99)),
        draw(st.sampled_from([0, 0.01, 0.5, 1])),
    )
    layout = draw(st.sampled_from(["contiguous", "transposed", "stepped", "expanded"]))
    if layout == "transposed":
        weights = weights.movedim(-1, 0).contiguous().movedim(0, -1)
    elif layout == "stepped":
        weights = torch.stack([weights, weights], -1).flatten(-2)[..., ::2]
    elif layout == "expanded":
        weights = weights[..., :1].expand(weights.shape)
    smallest = min(weights.shape[weights.ndim - dims :])
    sizes = draw(st.lists(st.integers(1, smallest), min_size=1, max_size=5))
    most = {1: 9, 2: 5, 3: 3, 4: 2, 5: 2}[dims]
    offsets = draw(st.sampled_from([1, 1, *range(1, most + 1), "all"]))
    if offsets == "all" and max(sizes) ** dims > 200:
        offsets = most
    return weights, sizes, dims, offsets


@pytest.mark.parametrize("offsets", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(1,), (11,), (5, 7), (4, 6, 3)], ids=str)
def test_reference_adds_as_by_hand(shape, offsets):
    sizes = range(1, min(shape) + 1)
    for dtype in (torch.bool, torch.int32):
        weights = random_weights(shape, dtype, seed=len(shape))
        (masses,) = reference(weights, len(shape), sizes, offsets).tolist()
        assert masses == masses_by_hand(weights, sizes, offsets)


@pytest.mark.parametrize("shape", [(1,), (11,), (5, 7), (4, 6, 3)], ids=str)
def test_reference_glides_as_by_hand(shape):
    sizes = range(1, min(shape) + 1)
    for scale in (1, 2**36):  # squares that fill both words
        weights = random_weights(shape, torch.int64, seed=len(shape)) * scale
        (moments,) = gliding_reference(weights, len(shape), sizes).tolist()
        assert moments == [moments_by_hand(weights, size) for size in sizes]


@settings(max_examples=300, deadline=None)
@given(problems())
def test_native_equals_reference(problem):
    weights, sizes, dims, offsets = problem
    options = {"spatial_dims": dims, "offsets": offsets}
    native = fk.box_masses(weights, sizes, **options, backend="native")
    expected = fk.box_masses(weights, sizes, **options, backend="reference")
    if weights.is_floating_point():
        torch.testing.assert_close(native.flat, expected.flat, rtol=1e-13, atol=1e-12)
    else:
        assert torch.equal(native.flat, expected.flat)
        moments = gliding_moments(weights, sizes, spatial_dims=dims, backend="native")
        by_reference = gliding_moments(weights, sizes, spatial_dims=dims, backend="reference")
        assert torch.equal(moments.mass, by_reference.mass)
        assert torch.equal(moments.square, by_reference.square)


def test_sums_of_integers_wrap_and_squares_do_not():
    weights = torch.full((3, 4), 2**62)
    for backend in ("native", "reference"):
        assert fk.box_masses(weights, [3], backend=backend).flat.tolist() == [
            2**62,
            3 * 2**62 - 2**64,
        ]
    weights = torch.full((6, 7), 2**40 + 1)
    for backend in ("native", "reference"):
        moments = gliding_moments(weights, [1, 4], backend=backend)
        squares = [high * 2**62 + low for high, low in moments.square.tolist()]
        assert squares == [42 * (2**40 + 1) ** 2, 12 * 16**2 * (2**40 + 1) ** 2]


@cache
def larger_problem(shape, dims, dtype, sizes):
    """Weights and the reference's answers: computed once for all thread counts."""
    weights = random_weights(shape, dtype, seed=7)
    masses = fk.box_masses(weights, sizes, spatial_dims=dims, backend="reference").flat
    moments = gliding_moments(weights, sizes, spatial_dims=dims, backend="reference")
    return weights, masses, moments


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("shape", "dims", "sizes"),
    [
        ((100_003,), 1, (1, 2, 4, 12, 4096, 100_003)),
        ((257, 515), 2, None),
        ((3, 200, 211), 2, (3, 7, 8, 60)),
        ((65, 70, 90), 3, (2, 4, 5, 64)),
    ],
    ids=str,
)
def test_every_instruction_set_and_thread_count_agrees(
    shape, dims, dtype, sizes, instruction_set, threads
):
    weights, masses, moments = larger_problem(shape, dims, dtype, sizes)
    assert torch.equal(fk.box_masses(weights, sizes, spatial_dims=dims).flat, masses)
    native = gliding_moments(weights, sizes, spatial_dims=dims)
    assert torch.equal(native.mass, moments.mass)
    assert torch.equal(native.square, moments.square)


@cache
def float_masses():
    weights = random_weights((300, 301), torch.float64, seed=1)
    return weights, fk.box_masses(weights, offsets=2).flat


def test_masses_of_floats_are_equal_for_every_instruction_set_and_thread_count(
    instruction_set, threads
):
    weights, expected = float_masses()
    assert torch.equal(fk.box_masses(weights, offsets=2).flat, expected)


def test_boxes_that_are_not_empty_are_those_that_box_count_counts():
    mask = random_weights((4, 50, 61), torch.bool, seed=2, density=0.02)
    masses = fk.box_masses(mask, spatial_dims=2, offsets=3)
    counts = fk.box_count(mask, spatial_dims=2, offsets=3)
    for index, per_grid in enumerate(counts.per_offset):
        occupied = [(grid > 0).sum((-2, -1)) for grid in masses.grids(index)]
        assert torch.equal(torch.stack(occupied, -1), per_grid)


def test_every_grid_holds_the_whole_mass():
    weights = random_weights((2, 13, 9, 11), torch.int32, seed=3)
    masses = fk.box_masses(weights, [1, 4, 5], spatial_dims=3, offsets=2)
    assert [len(masses.grids(i)) for i in range(3)] == [1, 8, 8]
    for index, size in enumerate([1, 4, 5]):
        assert masses.per_size[index].shape[-1] == sum(g[0].numel() for g in masses.grids(index))
        for grid in masses.grids(index):
            assert torch.equal(grid.sum((1, 2, 3)), weights.sum((1, 2, 3)))
        first = masses.grids(index)[0]
        assert torch.equal(first[:, 0, 0, 0], weights[:, :size, :size, :size].sum((1, 2, 3)))


def test_numpy_arrays_and_an_empty_batch():
    array = np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4))
    assert fk.box_masses(array, [3]).flat.tolist() == [45, 21]
    assert fk.box_masses(torch.ones(0, 4, 4), spatial_dims=2).flat.shape == (0, 21)
    assert gliding_moments(torch.ones(0, 4, 4) > 0, spatial_dims=2).mass.shape == (0, 3)


ONES = torch.ones(6, 8, dtype=torch.bool)
BAD = {
    "complex": (fk.InputTypeError, "weights must be bool, integer or", ONES.to(torch.complex64)),
    "text": (fk.InputTypeError, "weights must be a tensor or an array, got str", "abc"),
    "0-d": (fk.InputError, "weights must have at least one spatial axis", torch.tensor(1)),
    "empty axis": (fk.InputError, "no spatial side of 0, got shape (6, 0)", ONES[:, :0]),
    "6-d": (fk.InputError, "at most 5 spatial dimensions, got 6", torch.ones(6 * [2]) > 0),
    "dims 3": (fk.InputError, "spatial_dims must be from 1 to 2", ONES, {"spatial_dims": 3}),
    "size 0": (
        fk.InputError,
        "sizes must be from 1 to the weights' small",
        ONES,
        {"sizes": [1, 0]},
    ),
    "size 7": (fk.InputError, "spatial side (6), got 7", ONES, {"sizes": [7]}),
    "no size": (fk.InputError, "sizes must hold at least one", ONES, {"sizes": []}),
    "size 1.0": (fk.InputTypeError, "sizes must hold integers, got 1.0", ONES, {"sizes": [1.0]}),
    "offsets 0": (fk.InputError, "positive integer or 'all', got 0", ONES, {"offsets": 0}),
    "backend": (fk.InputError, "backend must be one of", ONES, {"backend": "fast"}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, weights, *options = BAD[case]
    options = options[0] if options else {}
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.box_masses(weights, **options)
    assert "\n" not in str(caught.value)
    if "offsets" not in options and case != "complex":
        with pytest.raises(error, match=re.escape(message)):
            gliding_moments(weights, **options)


def test_a_gliding_box_takes_no_floats():
    with pytest.raises(fk.InputTypeError, match=r"^gliding_moments: weights must be bool or int"):
        gliding_moments(torch.ones(3, 3))


def test_a_result_that_does_not_fit_in_memory_says_what_it_needs():
    mask = torch.ones((1, 1, 1, 1, 1), dtype=torch.bool).expand(64, 64, 64, 64, 64)
    with pytest.raises(fk.InputError, match=r"boxes an array, .* would need .* and"):
        fk.box_masses(mask, [64], spatial_dims=5, offsets="all")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("shape", "dims"), [((40,), 1), ((3, 12, 19), 2), ((2, 2, 6, 7, 8), 3)], ids=str
)
def test_opcheck(shape, dims, dtype):
    weights = random_weights(shape, dtype, seed=5)
    for sizes, offsets in [([1, 2, 4], 1), ([3, 5], 0), ([2], 2)]:
        torch.library.opcheck(
            torch.ops.fractalkern.box_mass.default, (weights, dims, sizes, offsets)
        )
    if not weights.is_floating_point():
        torch.library.opcheck(torch.ops.fractalkern.gliding_mass.default, (weights, dims, [1, 3]))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_a_graph_break(dynamic):
    def both(weights):
        masses = fk.box_masses(weights, [1, 2, 5], spatial_dims=2, offsets=2)
        moments = gliding_moments(weights, [1, 2, 5], spatial_dims=2)
        return masses.flat, moments.mass, moments.square

    compiled = torch.compile(both, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (3, 6):
        weights = random_weights((batch, 16, 17), torch.int32, seed=batch)
        for ours, expected in zip(compiled(weights), both(weights), strict=True):
            assert torch.equal(ours, expected)
