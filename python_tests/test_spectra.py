"""The slope of a measured spectrum, and the textbook relations to a dimension."""

import math

import numpy as np
import pytest
import torch

import fractalkern as fk


def power_law_field(shape, beta, generator):
    """A Gaussian field by the plain method: white noise, filtered."""
    axes = [torch.fft.fftfreq(n) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1])]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    k.view(-1)[0] = 1
    white = torch.fft.rfftn(torch.randn(shape, generator=generator, dtype=torch.float64))
    white.view(-1)[0] = 0
    return torch.fft.irfftn(white * k ** (-beta / 2), s=shape)


@pytest.mark.parametrize("shape", [(1000,), (64, 256), (31, 17, 40), (4, 6, 5, 7, 8)], ids=str)
@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.75, 3.0, 6.0])
def test_slope_and_its_error(shape, beta):
    """Over 48 fields: the mean deviation within 3 of its errors, the spread that of a normal.

    The variance of 48 standard normals is 1 with a standard error of sqrt(2 / 47) = 0.21.
    """
    generator = torch.Generator().manual_seed(7)
    fits = [fk.spectrum_of(power_law_field(shape, beta, generator)) for _ in range(48)]
    scores = np.array([(fit.beta - beta) / fit.stderr for fit in fits])
    assert abs(scores.mean()) < 3 / math.sqrt(48) + 0.1  # maximum likelihood is biased by order 1/n
    assert 1 - 3 * 0.21 < scores.var() < 1 + 3 * 0.21


def test_amplitude_is_the_power_at_one_cycle_per_sample():
    generator = torch.Generator().manual_seed(1)
    fit = fk.spectrum_of(power_law_field((512, 512), 1.5, generator))
    assert fit.amplitude == pytest.approx(1, rel=0.05)


def test_radial_average_holds_every_mode_once():
    fit = fk.spectrum_of(torch.randn(16, 9, dtype=torch.float64))
    # 144 coefficients of a real field: k = 0, k = (8, 0) alone, the others in pairs
    assert float(fit.modes.sum()) == (144 - 1) / 2
    assert len(fit.k) == len(fit.power) == len(fit.modes)
    assert (fit.k.diff() > 0).all()


def test_white_noise_has_unit_power_at_all_k():
    generator = torch.Generator().manual_seed(3)
    fit = fk.spectrum_of(torch.randn(256, 256, generator=generator, dtype=torch.float64))
    score = (fit.power - 1) * fit.modes.sqrt()
    assert score.abs().max() < 4.5


def test_half_precision_strides_and_numpy():
    field = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    expected = float(fk.spectrum_of(field))
    assert float(fk.spectrum_of(field.T.contiguous().T)) == pytest.approx(expected, abs=1e-9)
    assert float(fk.spectrum_of(field.numpy())) == expected
    assert float(fk.spectrum_of(field.to(torch.bfloat16))) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (torch.ones(8, 8), "must vary, got a constant"),
        (torch.ones(8, 8, dtype=torch.int64), "must be floating point, got torch.int64"),
        (torch.tensor([1.0, math.nan, 2.0]), "must be finite"),
        (1e200 * torch.arange(9.0).double(), "must have squares that fit float64"),
        (torch.ones(0), "must be finite and not empty"),
        (torch.ones(1, 2, 1, 2, 1, 2), "must have 1 to 5 axes, got 6"),
        (torch.arange(2.0), "at least 3 modes"),
    ],
)
def test_bad_field_is_one_sentence(field, message):
    with pytest.raises(fk.InputError, match=message) as caught:
        fk.spectrum_of(field)
    assert str(caught.value).startswith("spectrum_of: field must")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("beta", "ndim", "dimension"),
    [(1, 1, 2.0), (2, 1, 1.5), (3, 1, 1.0), (2, 2, 3.0), (3, 2, 2.5), (4, 2, 2.0), (3.6, 3, 3.7)],
)
def test_textbook_relations(beta, ndim, dimension):
    assert fk.fractal_dimension_of(beta, ndim) == pytest.approx(dimension)
    assert fk.spectral_exponent_of(dimension, ndim) == pytest.approx(beta)


def test_relations_refuse_what_they_do_not_cover():
    with pytest.raises(fk.InputError, match=r"beta must be from 2 to 4 for ndim = 2, got 1\.9"):
        fk.fractal_dimension_of(1.9, 2)
    with pytest.raises(fk.InputError, match="dimension must be from 1 to 2 for ndim = 1, got nan"):
        fk.spectral_exponent_of(math.nan, 1)
    with pytest.raises(fk.InputError, match="ndim must be an integer of at least 1, got 0"):
        fk.fractal_dimension_of(1, 0)
    with pytest.raises(fk.InputTypeError, match="beta must be a number, got '2'"):
        fk.fractal_dimension_of("2", 1)
    with pytest.raises(fk.InputTypeError, match="dimension must be a number, got None"):
        fk.spectral_exponent_of(None, 1)
