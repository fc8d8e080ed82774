"""Initialisers: exact variances, spectra, the published rule, nulls, seeds, bad input."""

import math

import pytest
import torch
from torch import nn

import fractalkern as fk
from fractalkern.init import (
    drawn_length,
    fractal_normal_,
    genesis_,
    shuffled_,
    spectrum_of,
    white_like_,
)


@pytest.mark.parametrize("shape", [(64, 192), (257, 33), (8, 4, 3, 3), (16, 8, 5), (29 * 107, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sample_variance_is_that_of_torch_init(shape, dtype):
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    expected = {
        ("fan_avg", None): 2 / (fan_in + fan_out),
        ("fan_in", math.sqrt(2)): 2 / fan_in,
        ("fan_out", 0.5): 0.25 / fan_out,
    }
    for (mode, gain), variance in expected.items():
        tensor = torch.empty(shape, dtype=dtype)
        assert fractal_normal_(tensor, 1.0, gain=gain, mode=mode, seed=3) is tensor
        assert float(tensor.double().var(correction=0)) == pytest.approx(variance, rel=1e-5)
        assert abs(float(tensor.double().mean())) < 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.75, 2.0])
def test_slope_of_the_weights(beta):
    fit = spectrum_of(fractal_normal_(torch.empty(256, 512), beta, seed=1))
    assert abs(fit.beta - beta) < 3 * fit.stderr


def test_a_slow_axis_is_cut_from_a_longer_one():
    assert drawn_length(50257) == 50400
    assert drawn_length(7 * 97) == 7 * 97
    assert drawn_length(101) == 105
    cut = fractal_normal_(torch.empty(101, 16), 1.0, std=1.0, seed=5)
    whole = fk.fractal_noise((105, 16), 1.0, seed=5, dtype=torch.float32)[:101]
    whole = (whole - whole.mean()) / whole.std(correction=0)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_any_strides_and_half_precision():
    plain = fractal_normal_(torch.empty(30, 40), seed=2)
    strided = fractal_normal_(torch.empty(40, 30).T, seed=2)
    assert torch.equal(plain, strided)
    half = fractal_normal_(torch.empty(30, 40, dtype=torch.bfloat16), seed=2)
    assert torch.equal(half, plain.to(torch.bfloat16))


def test_parameters_are_filled_without_a_graph():
    layer = nn.Linear(8, 4)
    fractal_normal_(layer.weight, seed=0)
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None


def test_meta_tensors_are_left_alone():
    tensor = torch.empty(8, 4, device="meta")
    for fill in (fractal_normal_, white_like_, shuffled_):
        assert fill(tensor) is tensor
    genesis_(nn.Linear(4, 4, device="meta"))


def test_seed_generator_and_global_state():
    def filled(**options):
        return fractal_normal_(torch.empty(16, 16), **options)

    torch.manual_seed(4)
    state = torch.get_rng_state()
    assert torch.equal(filled(seed=9), filled(seed=9))
    assert torch.equal(torch.get_rng_state(), state)
    first = filled()
    assert not torch.equal(first, filled())
    torch.manual_seed(4)
    assert torch.equal(filled(), first)
    assert torch.equal(filled(generator=torch.Generator().manual_seed(4)), first)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(50, 16), nn.LayerNorm(16), nn.Linear(16, 32), nn.Conv1d(32, 6, 3)
    )


def test_genesis_fixed_keeps_variances_and_all_that_is_no_matrix():
    before = {name: p.detach().clone() for name, p in net().named_parameters()}
    model = genesis_(net(), beta=1.5, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, before[name]), name
        else:
            std = float(parameter.detach().std(correction=0))
            assert std == pytest.approx(float(before[name].std(correction=0)), rel=1e-5), name
            assert not torch.equal(parameter, before[name]), name
    fit = spectrum_of(model[2].weight)
    assert abs(fit.beta - 1.5) < 4 * fit.stderr


def test_genesis_published_scales_every_tensor():
    model = genesis_(net(), protocol="published", seed=0)
    expected = {
        "0.weight": 1 / 4,  # sqrt(1 / shape[1])
        "1.weight": 0.05,
        "1.bias": 0.005,
        "2.weight": 1 / 4,
        "2.bias": 0.005,
        "3.weight": math.sqrt(1 / 32),
        "3.bias": 0.005,
    }
    for name, parameter in model.named_parameters():
        assert float(parameter.detach().std(correction=0)) == pytest.approx(
            expected[name], rel=1e-4
        ), name


def test_genesis_gives_each_parameter_its_own_numbers_and_repeats_them():
    model = genesis_(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), protocol="published", seed=1)
    again = genesis_(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), protocol="published", seed=1)
    assert not torch.equal(model[0].weight, model[1].weight)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_genesis_takes_parameters_without_a_variance():
    """Of one element, or of none."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(4, 4), nn.Bilinear(1, 1, 0))
    before = model[0].weight.detach().clone()
    genesis_(model, seed=0)
    assert torch.equal(model[0].weight, before)
    genesis_(model, protocol="published", seed=0)
    assert not model[0].weight.any()
    assert float(model[1].weight.detach().std(correction=0)) == pytest.approx(0.5, rel=1e-5)


def test_genesis_changes_nothing_where_it_refuses():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.constant_(model[1].weight, math.nan)
    before = model[0].weight.detach().clone()
    with pytest.raises(fk.InputError, match=r"^genesis_: 1\.weight must be finite"):
        genesis_(model, seed=0)
    assert torch.equal(model[0].weight, before)


def test_genesis_fills_a_shared_weight_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    alone = genesis_(nn.Sequential(nn.Linear(8, 8)), protocol="published", seed=1)
    genesis_(model, protocol="published", seed=1)
    assert torch.equal(model[1].weight, alone[0].weight)


def test_shuffled_keeps_the_values_and_loses_the_slope():
    field = fk.fractal_noise((128, 128), 2.0, seed=0, dtype=torch.float32)
    mixed = shuffled_(field.clone(), seed=1)
    assert torch.equal(mixed.flatten().sort().values, field.flatten().sort().values)
    fit = spectrum_of(mixed)
    assert abs(fit.beta) < 4 * fit.stderr
    assert torch.equal(shuffled_(field.clone(), seed=1), mixed)


def test_white_like_keeps_the_variance_and_loses_the_slope():
    field = 3 * fk.fractal_noise((128, 128), 2.0, seed=0, dtype=torch.float32)
    white = white_like_(field.clone(), seed=1)
    assert float(white.std(correction=0)) == pytest.approx(3, rel=1e-5)
    fit = spectrum_of(white)
    assert abs(fit.beta) < 3 * fit.stderr


BAD = {
    "integers": (torch.ones(3, 3, dtype=torch.int64), {}, "must be floating point"),
    "no axis": (torch.tensor(1.0), {}, "must have 1 to 5 axes, got 0"),
    "six axes": (torch.ones(1, 1, 1, 1, 2, 2), {}, "must have 1 to 5 axes, got 6"),
    "one element": (torch.ones(1, 1), {}, "at least 2 elements"),
    "no fan": (torch.ones(4), {}, "at least 2 axes for a fan"),
    "std and gain": (torch.ones(4, 4), {"std": 1.0, "gain": 1.0}, "only one of std and gain"),
    "negative std": (torch.ones(4, 4), {"std": -1.0}, "std must be finite and not negative"),
    "mode": (torch.ones(4, 4), {"mode": "fan"}, "mode must be one of fan_in, fan_out, fan_avg"),
    "beta": (torch.ones(4, 4), {"beta": math.nan}, "beta must be finite, got nan"),
    "seed": (torch.ones(4, 4), {"seed": -1}, "seed must be an integer from 0"),
    "gain as flag": (torch.ones(4, 4), {"gain": True}, "gain must be a number, got True"),
    "std as text": (torch.ones(4, 4), {"std": "1"}, "std must be a number, got '1'"),
    "sparse": (torch.eye(4).to_sparse(), {}, "tensor must be dense, got torch.sparse_coo"),
    "generator": (torch.ones(4, 4), {"generator": 1}, "generator must be a torch.Generator, got 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    tensor, options, message = BAD[case]
    with pytest.raises(fk.InputError, match=message) as caught:
        fractal_normal_(tensor, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_white_like_refuses_what_has_no_variance(bad):
    with pytest.raises(fk.InputError, match="white_like_: tensor must be finite"):
        white_like_(torch.tensor([1.0, bad]), seed=0)


def test_other_types_are_refused():
    with pytest.raises(fk.InputTypeError, match="model must be a module, got list"):
        genesis_([nn.Linear(2, 2)], seed=0)
    with pytest.raises(fk.InputTypeError, match=r"tensor must be a torch.Tensor, got list"):
        shuffled_([1.0, 2.0], seed=0)
