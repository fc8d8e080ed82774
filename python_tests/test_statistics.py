"""Statistics of experiments against known answers."""

import math

import numpy as np
import pytest

from fractalkern.errors import InputError
from fractalkern.experiments.statistics import compare, effect, holm, interval, p_value

# Student's sleep data, 1908: ten patients, hours gained with drug 2 less hours with drug 1.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_p_value_of_students_sleep_data():
    assert p_value(SLEEP) == pytest.approx(0.00283289, rel=1e-5)


def test_effect_of_students_sleep_data():
    # d = 1.58 / 1.229995; the exact factor for 9 degrees of freedom is 0.913875.
    assert effect(SLEEP) == pytest.approx(1.58 / 1.2299955 * 0.913875, rel=1e-5)


def test_holm_of_a_worked_example():
    # Holm 1979: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_interval_of_two_values_is_students():
    # The quantile for one degree of freedom is tan(0.475 pi) = 12.7062.
    assert interval([0.0, 1.0]) == pytest.approx((0.5 - 12.7062 / 2, 0.5 + 12.7062 / 2), rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_intervals_of_few_values_cover_a_normal_mean(n):
    """The values' range, which resampled means never leave, would miss 50, 25 and 12 in 100."""
    samples = np.random.default_rng(1).standard_normal((1000, n))
    missed = sum(not low <= 0 <= high for low, high in map(interval, samples))
    assert 0.03 < missed / 1000 < 0.07


def test_interval_of_many_values_is_near_students():
    values = np.sin(np.arange(60.0) ** 2)
    half = 2.001 * values.std(ddof=1) / math.sqrt(60)
    low, high = interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.08 * half)
    assert interval(values) == (low, high)
    assert interval(values, seed=1) != (low, high)


def test_intervals_cover_a_normal_mean():
    """Percentiles alone would miss the mean of 15 in 100 normal samples of 5."""
    samples = np.random.default_rng(0).standard_normal((400, 5))
    missed = sum(not low <= 0 <= high for low, high in map(interval, samples))
    assert missed / 400 < 0.1


def test_equal_differences():
    assert p_value([0.0, 0.0, 0.0]) == 1.0 and effect([0.0, 0.0]) == 0.0
    assert p_value([0.1] * 5) == 2.0**-4 and effect([-0.1] * 5) == -math.inf


def test_compare_corrects_for_the_family():
    control = [0.5, 0.52, 0.47, 0.55, 0.49]
    better = [value + gain for value, gain in zip(control, SLEEP, strict=False)]
    found = compare({"better": (better, control), "same": (control, control)})
    assert [item.name for item in found] == ["better", "same"]
    assert found[0].p_holm == 2 * found[0].p and found[1].p_holm == 1.0
    assert found[0].low <= found[0].difference <= found[0].high
    assert found[0].pairs == 5 and not found[1].significant()


@pytest.mark.parametrize(
    "treatment, control", [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])]
)
def test_bad_pairs(treatment, control):
    with pytest.raises(InputError, match=r"^compare: "):
        compare({"x": (treatment, control)})
