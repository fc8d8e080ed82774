"""Runs that share a batch are the runs that they would be alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fractalkern.ensemble import (
    SGD,
    Adam,
    Context,
    Data,
    Ensemble,
    Schedule,
    SpectralPenalty,
)
from fractalkern.errors import BackendError, InputError, InputTypeError
from fractalkern.ops.power_iteration import power_iteration
from fractalkern.regularizers import SpectralTarget

RUNS = 8
LR = torch.logspace(-3, -2, RUNS)


class Network(nn.Module):
    """BatchNorm, dropout and odd sizes."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.first = nn.Linear(3, 17)
        self.norm = nn.BatchNorm1d(17)
        self.drop = nn.Dropout(dropout)
        self.middle = nn.Linear(17, 7)
        self.last = nn.Linear(7, 1)

    def forward(self, x):
        x = self.drop(F.relu(self.norm(self.first(x))))
        return self.last(F.relu(self.middle(x))).squeeze(-1)


def squared(model, x, y):
    loss = (model(x) - y).square().mean()
    return loss, {"root": loss.detach().sqrt()}


def own_data(batch_size=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(RUNS, 50, 3, generator=generator)
    return Data(x, x.sum(2).sin(), of_run="own", batch_size=batch_size)


def ensemble(dropout=0.3, **options):
    options = {"optimizer": Adam(lr=LR), "runs": RUNS, "width": 4, **options}
    return Ensemble(lambda run: Network(dropout), squared, options.pop("optimizer"), **options)


def measured(view):
    return {"at zero": view(torch.zeros(5, 3)), "size": view.parameters["first.bias"].norm(dim=1)}


def assert_same_run(one, other, run):
    """Bit for bit."""
    for kind in ("scalars", "metrics", "parameters", "buffers"):
        mine, theirs = getattr(one, kind), getattr(other, kind)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name][run], theirs[name][run]), (kind, name)
    assert torch.equal(one.losses[run], other.losses[run])
    assert one.losses[run].isfinite().all()


def test_a_run_alone_is_the_run_in_a_batch_of_eight():
    options = {
        "schedule": Schedule("cosine", steps=12, warmup=2),
        "clip_norm": 1.0,
        "penalty": SpectralPenalty(RUNS, 1.0, torch.linspace(0, 1, RUNS)),
    }
    whole = ensemble(width=8, **options).fit(own_data(), 12, metrics=measured, every=3)
    assert whole.times == [3, 6, 9, 12]
    assert whole.metrics["at zero"].shape == (RUNS, 4, 5)
    for run in (0, 5):
        alone = ensemble(**options).repeat(
            run, whole.record, own_data(), 12, metrics=measured, every=3
        )
        assert_same_run(alone, whole, run)
        assert alone.losses[[r for r in range(RUNS) if r != run]].isnan().all()


def test_another_chunking_differs_by_rounding_alone():
    one = ensemble(optimizer=SGD(lr=LR), width=8).fit(own_data(), 8)
    other = ensemble(optimizer=SGD(lr=LR), width=3, chunk=6).fit(own_data(), 8)
    assert one.record["chunks"] == [list(range(8))]
    assert other.record["chunks"] == [list(range(6)), [6, 7]]
    torch.testing.assert_close(one.losses, other.losses, rtol=1e-4, atol=1e-6)


def test_a_width_of_one_is_not_batched_and_differs_by_rounding_alone():
    options = {"optimizer": SGD(lr=LR), "clip_norm": 1.0}
    one = ensemble(width=8, **options).fit(own_data(), 8, metrics=measured)
    other = ensemble(width=1, **options).fit(own_data(), 8, metrics=measured)
    for kind in ("scalars", "metrics", "buffers", "parameters"):
        for name, values in getattr(one, kind).items():
            found = getattr(other, kind)[name]
            torch.testing.assert_close(values, found, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.losses, other.losses, rtol=1e-4, atol=1e-6)
    alone = ensemble(**options).repeat(3, other.record, own_data(), 8, metrics=measured)
    assert_same_run(alone, other, 3)


@pytest.mark.parametrize("width", [1, 4])
def test_batch_norm_and_data_are_those_of_a_plain_loop(width):
    result = ensemble(0.0, width=width).fit(own_data(None), 6)
    x, y = own_data().tensors
    for run in (0, 7):
        torch.manual_seed(run)
        model = Network(0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=float(LR[run]))
        for step in range(6):
            optimizer.zero_grad()
            loss, _ = squared(model, x[run], y[run])
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(result.losses[run, step], loss.detach(), rtol=1e-4, atol=0)
        buffers = dict(model.named_buffers())
        for name in ("norm.running_mean", "norm.running_var"):
            torch.testing.assert_close(
                result.buffers[name][run], buffers[name], rtol=1e-3, atol=0.02
            )
        assert result.buffers["norm.num_batches_tracked"][run] == 6


def test_a_run_that_diverges_touches_no_other():
    rates = LR.clone()
    rates[[1, 4, 5, 6, 7]] = 1e30  # one of the first block, all of the second
    wild = ensemble(optimizer=Adam(lr=rates)).fit(own_data(), 8, metrics=measured)
    calm = ensemble().fit(own_data(), 8, metrics=measured)
    assert (wild.frozen_at[[0, 2, 3]] == -1).all()
    assert (wild.frozen_at[[1, 4, 5, 6, 7]] >= 1).all()
    assert wild.finite.tolist() == [True, False, True, True, False, False, False, False]
    for run in (0, 2, 3):
        assert_same_run(wild, calm, run)
    frozen = int(wild.frozen_at[1])
    assert wild.losses[1, :frozen].isfinite().all()
    assert wild.losses[1, frozen + 1 :].isnan().all()
    assert wild.metrics["size"][1, frozen:].isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_freezes_although_the_loss_is(bad):
    class Step(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return torch.where(grad == 0, 0.0, bad)

    def loss(model, x, on):
        return torch.where(on > 0, Step.apply(model(x)), model(x)).mean()

    data = Data(
        torch.ones(3, 4, 2), torch.tensor([0.0, 1.0, 0.0]).expand(4, 3).T[..., None], of_run="own"
    )
    result = Ensemble(lambda run: nn.Linear(2, 1), loss, SGD(lr=0.1), runs=3).fit(data, 3)
    assert result.losses[1, 0].isfinite()
    assert result.frozen_at.tolist() == [-1, 0, -1]
    assert all(stack.isfinite().all() for stack in result.parameters.values())


@pytest.mark.parametrize("steps", [1, 4])
def test_an_update_that_overflows_freezes_its_run_alone(steps):
    """Penalties and metrics refuse what is not finite: they must not be shown it."""

    def fit(rates):
        made = Ensemble(
            lambda run: nn.Linear(3, 1, bias=False),
            lambda model, x: model(x).mean(),
            SGD(lr=rates),
            runs=2,
            penalty=SpectralPenalty(2),
        )
        data = Data(torch.full((4, 3), 10.0))
        return made.fit(data, steps, metrics=lambda view: {"sigma": sigmas(view)})

    def sigmas(view):
        return power_iteration(view.parameters["weight"]).sigma

    wild, calm = fit([0.1, 1e38]), fit([0.1, 0.1])
    assert wild.frozen_at.tolist() == [-1, 1]
    assert wild.losses[1, 0].isfinite() and wild.losses[1, 1:].isnan().all()
    assert wild.metrics["sigma"][1].isnan().all()
    assert torch.equal(wild.losses[0], calm.losses[0])
    assert torch.equal(wild.metrics["sigma"][0], calm.metrics["sigma"][0])


def test_all_runs_may_freeze():
    result = ensemble(optimizer=SGD(lr=1e38)).fit(own_data(), 5)
    assert (result.frozen_at >= 0).all()
    assert result.losses[:, 4].isnan().all()


def dropped(p, seeds, step_count=1, dtype=torch.float32):
    """What a dropout layer makes of 4,096 ones, for each run and step."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=dtype))
            self.drop = nn.Dropout(p)

        def forward(self, x):
            return self.drop(x * self.scale)

    def loss(model, x):
        y = model(x)
        return y.mean(), {"values": y.detach()}

    made = Ensemble(Layer(), loss, SGD(lr=0.0), seeds=seeds)
    return made.fit(Data(torch.ones(4096, dtype=dtype)), step_count).scalars["values"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dropout_scales_as_exactly_as_the_dtype(dtype):
    values = dropped(0.3, [1], dtype=dtype)
    assert values.dtype == dtype
    kept = values[values != 0]
    assert 0 < len(kept) < values.numel()
    assert (kept * 0.7 - 1).abs().max() <= 2 * torch.finfo(dtype).eps


def test_dropout_drops_its_share_and_depends_on_seed_and_step():
    values = dropped(0.25, [3, 3, 4], 2)
    assert values.unique().tolist() == pytest.approx([0.0, 4 / 3])
    share = (values == 0).float().mean(dim=2)
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / 4096) ** 0.5).all()
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert not torch.equal(values[0, 0], values[0, 1])


@pytest.mark.parametrize("width", [1, 3])
def test_dropout_by_function_is_dropout_by_module(width):
    class ByFunction(nn.Sequential):
        def forward(self, x):
            return self[1](F.dropout(self[0](x), 0.4, self.training))

    class ByModule(nn.Sequential):
        def forward(self, x):
            return self[1](self[2](self[0](x)))

    def fit(kind, *more):
        return Ensemble(
            lambda run: kind(nn.Linear(3, 8), nn.Linear(8, 1), *more),
            lambda model, x: model(x).square().mean(),
            SGD(lr=0.1),
            runs=3,
            width=width,
        ).fit(Data(torch.ones(4, 3)), 4)

    results = fit(ByFunction), fit(ByModule, nn.Dropout(0.4))
    assert torch.equal(results[0].losses, results[1].losses)
    assert len(results[0].losses[:, 1].unique()) == 3


def test_dropout_of_attention_is_dropout_of_its_weights():
    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.project = nn.Linear(4, 12)
            self.drop = nn.Dropout(0.2)
            self.fused = fused

        def forward(self, x):
            query, key, value = self.project(x).chunk(3, dim=-1)
            if self.fused:
                return F.scaled_dot_product_attention(query, key, value, None, self.drop.p, True)
            scores = query @ key.mT / 2
            scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
            return self.drop(scores.softmax(-1)) @ value

    def loss(model, x):
        return model(x).square().mean()

    data = Data(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)))
    results = [
        Ensemble(lambda run, fused=fused: Attention(fused), loss, SGD(lr=0.1), runs=3).fit(data, 4)
        for fused in (True, False)
    ]
    torch.testing.assert_close(results[0].losses, results[1].losses)


def test_an_epoch_is_a_permutation_by_the_runs_seed():
    data = Data(torch.arange(10.0), batch_size=3)
    assert data.steps_per_epoch == 3
    runs, seeds = torch.arange(3), [5, 5, 9]
    epoch = torch.cat([data.batch(step, runs, seeds)[0] for step in range(3)], dim=1)
    after = torch.cat([data.batch(step, runs, seeds)[0] for step in range(3, 6)], dim=1)
    assert torch.equal(epoch[0], epoch[1])
    assert not torch.equal(epoch[0], epoch[2])
    assert not torch.equal(epoch[0], after[0])
    for row in (*epoch, *after):
        assert len(set(row.tolist())) == 9


def test_batches_without_a_shuffle_are_in_order():
    plain = Data(torch.arange(10.0), batch_size=3, shuffle=False)
    own = Data(torch.arange(20.0).reshape(2, 10), of_run=[1, 0], batch_size=3, shuffle=False)
    runs, seeds = torch.arange(2), [5, 9]
    assert plain.shared
    assert not own.shared
    for step, first in enumerate((0, 3, 6, 0)):
        expected = torch.arange(first, first + 3.0)
        assert torch.equal(plain.batch(step, runs, seeds)[0], expected)
        assert torch.equal(own.batch(step, runs, seeds)[0], torch.stack((expected + 10, expected)))
    shuffled = Data(torch.arange(10.0), batch_size=3)
    assert plain.digest() != shuffled.digest()


def test_data_sets_are_dealt_out():
    sets = torch.arange(6.0).reshape(2, 3)
    data = Data(sets, of_run=[1, 0, 1])
    (batch,) = data.batch(0, torch.tensor([2, 1]), [0, 0])
    assert torch.equal(batch, sets[[1, 0]])
    with pytest.raises(InputError, match="of_run must have one data set for each of the 2 runs"):
        data.check(2)


def test_spectral_penalty_is_that_of_a_model_alone():
    weights, target = [0.0, 0.5, 2.0], {"0.weight": 1.0, "2.weight": [0.5, 1.0, 2.0]}
    chosen = ("0.weight", "2.weight")

    def build(run):
        return nn.Sequential(
            nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)
        )

    penalty = SpectralPenalty(3, target, weights, include=lambda name: name in chosen, iters=20)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    data = Data(x, x.prod(dim=1, keepdim=True))

    def loss(model, x, y):
        return F.mse_loss(model(x), y)

    result = Ensemble(build, loss, SGD(lr=0.05), runs=3, penalty=penalty).fit(data, 10)
    for run in range(3):
        torch.manual_seed(run)
        model = build(run)
        alone = SpectralTarget(
            model,
            {"0.weight": 1.0, "2.weight": target["2.weight"][run]},
            weight=weights[run],
            include=lambda name, w: name in chosen,
            iters=20,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(10):
            optimizer.zero_grad()
            term = alone.penalty()
            value = loss(model, *data.tensors)
            (value + term).backward()
            optimizer.step()
            found = result.scalars["penalty"][run, step]
            torch.testing.assert_close(found, term.detach().float(), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(
                result.losses[run, step], value.detach(), rtol=1e-4, atol=1e-6
            )


def test_a_penalty_sees_stacks_and_keeps_state():
    def norms(parameters, context):
        state = context.state
        state["calls"] = state.get("calls", torch.zeros(len(context.runs))) + 1
        assert (state["calls"] == context.step + 1).all()
        assert parameters["first.weight"].shape == (len(context.runs), 17, 3)
        return parameters["first.weight"].square().sum(dim=(1, 2)) * (context.runs + 1)

    result = ensemble(penalty=norms).fit(own_data(), 4)
    assert result.scalars["penalty"].shape == (RUNS, 4)
    with pytest.raises(InputError, match=r"penalty must return one number a row, shape \[4\]"):
        ensemble(penalty=lambda parameters, context: torch.zeros(())).fit(own_data(), 1)


def test_metrics_may_set_hyper_parameters():
    def stop(view):
        view.hyper("lr")[view.runs == 3] = 0.0
        return {"weight": view.parameters["last.bias"][:, 0]}

    weights = ensemble().fit(own_data(), 5, metrics=stop).metrics["weight"]
    assert (weights[3] == weights[3, 0]).all()
    assert (weights[2, 1:] != weights[2, 0]).all()


def test_metrics_at_the_start_are_those_of_the_start(tmp_path):
    model = nn.Sequential(nn.Linear(3, 17), nn.ReLU(), nn.Linear(17, 1))
    rates = LR.clone()
    rates[2], rates[5] = 0, 1e38
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    data = Data(x, x.sum(1, keepdim=True), batch_size=16)

    def made():
        return Ensemble(
            model,
            lambda model, x, y: (model(x) - y).square().mean(),
            SGD(lr=rates),
            seeds=range(RUNS),
            width=4,
        )

    def outputs(view):
        assert view.losses.isnan().all() == (view.step == 0)
        return {"out": view(torch.ones(5, 3))}

    def killed(view):
        if view.step == 4:
            raise KeyboardInterrupt
        return outputs(view)

    found = made().fit(data, 5, metrics=outputs, every=2, at_start=True)
    assert found.times == [0, 2, 4]
    out = found.metrics["out"]
    torch.testing.assert_close(out[:, 0], model(torch.ones(5, 3)).detach().expand(RUNS, 5, 1))
    assert torch.equal(out[2], out[2, :1].expand(3, 5, 1))  # nothing was trained
    assert (out[1, 0] != out[1, 1]).all()
    assert out[5, 1:].isnan().all()
    alone = made().repeat(6, found.record, data, 5, metrics=outputs, every=2, at_start=True)
    assert_same_run(alone, found, 6)
    kept = {"checkpoint": tmp_path / "state.safetensors", "checkpoint_seconds": 0.0, "every": 2}
    with pytest.raises(KeyboardInterrupt):
        made().fit(data, 5, metrics=killed, at_start=True, **kept)
    assert_same_run(made().fit(data, 5, metrics=outputs, at_start=True, **kept), found, 6)
    with pytest.raises(InputError, match="at_start: true -> false"):
        made().fit(data, 5, metrics=outputs, **kept)


def test_view_applies_functions_to_runs():
    def check(view):
        own = torch.arange(len(view.runs)).float()[:, None, None].expand(-1, 4, 3)
        twice = view.apply(
            lambda model, x, shift: model(x) * 2 + shift, own, torch.ones(4), own=[True, False]
        )
        assert torch.allclose(twice, 2 * view(own, own=True) + 1)
        shared = view(torch.zeros(4, 3))
        assert torch.allclose(shared[0], view(own, own=True)[0])  # in evaluation mode: no dropout
        return {}

    ensemble().fit(own_data(), 2, metrics=check)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, seconds):
    path = tmp_path / "state.safetensors"
    options = {"penalty": SpectralPenalty(RUNS), "chunk": 4, "width": 4}
    rates = LR.clone()
    rates[1] = 1e30

    def fit(metrics, **more):
        made = ensemble(optimizer=Adam(lr=rates), **options)
        return made.fit(own_data(), 6, metrics=metrics, **more)

    def killed(view):
        if view.step == 4 and 5 in view.runs:  # in the second chunk
            raise KeyboardInterrupt
        return measured(view)

    whole = fit(measured)
    kept = {"checkpoint": path, "checkpoint_seconds": seconds, "config": {"model": "small"}}
    with pytest.raises(KeyboardInterrupt):
        fit(killed, **kept)
    resumed_at = []

    def watched(view):
        resumed_at.append((view.step, int(view.runs[0])))
        return measured(view)

    again = fit(watched, **kept)
    # Every step was written, or only the chunk that was finished.
    assert resumed_at[0] == ((4, 4) if seconds == 0 else (1, 4))
    for run in (0, 2, 3, 4, 7):
        assert_same_run(again, whole, run)
    assert torch.equal(again.frozen_at, whole.frozen_at)
    assert list(tmp_path.iterdir()) == [path]
    finished = fit(killed, **kept)  # nothing is left to do
    assert_same_run(finished, whole, 7)
    with pytest.raises(InputError, match=r'others \(model: "small" -> "large"\)') as error:
        fit(measured, checkpoint=path, config={"model": "large"})
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match=r"steps: 6 -> 7"):
        ensemble(optimizer=Adam(lr=rates), **options).fit(
            own_data(), 7, checkpoint=path, config={"model": "small"}
        )
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="checkpoint must be a file that a fit wrote"):
        fit(measured, **kept)


def test_integers_of_numpy_are_those_of_python(tmp_path):
    """In a checkpoint too, which holds JSON."""

    def fit(one):
        made = Ensemble(
            nn.Linear(1, 1),
            lambda model, x: model(x).sum(),
            SGD(lr=0.1),
            runs=one(2),
            width=one(2),
            chunk=one(2),
        )
        data = Data(torch.ones(2, 1), batch_size=one(1))
        return made.fit(data, one(2), every=one(1), checkpoint=tmp_path / "state").losses

    assert torch.equal(fit(np.int64), fit(int))


def test_a_checkpoint_is_bound_to_every_data_set_and_factor(tmp_path):
    """Printed, a long tensor is cut and any tensor rounded."""
    runs = 1200
    of_run = torch.zeros(runs, dtype=torch.int64)
    final = torch.full((runs,), 0.5)

    def fit():
        made = Ensemble(
            nn.Linear(1, 1),
            lambda model, x: model(x).sum(),
            SGD(lr=1e-3),
            runs=runs,
            schedule=Schedule("linear", steps=2, final=final),
        )
        made.fit(Data(torch.ones(2, 1, 1), of_run=of_run), 1, checkpoint=tmp_path / "state")

    fit()
    of_run[600] = 1
    with pytest.raises(InputError, match=r"of others.*data"):
        fit()
    of_run[600] = 0
    final[0] += 1e-6
    with pytest.raises(InputError, match=r"of others.*schedule"):
        fit()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda m, x, y: m(x).mean() * (1 if m(x).sum() > 0 else 2),
            "Python numbers .*torch.where",
        ),
        (lambda m, x, y: m(x)[y > 0].sum(), "shape depends on values .*torch.where"),
        (lambda m, x, y: (m(x) + torch.randn(16)).sum(), "random numbers other than by dropout"),
        (lambda m, x, y: torch.zeros(16).add_(m(x)).sum(), "writes in place"),
    ],
    ids=["if", "boolean index", "randn", "in place"],
)
@pytest.mark.parametrize("width", [1, 4])
def test_a_forward_that_cannot_be_batched_says_why(bad, message, width):
    made = Ensemble(lambda run: Network(), bad, SGD(), runs=RUNS, width=width)
    with pytest.raises(InputError, match=f"^Ensemble: model must have a forward .* {message}"):
        made.fit(own_data(), 1)


def test_a_forward_that_fails_alone_says_so_itself():
    made = Ensemble(lambda run: Network(), lambda m, x, y: m(x @ x).sum(), SGD(), runs=RUNS)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made.fit(own_data(), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": None}, "runs or seeds must be given"),
        ({"seeds": [1, 2]}, "seeds must be one for each of the 8 runs, got 2"),
        ({"seeds": [-1] * 8}, r"seeds must be from 0 to 2\^64 - 1"),
        ({"runs": 2.5}, "runs must be an integer of at least 1, got 2.5"),
        ({"runs": 0}, "runs must be an integer of at least 1, got 0"),
        ({"seeds": ["a"] * 8}, r"seeds must be integers, got \['a'"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"chunk": "4"}, "chunk must be an integer of at least 1, got '4'"),
        ({"schedule": 5}, "schedule must be a Schedule, got 5"),
        ({"penalty": 5}, "penalty must be a function, got 5"),
        ({"clip_norm": "a"}, "clip_norm must be numbers, got 'a'"),
        ({"device": "gpu"}, "device must be a device that torch knows"),
        ({"clip_norm": [1.0, -1.0]}, "clip_norm must be above 0"),
        ({"clip_norm": [1.0, 1.0]}, r"clip_norm must be a number or one for each of the 8 runs"),
        ({"kernel": "dense"}, "kernel must be 'vmap' but for a Sequential of Linear and ReLU"),
        ({"kernel": "fast"}, "kernel must be one of dense, vmap, got 'fast'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=f"Ensemble: {message}"):
        ensemble(**options)


@pytest.mark.parametrize(
    ("build", "loss", "optimizer", "message"),
    [
        (None, squared, SGD(), "build must be a module or make one, got NoneType"),
        (nn.Linear(3, 1), None, SGD(), "loss must be a function, got NoneType"),
        (nn.Linear(3, 1), squared, None, "optimizer must be one of .* got NoneType"),
        (nn.Linear(3, 1), squared, [SGD()], "optimizer must be one of .* got SGD"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(build, loss, optimizer, message):
    with pytest.raises(InputTypeError, match=f"Ensemble: {message}"):
        Ensemble(build, loss, optimizer, runs=2)


def test_an_absent_device_is_one_sentence():
    with pytest.raises(BackendError, match="Ensemble: device must be "):
        Ensemble(nn.Linear(3, 1), squared, SGD(), runs=2, device="cuda:99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(4, 3), 1), "data must be Data, got Tensor"),
        ((Data(torch.ones(4, 3), torch.ones(4)), 1.5), "steps must be an integer of at least 1"),
        ((Data(torch.ones(4, 3), torch.ones(4)), 0), "steps must be an integer of at least 1"),
    ],
)
def test_bad_fits(arguments, message):
    with pytest.raises(InputError, match=f"Ensemble: {message}"):
        Ensemble(nn.Linear(3, 1), squared, SGD(), runs=2).fit(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": 5}, "config must be values by name, got 5"),
        ({"checkpoint": 5}, "checkpoint must be a path, got 5"),
        ({"checkpoint": "x", "checkpoint_seconds": "a"}, "checkpoint_seconds must be .* got 'a'"),
    ],
)
def test_bad_checkpoints(options, message):
    data = Data(torch.ones(4, 3), torch.ones(4))
    with pytest.raises(InputTypeError, match=f"^Ensemble: {message}$"):
        Ensemble(nn.Linear(3, 1), squared, SGD(), runs=2).fit(data, 1, **options)


RECORD = {"width": 2, "chunks": [[0, 1]]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": 5}, "metrics must be a function, got 5"),
        ({"metrics": lambda view: 5}, "metrics must return tensors by name, got int"),
        ({"metrics": lambda view: {"a": 5}}, "metrics must .* of 2 rows .*, got int for 'a'"),
        ({"metrics": lambda view: {"a": torch.ones(3)}}, r"metrics must .*, got \[3\] for 'a'"),
    ],
    ids=["no function", "no dict", "no tensor", "no row a run"],
)
def test_bad_metrics_of_fits_and_repetitions(options, message):
    made = Ensemble(nn.Linear(3, 1), squared, SGD(), runs=2)
    data = Data(torch.ones(4, 3), torch.ones(4))
    with pytest.raises(InputTypeError, match=f"^Ensemble: {message}$"):
        made.fit(data, 1, **options)
    with pytest.raises(InputTypeError, match=f"^Ensemble: {message}$"):
        made.repeat(0, RECORD, data, 1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": {}}, r"record must be that of a result, with width and chunks, got \[\]"),
        ({"record": 5}, "record must be that of a result, with width and chunks, got int"),
        ({"record": {**RECORD, "width": "a"}}, "the width of record must be an integer .* 'a'"),
        ({"record": {**RECORD, "width": 0}}, "the width of record must be .* least 1, got 0"),
        ({"record": {**RECORD, "chunks": 5}}, "the chunks of record must be lists .*, got 5"),
        ({"record": {**RECORD, "chunks": [5]}}, "the chunks of record must be integers, got 5"),
        ({"run": "a"}, "run must be an integer of at least 0, got 'a'"),
        ({"run": 2}, "run must be one of those in record, got 2"),
        ({"run": 2, "record": {"width": 1, "chunks": [[2]]}}, "run must be one .*, got 2"),
        ({"steps": "a"}, "steps must be an integer of at least 1, got 'a'"),
        ({"every": 0}, "every must be an integer of at least 1, got 0"),
    ],
)
def test_bad_repetitions(options, message):
    made = Ensemble(nn.Linear(3, 1), squared, SGD(), runs=2)
    data = Data(torch.ones(4, 3), torch.ones(4))
    with pytest.raises(InputError, match=f"^Ensemble: {message}$"):
        made.repeat(**{"run": 0, "record": RECORD, "data": data, "steps": 1, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of lanczos, power, got 'newton'"),
        ({"iters": 1}, "iters must be an integer of at least 2, got 1"),
        (
            {"schedule": lambda step: [1, 2, 3]},
            "schedule must be a number or one for each of the 2",
        ),
    ],
)
def test_bad_penalties(options, message):
    with pytest.raises(InputError, match=f"SpectralPenalty: {message}"):
        penalty = SpectralPenalty(2, **options)
        penalty({"weight": torch.ones(2, 3, 3)}, Context(torch.arange(2), 0, {}))


def test_runs_must_have_one_shape():
    with pytest.raises(InputError, match=r"run 2 differs from run 0 in 'weight': .*\(1, 4\)"):
        Ensemble(lambda run: nn.Linear(4 if run == 2 else 3, 1), squared, SGD(), runs=3).fit(
            Data(torch.ones(4, 3), torch.ones(4)), 1
        )
    with pytest.raises(InputError, match="build must return a module, got int"):
        Ensemble(lambda run: 3, squared, SGD(), runs=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data(torch.ones(3), torch.ones(4)), "must have the same first axis"),
        (lambda: Data(torch.ones(0, 3)), "at least one example, got none"),
        (lambda: Data([object()]), "tensors must be a tensor or an array, got list"),
        (lambda: Data(torch.ones(3), batch_size=1.5), "batch_size must be an integer"),
        (lambda: Data(torch.ones(3), batch_size=4), "batch_size must be from 1 to the 3 examples"),
        (lambda: Data(torch.ones(3), batch_size=1, shuffle="no"), "shuffle must be True or False"),
        (lambda: Data(torch.ones(2, 3), of_run=[0, 2]), "numbers from 0 to 1"),
    ],
)
def test_bad_data(make, message):
    with pytest.raises(InputError, match=f"Data: .*{message}"):
        make()


def test_progress_counts_the_steps_of_runs(capsys):
    ensemble(chunk=4).fit(own_data(), 3, progress="training")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("training: 8 runs, 0 of 3 steps")
    assert lines[-1].startswith("training: 8 runs, 3 of 3 steps")
    assert lines[-1].endswith("0:00 left")


def test_compiled_is_uncompiled():
    plain = ensemble(optimizer=SGD(lr=LR)).fit(own_data(), 3)
    compiled = ensemble(optimizer=SGD(lr=LR), compile="aot_eager").fit(own_data(), 3)
    torch.testing.assert_close(compiled.losses, plain.losses, rtol=1e-4, atol=1e-6)


def test_steps_are_those_of_fit():
    fitted = ensemble().fit(own_data(), 4)
    own = ensemble().steps(own_data())
    for step, view in zip(range(4), own, strict=False):
        assert view.step == step + 1
        assert torch.equal(view.losses, fitted.losses[:, step])
    for name, stack in view.parameters.items():
        assert torch.equal(stack, fitted.parameters[name])


def test_steps_end_when_all_runs_are_frozen():
    views = list(ensemble(optimizer=SGD(lr=1e30)).steps(own_data()))
    assert 1 <= len(views) < 50
    assert len(views[-1].runs) == 0


def test_steps_need_all_runs_in_one_chunk():
    views = ensemble(width=2, chunk=4).steps(own_data())
    with pytest.raises(InputError, match=r"chunk must hold all 8 runs in steps\(\), got 4"):
        next(views)
