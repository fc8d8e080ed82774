"""Dimensions fitted together over resolutions and frames."""

import pytest
import torch

from fractalkern.errors import InputError
from fractalkern.scaling import finite_size_scaling, joint_dimension

SIDES = [64, 128, 256, 512, 1024]


def test_verdicts_on_data_that_follow_one_law_with_errors():
    generator = torch.Generator().manual_seed(0)
    n, error = torch.tensor(SIDES, dtype=torch.float64), torch.full((5,), 0.01)
    verdicts = {"falls": [], "stays": []}
    for _ in range(200):
        noise = 0.01 * torch.randn(5, generator=generator, dtype=torch.float64)
        falling = finite_size_scaling(SIDES, 1 + 2 * n**-0.5 + noise, error)
        verdicts["falls"].append(falling.verdict)
        verdicts["stays"].append(finite_size_scaling(SIDES, 1.3 + noise, error).verdict)
    assert verdicts["falls"].count("falls towards 1") > 180
    assert verdicts["stays"].count("falls towards 1") < 20
    assert verdicts["stays"].count("stays") > 130


def test_law_is_recovered_without_errors():
    n = torch.tensor(SIDES, dtype=torch.float64)
    fit = finite_size_scaling(SIDES, 1 + 3 * n**-0.75, torch.full((5,), 0.001))
    assert fit.rate == pytest.approx(0.75) and fit.amplitude == pytest.approx(3)
    assert fit.falls_p == pytest.approx(1)


def test_p_values_are_uniform_where_the_model_holds():
    generator = torch.Generator().manual_seed(1)
    errors = 0.01 + 0.02 * torch.rand(6, generator=generator, dtype=torch.float64)
    p = []
    for _ in range(500):
        d = 1.4 + errors * torch.randn(6, generator=generator, dtype=torch.float64)
        p.append(joint_dimension(d, errors).heterogeneity_p)
    sample = torch.tensor(p).sort().values
    gap = (sample - (torch.arange(500) + 0.5) / 500).abs().max()
    assert gap < 1.63 / 500**0.5  # Kolmogorov, 1 %


def test_spread_between_frames_widens_the_error_and_covers():
    generator = torch.Generator().manual_seed(2)
    errors, hits, spreads = torch.full((20,), 0.02), 0, []
    for _ in range(400):
        own = 1.5 + 0.05 * torch.randn(20, generator=generator)
        fit = joint_dimension(own + errors * torch.randn(20, generator=generator), errors)
        hits += abs(fit.dimension - 1.5) < 1.96 * fit.stderr
        spreads.append(fit.spread)
    assert 0.90 < hits / 400 < 0.98
    assert sum(spreads) / 400 == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("frames", [2, 3, 8])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_interval_covers_for_few_frames_with_and_without_spread(frames, spread):
    generator = torch.Generator().manual_seed(frames)
    hits = 0
    for _ in range(400):
        errors = 0.02 + 0.06 * torch.rand(frames, generator=generator)
        own = 1.4 + spread * torch.randn(frames, generator=generator)
        fit = joint_dimension(own + errors * torch.randn(frames, generator=generator), errors)
        assert fit.ci_low < fit.dimension < fit.ci_high
        hits += fit.ci_low <= 1.4 <= fit.ci_high
    assert hits / 400 > 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5


def test_a_higher_level_widens_the_interval_by_students_quantile():
    d, errors = torch.tensor([1.2, 1.4, 1.5]), torch.tensor([0.05, 0.05, 0.08])
    half = [
        (fit.ci_high - fit.ci_low) / 2
        for fit in (joint_dimension(d, errors, level=level) for level in (0.95, 0.99))
    ]
    # Student's quantiles of two degrees of freedom.
    assert half[1] / half[0] == pytest.approx(9.9248 / 4.3027, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: finite_size_scaling([64, 128], torch.ones(2), torch.ones(2)), "at least 3"),
        (lambda: finite_size_scaling([64, 64, 8], torch.ones(3), torch.ones(3)), "different"),
        (lambda: finite_size_scaling([float("nan"), 8, 4], torch.ones(3), torch.ones(3)), "finite"),
        (lambda: finite_size_scaling(["a", 8, 4], torch.ones(3), torch.ones(3)), "sides must be"),
        (
            lambda: joint_dimension(torch.ones(2), torch.ones(2), level="x"),
            "level must be a number",
        ),
        (lambda: joint_dimension(torch.ones(3), torch.ones(2)), "stderrs must have the shape"),
        (lambda: joint_dimension(torch.ones(2), torch.tensor([1.0, 0.0])), "positive"),
        (lambda: joint_dimension(torch.ones(2), torch.ones(2), level=1.0), "level must lie in"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
