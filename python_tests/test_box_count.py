"""box_count: the reference against a count by hand, the native op against the reference."""

import itertools
import re
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fractalkern as fk
from fractalkern.reference.box_count import box_count as reference

INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32]
DTYPES = [torch.bool, *INTEGERS, torch.uint64, torch.int64]
LONGEST_SIDE = {1: 300, 2: 80, 3: 24, 4: 9, 5: 6}


def random_mask(shape, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < density


def count_by_hand(mask, sizes, offsets, mixed, crop):
    """Sorts every cell of [*spatial] into its box with a dictionary."""
    counts = []
    for size in sizes:
        origins = sorted({j * size // offsets for j in range(offsets)}) if offsets else range(size)
        for grid in itertools.product(origins, repeat=mask.ndim):
            boxes = {}
            for cell in itertools.product(*map(range, mask.shape)):
                box = tuple((i + o) // size for i, o in zip(cell, grid, strict=True))
                boxes.setdefault(box, []).append(bool(mask[cell]))
            counts.append(
                sum(
                    any(cells)
                    and not (mixed and all(cells))
                    and not (crop and len(cells) < size**mask.ndim)
                    for cells in boxes.values()
                )
            )
    return counts


@st.composite
def problems(draw):
    """A mask with odd strides, and all arguments of the op; few enough grids to be quick."""
    dims = draw(st.integers(1, 5))
    side = st.integers(1, LONGEST_SIDE[dims])
    shape = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 2)))]
    shape += [draw(side) for _ in range(dims)]
    mask = random_mask(
        shape, draw(st.sampled_from([0, 0.003, 0.1, 0.5, 0.97, 1])), draw(st.integers(0, 99))
    )
    dtype = draw(st.sampled_from(DTYPES))
    if dtype != torch.bool:
        value = draw(st.sampled_from([1, 2, 64]))
        if not dtype.is_signed or draw(st.booleans()):
            mask = (mask.to(torch.int64) * value).to(dtype)
        else:
            mask = (mask.to(torch.int64) * -value).to(dtype)
    layout = draw(st.sampled_from(["contiguous", "transposed", "stepped", "expanded"]))
    if layout == "transposed":
        mask = mask.movedim(-1, 0).contiguous().movedim(0, -1)
    elif layout == "stepped":
        mask = mask.repeat_interleave(2, -1)[..., ::2]
    elif layout == "expanded":
        mask = mask[..., :1].expand(mask.shape)
    smallest = min(mask.shape[mask.ndim - dims :])
    sizes = draw(st.lists(st.integers(1, smallest), min_size=1, max_size=4))
    most = {1: 9, 2: 5, 3: 3, 4: 2, 5: 2}[dims]
    offsets = draw(st.sampled_from([1, *range(1, most + 1), "all"]))
    if offsets == "all" and max(sizes) ** dims > 200:
        offsets = most
    rule, border = draw(st.sampled_from(["any", "mixed"])), draw(st.sampled_from(["keep", "crop"]))
    return mask, sizes, {"spatial_dims": dims, "rule": rule, "offsets": offsets, "border": border}


@pytest.mark.parametrize("crop", [False, True], ids=["keep", "crop"])
@pytest.mark.parametrize("mixed", [False, True], ids=["any", "mixed"])
@pytest.mark.parametrize("offsets", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(1,), (11,), (5, 7), (4, 6, 3)], ids=str)
def test_reference_counts_as_by_hand(shape, offsets, mixed, crop):
    sizes = range(1, min(shape) + 1)
    for seed, density in enumerate([0.1, 0.6, 0.95]):
        mask = random_mask(shape, density, seed)
        (counts,) = reference(mask, len(shape), sizes, offsets, mixed, crop).tolist()
        assert counts == count_by_hand(mask, sizes, offsets, mixed, crop)


@settings(max_examples=300, deadline=None)
@given(problems())
def test_native_equals_reference(problem):
    mask, sizes, options = problem
    native = fk.box_count(mask, sizes, **options, backend="native")
    expected = fk.box_count(mask, sizes, **options, backend="reference")
    assert torch.equal(native.per_grid, expected.per_grid)
    assert torch.equal(native.counts, expected.counts)
    assert torch.equal(native.mean, expected.mean)


@cache
def larger_problem(shape, dims, rule, sizes):
    """A mask, the options, and the reference's counts: computed once for all thread counts."""
    mask = random_mask(shape, 0.01, seed=7)
    options = {"sizes": sizes, "spatial_dims": dims, "rule": rule, "offsets": 2}
    return mask, options, fk.box_count(mask, **options, backend="reference").per_grid


@pytest.mark.parametrize("sizes", [None, (3, 7, 8, 60)], ids=["powers", "uneven"])
@pytest.mark.parametrize("rule", ["any", "mixed"])
@pytest.mark.parametrize(
    ("shape", "dims"),
    [((100_003,), 1), ((257, 515), 2), ((3, 200, 200), 2), ((65, 70, 130), 3)],
    ids=str,
)
def test_every_instruction_set_and_thread_count_agrees(
    shape, dims, rule, sizes, instruction_set, threads
):
    mask, options, expected = larger_problem(shape, dims, rule, sizes)
    assert torch.equal(fk.box_count(mask, **options).per_grid, expected)


def test_sizes_that_cannot_be_read_are_refused(monkeypatch):
    """A CUDA graph that is captured lets no value be read; here the CPU stands in for a GPU."""
    monkeypatch.setattr("fractalkern.ops._boxes.is_capturing", lambda device: True)
    mask = torch.ones(4, 4, dtype=torch.bool)
    for call in (fk.box_count, fk.box_masses):
        with pytest.raises(
            fk.InputError, match=r"sizes must be a list or on the CPU while .* cpu$"
        ):
            call(mask, torch.tensor([1, 2]))
        assert call(mask, [1, 2]).sizes.tolist() == [1, 2]


def test_default_sizes_are_the_powers_of_two_up_to_the_smallest_side():
    assert fk.box_count(torch.ones(9, 8)[None] != 0, spatial_dims=2).sizes.tolist() == [1, 2, 4, 8]
    assert fk.box_count(torch.ones(7, dtype=torch.bool)).sizes.tolist() == [1, 2, 4]
    assert fk.box_count(torch.ones(1, 1, dtype=torch.bool)).sizes.tolist() == [1]


def test_counts_is_the_least_and_mean_the_mean_of_per_offset():
    mask = random_mask((2, 3, 20, 30), 0.05, seed=1)
    for offsets in (1, 3, "all", 10**30):
        result = fk.box_count(mask, [1, 2, 7], spatial_dims=2, offsets=offsets)
        per_axis = [min(1 if offsets == 1 else 3 if offsets == 3 else s, s) for s in (1, 2, 7)]
        assert [part.shape for part in result.per_offset] == [(2, 3, n * n) for n in per_axis]
        assert result.counts.shape == result.mean.shape == (2, 3, 3)
        for i, part in enumerate(result.per_offset):
            assert torch.equal(result.counts[..., i], part.amin(-1))
            assert torch.allclose(result.mean[..., i], part.double().mean(-1), rtol=1e-15)


def test_grids_are_in_row_major_order_of_their_origins():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 1:3] = True  # one box of side 2 only if the last axis is shifted
    (counts,) = fk.box_count(mask, [2], offsets="all").per_offset
    assert counts.tolist() == [2, 1, 2, 1]


def test_a_batch_counts_each_mask_on_its_own():
    masks = random_mask((5, 2, 17, 23), 0.1, seed=3)
    together = fk.box_count(masks, spatial_dims=2, offsets=2).per_grid
    for index in itertools.product(range(5), range(2)):
        assert torch.equal(together[index], fk.box_count(masks[index], offsets=2).per_grid)
    assert fk.box_count(masks[:0], spatial_dims=2).counts.shape == (0, 2, 5)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i4"])
def test_numpy_arrays_of_any_layout(dtype):
    array = (random_mask((9, 14), 0.2, seed=2).numpy() * 3).astype(dtype)
    expected = fk.box_count(torch.from_numpy(array != 0)).counts.tolist()
    assert fk.box_count(array).counts.tolist() == expected
    assert fk.box_count(np.asfortranarray(array)).counts.tolist() == expected
    backwards = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    assert fk.box_count(backwards).counts.tolist() == expected
    array.setflags(write=False)
    assert fk.box_count(array, np.array([1, 2, 4, 8])).counts.tolist() == expected
    assert fk.box_count(array, torch.tensor([1, 2, 4, 8])).counts.tolist() == expected


def test_high_bits_of_wide_integers_count_as_set():
    for value, dtype in [(256, torch.int16), (1 << 40, torch.int64), (-(1 << 40), torch.int64)]:
        assert fk.box_count(torch.tensor([0, value, 0], dtype=dtype)).counts.tolist() == [1, 1]


def test_backend_is_forced_by_argument_and_by_context():
    mask = random_mask((8, 8), 0.3, seed=4)
    with fk.use_backend("reference"):
        assert torch.equal(fk.box_count(mask).counts, fk.box_count(mask, backend="native").counts)
    with pytest.raises(fk.InputError, match="backend must be one of"):
        fk.box_count(mask, backend="fast")


ONES = torch.ones(6, 8, dtype=torch.bool)
BAD = {
    "float": (fk.InputTypeError, "mask must be bool or integer, got torch.float32", ONES.float()),
    "complex": (fk.InputTypeError, "mask must be bool or integer", ONES.to(torch.complex64)),
    "text": (fk.InputTypeError, "mask must be a tensor or an array, got str", "abc"),
    "sparse": (fk.InputTypeError, "mask must be a dense tensor", ONES.to_sparse()),
    "0-d": (fk.InputError, "mask must have at least one spatial axis", torch.tensor(True)),
    "empty axis": (fk.InputError, "no spatial side of 0, got shape (6, 0)", ONES[:, :0]),
    "6-d": (fk.InputError, "at most 5 spatial dimensions, got 6", torch.ones(6 * [2]) != 0),
    "dims 0": (fk.InputError, "spatial_dims must be from 1 to 2", ONES, {"spatial_dims": 0}),
    "dims 3": (fk.InputError, "spatial_dims must be from 1 to 2", ONES, {"spatial_dims": 3}),
    "dims 2.0": (fk.InputTypeError, "spatial_dims must be an integer", ONES, {"spatial_dims": 2.0}),
    "size 0": (fk.InputError, "sizes must be from 1 to", ONES, {"sizes": [1, 0]}),
    "size -2": (fk.InputError, "spatial side (6), got -2", ONES, {"sizes": [-2]}),
    "size 7": (fk.InputError, "spatial side (6), got 7", ONES, {"sizes": [7]}),
    "no size": (fk.InputError, "sizes must hold at least one", ONES, {"sizes": []}),
    "size 1.0": (fk.InputTypeError, "sizes must hold integers, got 1.0", ONES, {"sizes": [1.0]}),
    "float sizes": (fk.InputTypeError, "sizes must hold", ONES, {"sizes": np.array([1.5, 2])}),
    "size tensor(1.)": (
        fk.InputTypeError,
        "sizes must hold integers, got tensor(1.)",
        ONES,
        {"sizes": [torch.tensor(1.0)]},
    ),
    "size True": (fk.InputTypeError, "sizes must hold integers, got True", ONES, {"sizes": [True]}),
    "one size": (fk.InputTypeError, "sizes must be a sequence", ONES, {"sizes": 2}),
    "rule": (fk.InputError, "rule must be one of any, mixed, got 'all'", ONES, {"rule": "all"}),
    "border": (fk.InputError, "border must be one of keep, crop", ONES, {"border": "wrap"}),
    "offsets 0": (fk.InputError, "positive integer or 'all', got 0", ONES, {"offsets": 0}),
    "offsets each": (fk.InputError, "offsets must be a positive", ONES, {"offsets": "each"}),
    "offsets 2.0": (fk.InputTypeError, "offsets must be a positive", ONES, {"offsets": 2.0}),
    "offsets None": (fk.InputTypeError, "offsets must be a positive", ONES, {"offsets": None}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    error, message, mask, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        fk.box_count(mask, **(options[0] if options else {}))
    assert str(caught.value).startswith("box_count: ")
    assert "\n" not in str(caught.value)


def test_a_result_that_does_not_fit_in_memory_says_what_it_needs():
    mask = torch.ones((1, 1, 1, 1, 1), dtype=torch.bool).expand(64, 64, 64, 64, 64)
    with pytest.raises(fk.InputError, match=r"1073741824 grids .* would need \d+ GiB and"):
        fk.box_count(mask[None].expand(100, *mask.shape), [64], spatial_dims=5, offsets="all")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_a_copy_of_the_mask_that_does_not_fit_in_memory_says_what_it_needs(dtype):
    mask = torch.ones(1, dtype=dtype).expand(10**7, 10**7)
    with pytest.raises(fk.InputError, match=r"as bytes in order, .* would need [\d.]+ TiB and"):
        fk.box_count(mask)


def test_integers_may_be_those_of_numpy_or_tensors():
    mask = random_mask((5, 9, 12), 0.2, seed=8)
    expected = fk.box_count(mask, [3], spatial_dims=2, offsets=2).per_grid
    for integer in (np.int64, np.uint8, torch.tensor):
        options = {"spatial_dims": integer(2), "offsets": integer(2)}
        assert torch.equal(fk.box_count(mask, [integer(3)], **options).per_grid, expected)


OPS = [((40,), 1), ((12, 19), 2), ((3, 12, 19), 2), ((2, 2, 6, 7, 8), 3)]


@pytest.mark.parametrize(("shape", "dims"), OPS, ids=str)
def test_opcheck(shape, dims):
    mask = random_mask(shape, 0.2, seed=5)
    for arguments in [([1, 2, 4], 1, False, False), ([3, 5], 0, True, True), ([2], 2, True, False)]:
        torch.library.opcheck(torch.ops.fractalkern.box_count.default, (mask, dims, *arguments))
    torch.library.opcheck(
        torch.ops.fractalkern.box_count.default,
        (mask.to(torch.uint8) * 2, dims, [1, 3], 1, False, False),
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_a_graph_break(dynamic):
    @torch.compile(fullgraph=True, dynamic=dynamic, backend="aot_eager")
    def compiled(mask):
        result = fk.box_count(mask, [1, 2, 5], spatial_dims=2, offsets=2, rule="mixed")
        return result.counts, result.mean

    for batch in (3, 6):
        mask = random_mask((batch, 16, 17), 0.2, seed=batch).to(torch.int32)
        result = fk.box_count(mask, [1, 2, 5], spatial_dims=2, offsets=2, rule="mixed")
        counts, mean = compiled(mask)
        assert torch.equal(counts, result.counts)
        assert torch.equal(mean, result.mean)


@pytest.mark.parametrize("name", ["spatial_dims", "offsets"])
def test_compiles_again_for_another_integer(name):
    """Then torch takes it for variable."""
    compiled = torch.compile(
        lambda mask, value: fk.box_count(mask, **{name: value}).counts,
        fullgraph=True,
        backend="aot_eager",
    )
    mask = random_mask((8, 9, 10), 0.1, seed=1)
    for value in (1, 2, 3):
        assert torch.equal(compiled(mask, value), fk.box_count(mask, **{name: value}).counts)


# A warning of torch's own, raised while inductor is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiles_with_default_arguments_and_returns_the_dataclass():
    mask = random_mask((16, 17), 0.2, seed=6)
    result = torch.compile(fk.box_count, fullgraph=True)(mask)
    assert torch.equal(result.counts, fk.box_count(mask).counts)
