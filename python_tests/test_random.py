import numpy as np
import pytest
import torch

from fractalkern.errors import InputError
from fractalkern.random import integers, normal, philox4x32, uniform

# The known answers that the Random123 distribution publishes for philox4x32, 10 rounds.
KNOWN_ANSWERS = [
    (
        [0, 0, 0, 0],
        [0, 0],
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    ),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_matches_the_published_vectors(counter, key, expected):
    assert philox4x32(counter, key).tolist() == expected
    assert philox4x32([[counter] * 3] * 2, key).tolist() == [[expected] * 3] * 2


def test_element_is_a_function_of_its_own_coordinates():
    words = philox4x32([[5, 3, 0, 9]], (7, 1))[0]
    seed = (1 << 32) + 7
    expected = (int(words[0]) * 272) >> 32
    assert integers((4, 6), 272, seed=seed, stream=9)[3, 5].item() == expected
    u = ((int(words[0]) << 32 | int(words[1])) >> 11) / 2**53
    v = ((int(words[2]) << 32 | int(words[3])) >> 11) / 2**53
    z = np.sqrt(-2 * np.log(u + 2**-53)) * np.cos(2 * np.pi * v)
    assert normal((4, 6), seed=seed, stream=9)[3, 5].item() == pytest.approx(z, rel=1e-14)
    assert uniform((4, 6), seed=seed, stream=9)[3, 5].item() == u


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 3, 5)])
def test_larger_array_continues_a_smaller_one(shape):
    larger = normal(tuple(n + 2 for n in shape), seed=3, stream=1)
    assert torch.equal(larger[tuple(slice(n) for n in shape)], normal(shape, seed=3, stream=1))


def test_streams_and_seeds_differ():
    draws = [normal((64,), seed=s, stream=t) for s in (0, 1, 2**32) for t in (0, 1)]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_normal_is_standard():
    sample = normal((400, 500), seed=0, stream=0)
    count = sample.numel()
    assert sample.dtype == torch.float64
    assert abs(sample.mean().item()) < 4 / count**0.5
    assert abs(sample.var().item() - 1) < 4 * (2 / count) ** 0.5
    assert abs((sample**4).mean().item() - 3) < 4 * (96 / count) ** 0.5


def test_integers_fill_their_range_evenly():
    counts = torch.bincount(integers((100_000,), 10, seed=0, stream=0), minlength=10)
    assert counts.shape == (10,)
    chi_squared = ((counts - 10_000.0) ** 2 / 10_000).sum().item()
    assert chi_squared < 27.9  # the 99.9 % point of 9 degrees of freedom


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: normal((2,), seed=-1, stream=0), "seed"),
        (lambda: normal((2,), seed=2**64, stream=0), "seed"),
        (lambda: normal((2, 2, 2, 2), seed=0, stream=0), "shape"),
        (lambda: integers((2,), 0, seed=0, stream=0), "high"),
        (lambda: integers((2,), 2**33, seed=0, stream=0), "high"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(InputError, match=f"^{named} must"):
        call()
