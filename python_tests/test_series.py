"""Higuchi's dimension and detrended fluctuations: by hand, and on noise of a known exponent."""

import math
import re

import numpy as np
import pytest
import torch

import fractalkern as fk


def fractional_gaussian_noise(count, n, hurst, seed):
    """Exact samples [count, n]: the covariance of 2 n steps on a circle, by its FFT."""
    k = torch.arange(n + 1, dtype=torch.float64)
    power = 2 * hurst
    covariance = ((k + 1) ** power - 2 * k**power + (k - 1).abs() ** power) / 2
    eigenvalues = torch.fft.rfft(torch.cat([covariance, covariance[1:-1].flip(0)])).real
    assert eigenvalues.min() > 0
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 2 * n, dtype=torch.float64, generator=generator)
    return torch.fft.irfft(torch.fft.rfft(white) * eigenvalues.sqrt(), 2 * n)[:, :n]


HURST = [0.2, 0.5, 0.8]
NOISE = {hurst: fractional_gaussian_noise(24, 8192, hurst, seed=1) for hurst in HURST}


def assert_mean(values, expected, bias):
    """Within three standard errors of the mean over seeds, and a bias of a finite length."""
    stderr = float(values.std()) / math.sqrt(len(values))
    assert float(values.mean()) == pytest.approx(expected, abs=3 * stderr + bias)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("hurst", HURST)
def test_detrended_fluctuation_of_fractional_noise_is_its_hurst_exponent(hurst, order):
    result = fk.detrended_fluctuation(NOISE[hurst], order=order)
    assert_mean(result.exponent, hurst, bias=0.005)
    assert result.exponent.std() < 0.05
    motion = fk.detrended_fluctuation(NOISE[hurst].cumsum(-1), order=order)
    assert_mean(motion.exponent, hurst + 1, bias=0.04)


@pytest.mark.parametrize("hurst", HURST)
def test_higuchi_dimension_of_fractional_motion_is_two_minus_its_hurst_exponent(hurst):
    result = fk.higuchi_dimension(NOISE[hurst].cumsum(-1))
    assert_mean(result.dimension, 2 - hurst, bias=0.005)
    assert result.dimension.std() < 0.05


def test_higuchi_dimension_of_white_noise_is_2_and_of_smooth_curves_1():
    assert_mean(fk.higuchi_dimension(NOISE[0.5]).dimension, 2, bias=0.002)
    assert float(fk.higuchi_dimension(torch.arange(1000) * -3)) == pytest.approx(1, abs=1e-12)
    # A sine of few samples to a lag is a curve to every lag.
    assert float(fk.higuchi_dimension(torch.arange(4000).div(1000).sin())) == pytest.approx(
        1, abs=0.01
    )


def higuchi_by_hand(x, lag):
    n, lengths = len(x), []
    for start in range(lag):
        count = (n - 1 - start) // lag
        total = sum(abs(x[start + i * lag] - x[start + (i - 1) * lag]) for i in range(1, count + 1))
        lengths.append(total * (n - 1) / (count * lag) / lag)
    return sum(lengths) / lag


@pytest.mark.parametrize("n", [8, 30, 97])
def test_higuchi_lengths_are_as_by_hand(n):
    x = NOISE[0.5][0, :n].tolist()
    result = fk.higuchi_dimension(x, range(1, n // 2 + 1))
    by_hand = [higuchi_by_hand(x, lag) for lag in range(1, n // 2 + 1)]
    assert result.lengths.tolist() == pytest.approx(by_hand, rel=1e-12)


def fluctuation_by_hand(x, size, order):
    y = np.cumsum(x - x.mean())
    starts = [k * size for k in range(len(x) // size)]
    if len(x) % size:
        starts += [len(x) % size + start for start in starts]
    squares = []
    for start in starts:
        t, window = np.arange(size) / size, y[start : start + size]
        fit = np.polynomial.Polynomial.fit(t, window, order)
        squares.append(np.mean((window - fit(t)) ** 2))
    return math.sqrt(np.mean(squares))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n", [64, 101])
def test_fluctuations_are_as_by_hand(n, order):
    x = NOISE[0.8][0, :n].numpy()
    sizes = [order + 2, 7, 16, n]
    result = fk.detrended_fluctuation(x, sizes, order=order)
    by_hand = [fluctuation_by_hand(x, size, order) for size in sizes]
    assert result.fluctuations.tolist() == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_trend_of_a_lower_order_than_the_polynomials_changes_nothing(order):
    noise = NOISE[0.5][0]
    t = torch.linspace(-1, 1, len(noise), dtype=torch.float64)
    trended = noise + 50 * t ** (order - 1) - 20
    plain = fk.detrended_fluctuation(noise, order=order)
    result = fk.detrended_fluctuation(trended, order=order)
    assert torch.allclose(result.fluctuations, plain.fluctuations, rtol=1e-8)
    # One order higher it does.
    steeper = fk.detrended_fluctuation(noise + 5 * 10**order * t**order, order=order)
    assert float(steeper) > float(plain) + 0.3


@pytest.mark.parametrize("measure", [fk.higuchi_dimension, fk.detrended_fluctuation])
def test_a_batch_is_each_series_on_its_own_in_any_dtype_and_unit(measure):
    batch = NOISE[0.8][:6, :600].reshape(2, 3, 600)
    together = measure(batch)
    value = "dimension" if measure is fk.higuchi_dimension else "exponent"
    assert getattr(together, value).shape == (2, 3)
    assert together.local_slopes.shape[:2] == (2, 3)
    alone = measure(batch[1, 2])
    assert float(alone) == pytest.approx(getattr(together, value)[1, 2].item(), abs=1e-12)
    assert float(alone) == float(measure(batch[1, 2].clone().numpy()))
    for scaled in (batch[1, 2] * 1e-150, batch[1, 2] * 1e150 + 1e148):
        assert float(measure(scaled)) == pytest.approx(float(alone), abs=1e-9)
    assert float(measure(batch[1, 2].float())) == pytest.approx(float(alone), abs=1e-5)
    assert float(measure(batch[1, 2].tolist())) == float(alone)
    rounded = (batch[1, 2] * 1e6).round()
    assert float(measure(rounded.to(torch.int32))) == float(measure(rounded))
    strided = batch[1, 2].flip(0).repeat_interleave(3)[::3].flip(0)
    assert float(measure(strided)) == float(alone)
    with pytest.raises(fk.InputError, match="needs one series, this result has 6"):
        float(together)


def test_default_sizes_are_four_an_octave():
    assert fk.higuchi_dimension(NOISE[0.5][0, :64]).lags.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    sizes = fk.detrended_fluctuation(NOISE[0.5][0, :256]).sizes.tolist()
    assert sizes == [16, 19, 23, 27, 32, 38, 45, 54, 64]


LINE = torch.arange(200.0)
HIGUCHI, DFA = fk.higuchi_dimension, fk.detrended_fluctuation
BAD = {
    "short": (HIGUCHI, fk.InputError, "at least 8 samples", LINE[:7]),
    "0-d": (HIGUCHI, fk.InputError, "got shape ()", torch.tensor(1.0)),
    "nan": (HIGUCHI, fk.InputError, "series must be finite", LINE * math.nan),
    "constant": (HIGUCHI, fk.InputError, "series must vary, got a constant", LINE * 0 + 3),
    "one constant": (HIGUCHI, fk.InputError, "series must vary", torch.stack([LINE, LINE * 0])),
    "complex": (HIGUCHI, fk.InputTypeError, "series must be real numbers", LINE + 1j),
    "ragged": (HIGUCHI, fk.InputTypeError, "must be a tensor or an array", [[1.0], [2, 3]]),
    "words": (DFA, fk.InputTypeError, "must be a tensor or an array, got ndarray", ["a"] * 9),
    "periodic": (HIGUCHI, fk.InputError, "must vary at every lag", LINE % 2, {"lags": [1, 2, 3]}),
    "lag 101": (HIGUCHI, fk.InputError, "from 1 to 100, got 101", LINE, {"lags": [1, 2, 101]}),
    "lag 1.5": (HIGUCHI, fk.InputTypeError, "must hold integers, got 1.5", LINE, {"lags": [1.5]}),
    "2 lags": (HIGUCHI, fk.InputError, "at least 3 different ones, got 2", LINE, {"lags": [1, 2]}),
    "dfa short": (DFA, fk.InputError, "at least 128 samples", LINE[:127]),
    "dfa line": (DFA, fk.InputError, "about a polynomial of order 1", LINE, {"order": 2}),
    "dfa order 4": (DFA, fk.InputError, "order must be from 1 to 3, got 4", LINE, {"order": 4}),
    "dfa order 1.0": (DFA, fk.InputTypeError, "order must be an integer", LINE, {"order": 1.0}),
    "dfa size 2": (DFA, fk.InputError, "sizes must be from 3 to 200, got 2", LINE, {"sizes": [2]}),
    "dfa one": (DFA, fk.InputTypeError, "sizes must be a sequence", LINE, {"sizes": 8}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_that_names_the_argument(case):
    measure, error, message, series, *options = BAD[case]
    with pytest.raises(error, match=re.escape(message)) as caught:
        measure(series, **(options[0] if options else {}))
    assert str(caught.value).startswith(f"{measure.__name__}: ")
    assert "\n" not in str(caught.value)
