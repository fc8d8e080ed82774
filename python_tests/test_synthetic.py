"""Synthetic boundaries: what they refuse, and that their generator is all that is random.

That they have the dimensions they say is tested with the intervals, in test_calibration.py.
"""

import math

import numpy as np
import pytest
import torch

from fractalkern import synthetic
from fractalkern.errors import InputError, InputTypeError

DRAWN = {
    "straight_lines": synthetic.straight_lines,
    "circles": synthetic.circles,
    "smooth_contours": synthetic.smooth_contours,
    "koch_snowflakes": synthetic.koch_snowflakes,
    "sierpinski_gaskets": synthetic.sierpinski_gaskets,
    "brownian_level_sets": lambda count, side, generator: synthetic.brownian_level_sets(
        count, side, 1.5, generator
    ),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", DRAWN)
def test_fields_are_finite_and_those_of_their_seed(name):
    draw = DRAWN[name]
    first, again, other = (draw(2, 31, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == (2, 31, 31) and first.dtype == torch.float32 and first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    ("count", "side", "draws", "message"),
    [
        (0, 8, generator(), "count must be an integer of at least 1, got 0"),
        (1, 8.5, generator(), "side must be an integer of at least 1, got 8.5"),
        (1, -1, generator(), "side must be an integer of at least 1, got -1"),
        (1, 8, None, "generator must be a torch.Generator, got None"),
    ],
)
def test_sizes_and_generators_are_checked(name, count, side, draws, message):
    with pytest.raises(InputError, match=f"{name}: {message}"):
        DRAWN[name](count, side, draws)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # Once a field of NaN, and a division by zero.
        (lambda: synthetic.brownian_level_sets(1, 8, 2.5, generator()), "dimension must be from 1"),
        (lambda: synthetic.brownian_level_sets(1, 8, 2, generator()), "dimension must be from 1"),
        (lambda: synthetic.smooth_contours(1, 8, generator(), length=0), "length must be positive"),
        (lambda: synthetic.smooth_contours(1, 8, generator(), inside=2), "inside must be from 0"),
        (lambda: synthetic.with_noise(torch.ones(4), math.nan, generator()), "width must be pos"),
        (lambda: synthetic.with_noise(torch.ones(4).int(), 1.0, generator()), "floating point"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda value: synthetic.brownian_level_sets(1, 8, value, generator()), "dimension"),
        (lambda value: synthetic.smooth_contours(1, 8, generator(), length=value), "length"),
        (lambda value: synthetic.smooth_contours(1, 8, generator(), inside=value), "inside"),
        (lambda value: synthetic.with_noise(torch.ones(4), value, generator()), "width"),
    ],
)
def test_numbers_are_those_of_any_library(call, name):
    assert torch.equal(call(np.float32(1)), call(1.0))
    for bad in ("1", True):
        with pytest.raises(InputTypeError, match=f"{name} must be a number, got {bad!r}"):
            call(bad)
