"""The native box_count where its bit arithmetic has edges: words, strips, tiles, large masks."""

import pytest
import torch

from fractalkern import _native
from fractalkern.reference.box_count import box_count as reference

native = torch.ops.fractalkern.box_count
POWERS = [2**level for level in range(9)]
RULES = pytest.mark.parametrize("mixed", [False, True], ids=["any", "mixed"])
BORDERS = pytest.mark.parametrize("crop", [False, True], ids=["keep", "crop"])


def random_mask(*shape: int, filled: float = 0.05) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < filled


@RULES
@BORDERS
@pytest.mark.parametrize("sizes", [POWERS, [1, 3, 9, 64, 65, 130]], ids=["powers", "any-size"])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 192, 511, 513])
def test_rows_that_end_near_a_word(length, sizes, mixed, crop):
    for shape in [(length,), (5, length), (length, 5), (3, 66, length)]:
        mask = random_mask(*shape, filled=0.02)
        arguments = (mask, mask.dim(), sizes, 1, mixed, crop)
        assert torch.equal(native(*arguments), reference(*arguments))


@RULES
@BORDERS
@pytest.mark.parametrize("offsets", [0, 1, 2, 3, 7])
def test_origins_in_every_number_of_dimensions(offsets, mixed, crop):
    for shape in [(2, 200), (2, 71, 67), (2, 12, 13, 11), (2, 5, 6, 7, 4), (2, 3, 4, 2, 5, 3)]:
        mask = random_mask(*shape, filled=0.3)
        arguments = (mask, mask.dim() - 1, [4, 1, 3, 4], offsets, mixed, crop)
        assert torch.equal(native(*arguments), reference(*arguments))


@RULES
@BORDERS
@pytest.mark.parametrize(
    "shape", [(3000, 1111), (1 << 21,), (2, 1 << 18), (90, 200, 130), (3, 5000, 40)], ids=str
)
def test_large_masks_on_every_instruction_set_and_two_threads(shape, mixed, crop):
    mask = random_mask(*shape, filled=0.001)
    threads, instruction_set = torch.get_num_threads(), _native.build_info()["instruction_set"]
    try:
        for sizes in (POWERS, [10, 37, 100, 300]):
            expected = reference(mask, mask.dim(), sizes, 1, mixed, crop)
            for name in _native.build_info()["supported_instruction_sets"]:
                _native.set_instruction_set(name)
                for count in (1, 2):
                    torch.set_num_threads(count)
                    counts = native(mask, mask.dim(), sizes, 1, mixed, crop)
                    assert torch.equal(counts, expected), (name, count)
    finally:
        torch.set_num_threads(threads)
        _native.set_instruction_set(instruction_set)


def test_nonzero_bytes_count_as_set():
    mask = torch.tensor([[0, 1, 2, 128], [255, 0, 0, 64]], dtype=torch.uint8)
    assert native(mask, 2, [1, 2], 1, False, False).tolist() == [[5, 2]]
    assert native(mask.view(torch.int8), 2, [1, 2], 1, True, False).tolist() == [[0, 2]]


@pytest.mark.parametrize("batch", [(0,), (1,), (300,), (2, 3), (4, 0)], ids=str)
def test_batches_come_out_flat(batch):
    mask = random_mask(*batch, 20, 30)
    for sizes in (POWERS, [3, 5]):
        counts = native(mask, 2, sizes, 1, False, False)
        assert torch.equal(counts, reference(mask, 2, sizes, 1, False, False))


def test_unaligned_and_transposed_masks():
    mask = random_mask(70, 100)
    odd = mask.flatten()[3:-7].view(30, -1)
    for view in (mask.T, mask[1:, 1:], odd):
        expected = reference(view, 2, POWERS, 1, True, False)
        assert torch.equal(native(view, 2, POWERS, 1, True, False), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((random_mask(4, 4), 2, [0], 1, False, False), "sizes must be 1"),
        ((random_mask(4, 4), 2, [2**62], 1, False, False), "sizes must be 1"),
        ((random_mask(4, 4), 2, [2], -1, False, False), "offsets"),
        ((random_mask(4, 4), 0, [2], 1, False, False), "spatial_dims"),
        ((random_mask(4, 4), 3, [2], 1, False, False), "at least 3 dimensions"),
        ((random_mask(1, 1, 1, 1, 1, 1), 6, [2], 1, False, False), "spatial_dims"),
        ((torch.zeros(4, 4), 2, [2], 1, False, False), "bool, uint8 or int8"),
        ((random_mask(4, 4), 2, [2**60], 0, False, False), "more grids"),
    ],
)
def test_a_direct_call_is_guarded(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        native(*arguments)


def test_no_sizes_and_no_cells():
    assert native(random_mask(4, 4), 2, [], 1, False, False).shape == (1, 0)
    for sizes in ([2, 4], [3]):
        assert native(random_mask(3, 0, 4), 2, sizes, 1, False, False).sum() == 0
