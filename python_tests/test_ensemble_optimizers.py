"""Every optimiser step for step as torch.optim's, run by run; schedules and clipping likewise."""

import pytest
import torch
from torch import nn

from fractalkern.ensemble import SGD, Adam, AdamW, Data, Ensemble, Muon, Schedule
from fractalkern.ensemble.muon import newton_schulz
from fractalkern.errors import InputError

RUNS, STEPS = 3, 12
LR = [0.003, 0.02, 0.1]
DECAY = [0.0, 0.1, 0.3]

# Name: ours, and torch's for one run.
PAIRS = {
    "sgd": (SGD(lr=LR), lambda p, r: torch.optim.SGD(p, lr=LR[r])),
    "sgd, momentum and decay a run": (
        SGD(lr=LR, momentum=[0.0, 0.5, 0.9], dampening=[0.0, 0.1, 0.2], weight_decay=DECAY),
        lambda p, r: torch.optim.SGD(
            p, LR[r], [0.0, 0.5, 0.9][r], [0.0, 0.1, 0.2][r], weight_decay=DECAY[r]
        ),
    ),
    "sgd, dampening without momentum": (
        SGD(lr=LR, momentum=[0.0, 0.5, 0.9], dampening=0.5),
        lambda p, r: torch.optim.SGD(p, LR[r], [0.0, 0.5, 0.9][r], 0.5),
    ),
    "sgd, nesterov": (
        SGD(lr=LR, momentum=0.9, nesterov=True),
        lambda p, r: torch.optim.SGD(p, LR[r], 0.9, nesterov=True),
    ),
    "adam": (Adam(lr=LR), lambda p, r: torch.optim.Adam(p, lr=LR[r])),
    "adam, all a run": (
        Adam(lr=LR, betas=([0.8, 0.9, 0.95], 0.99), eps=[1e-8, 1e-6, 1e-4], weight_decay=DECAY),
        lambda p, r: torch.optim.Adam(
            p, LR[r], ([0.8, 0.9, 0.95][r], 0.99), [1e-8, 1e-6, 1e-4][r], DECAY[r]
        ),
    ),
    "adamw": (
        AdamW(lr=LR, weight_decay=DECAY),
        lambda p, r: torch.optim.AdamW(p, LR[r], weight_decay=DECAY[r]),
    ),
}


def network(dtype):
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def squared(model, x, y):
    return (model(x) - y).square().mean()


def points(dtype):
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(7, columns, generator=generator, dtype=dtype) for columns in (3, 2)]
    return tuple(draw)


def plain_loop(run, optimizer, build, data, steps=STEPS, after_backward=lambda p: None):
    """Losses and final parameters of one run by torch.optim."""
    torch.manual_seed(run)
    model = build()
    chosen = optimizer(model.parameters(), run)
    losses = []
    for _ in range(steps):
        chosen.zero_grad()
        loss = squared(model, *data)
        loss.backward()
        after_backward(model.parameters())
        chosen.step()
        losses.append(loss.detach())
    return torch.stack(losses), dict(model.named_parameters())


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_each_step_is_torchs(name, dtype):
    ours, theirs = PAIRS[name]
    data = points(dtype)
    result = Ensemble(lambda run: network(dtype), squared, ours, runs=RUNS).fit(Data(*data), STEPS)
    for run in range(RUNS):
        losses, parameters = plain_loop(run, theirs, lambda: network(dtype), data)
        tolerance = 1e-12 if dtype == torch.float64 else 3e-6
        torch.testing.assert_close(result.losses[run], losses, rtol=tolerance, atol=tolerance)
        for key, value in parameters.items():
            torch.testing.assert_close(
                result.parameters[key][run], value.detach(), rtol=10 * tolerance, atol=tolerance
            )


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_steps_as_torchs(adjust, nesterov):
    def build():
        return nn.Sequential(nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False))

    data = points(torch.float32)
    ours = Muon(lr=LR, momentum=[0.8, 0.9, 0.95], weight_decay=DECAY, nesterov=nesterov)
    ours = Muon(**{**vars(ours), "adjust": adjust})
    result = Ensemble(lambda run: build(), squared, ours, runs=RUNS).fit(Data(*data), STEPS)
    for run in range(RUNS):
        losses, parameters = plain_loop(
            run,
            lambda p, r: torch.optim.Muon(
                p, LR[r], DECAY[r], [0.8, 0.9, 0.95][r], nesterov, adjust_lr_fn=adjust
            ),
            build,
            data,
        )
        # The iteration runs in bfloat16, 2^-8: what the batched product rounds otherwise.
        torch.testing.assert_close(result.losses[run], losses, rtol=0.02, atol=1e-3)
        for key, value in parameters.items():
            torch.testing.assert_close(
                result.parameters[key][run], value.detach(), rtol=0, atol=STEPS * LR[run] * 2**-6
            )


def test_newton_schulz_is_torchs_on_many_shapes():
    from torch.optim._muon import _zeropower_via_newtonschulz as theirs

    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for rows in (1, 2, 5, 8, 16, 33):
        for columns in (1, 3, 8, 17, 32):
            stack = torch.randn(7, rows, columns, generator=generator)
            ours = newton_schulz(stack)
            assert ours.dtype == torch.bfloat16
            for matrix, found in zip(stack, ours, strict=True):
                other = theirs(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
                worst = max(worst, float((found - other).abs().max()))
    assert worst <= 2**-6  # a few roundings of values below 1.3


def test_muon_refuses_a_bias_and_groups_take_it():
    def build(run):
        return nn.Linear(3, 2)

    with pytest.raises(InputError, match="Muon: parameters must be matrices, got 'bias'"):
        Ensemble(build, squared, Muon(), runs=2)
    groups = [(lambda name, p: p.dim() == 2, Muon(lr=0.1)), (lambda name, p: True, SGD(lr=LR[:2]))]
    data = points(torch.float32)
    result = Ensemble(build, squared, groups, runs=2).fit(Data(*data), 5)
    torch.manual_seed(0)
    model = build(0)
    optimizers = [
        torch.optim.Muon([model.weight], lr=0.1),
        torch.optim.SGD([model.bias], lr=LR[0]),
    ]
    for _ in range(5):
        loss = squared(model, *data)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(
        result.parameters["bias"][0], model.bias.detach(), rtol=0.02, atol=1e-3
    )
    with pytest.raises(
        InputError, match="optimizer must take every parameter, got none for 'bias'"
    ):
        Ensemble(build, squared, groups[:1], runs=2)


def test_clipping_is_torchs():
    data = points(torch.float64)
    norms = [0.05, 0.5, float("inf")]
    build = lambda: network(torch.float64)  # noqa: E731
    ensemble = Ensemble(lambda run: build(), squared, SGD(lr=LR), runs=RUNS, clip_norm=norms)
    result = ensemble.fit(Data(*data), STEPS)
    for run in range(RUNS):
        losses, _ = plain_loop(
            run,
            lambda p, r: torch.optim.SGD(p, lr=LR[r]),
            build,
            data,
            after_backward=lambda p: nn.utils.clip_grad_norm_(list(p), norms[run]),  # noqa: B023
        )
        torch.testing.assert_close(result.losses[run], losses, rtol=1e-12, atol=1e-12)


def test_a_run_without_a_limit_is_not_clipped_whatever_its_norm():
    """Squares of 1e25 overflow float32, so the norm is infinite and the limit too."""
    data = Data(torch.tensor([[[1e25]], [[1.0]]]), of_run="own")
    made = Ensemble(
        lambda run: nn.Linear(1, 1),
        lambda model, x: model(x).sum(),
        SGD(lr=1e-25),
        runs=2,
        clip_norm=[float("inf"), 1.0],
    )
    result = made.fit(data, 1)
    step = result.parameters["weight"][0] - made.module(0).weight
    assert step.item() == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, 10)),
        ("exponential", lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.1 ** (1 / 10))),
    ],
)
def test_schedules_are_torchs(kind, scheduler):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = scheduler(optimizer)
    ours = Schedule(kind, steps=10, final=0.0 if kind == "cosine" else 0.1)
    for step in range(10):
        assert float(ours.factors(step, 1)[0]) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_schedules_differ_by_run():
    schedule = Schedule(("constant", "linear"), steps=8, warmup=[2, 4], final=[0.0, 0.2])
    factors = torch.stack([schedule.factors(step, 2) for step in (0, 1, 3, 6, 20)], dim=1)
    assert torch.allclose(
        factors, torch.tensor([[0.5, 1, 1, 1, 1], [0.25, 0.5, 1.0, 0.6, 0.2]]).double()
    )


def test_a_warm_up_of_no_whole_number_of_steps_stays_below_1():
    schedule = Schedule(warmup=2.5)
    factors = [float(schedule.factors(step, 1)[0]) for step in range(4)]
    assert factors == pytest.approx([0.4, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SGD(lr=[0.1, 0.2]),
            r"SGD: lr must be a number or one for each of the 3 runs, got",
        ),
        (lambda: Adam(lr="fast"), r"Adam: lr must be a number or one for each of the 3 runs"),
        (lambda: Adam(betas=0.9), r"Adam: betas must be a pair, got 0\.9"),
        (lambda: Adam(betas=(1.0, 0.9)), r"Adam: beta1 must be below 1"),
        (lambda: AdamW(weight_decay=-1), r"AdamW: weight_decay must be at least 0, got -1"),
        (lambda: SGD(lr=float("nan")), r"SGD: lr must be finite"),
    ],
)
def test_bad_hyper_parameters(make, message):
    with pytest.raises(InputError, match=message):
        Ensemble(lambda run: nn.Linear(2, 1), squared, make(), runs=3)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            Schedule("triangle", steps=3),
            "kind must be one of constant, linear, cosine, exponential",
        ),
        (Schedule("linear", steps=3, warmup=3), "steps must be above warmup for 'linear', got 3"),
        (Schedule("linear", steps=3, warmup=-1), "warmup must be at least 0, got -1 for run 0"),
        (Schedule("cosine", steps=[1, 2]), r"steps must be a number or one for each of the 3 runs"),
        (Schedule("exponential", steps=3), "final must be at least 0, and above it for 'expo"),
        (Schedule(("linear",), steps=3), "kind must be one name or one for each of the 3 runs"),
    ],
)
def test_bad_schedules(schedule, message):
    with pytest.raises(InputError, match=message):
        Ensemble(lambda run: nn.Linear(2, 1), squared, SGD(), runs=3, schedule=schedule)
