"""SpectralTarget: its value and gradient against exact norms, warm starts, stacks, bad input."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import fractalkern as fk
from fractalkern.regularizers import SpectralTarget


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Conv1d(12, 5, 3), nn.Linear(5, 5, bias=False)
    ).double()


def exact(weights, targets):
    norms = [torch.linalg.matrix_norm(weight.flatten(1), 2) for weight in weights]
    return sum((norm - target) ** 2 for norm, target in zip(norms, targets, strict=True))


def test_value_and_gradient_equal_those_of_exact_norms():
    net = model()
    weights = [net[0].weight, net[2].weight, net[3].weight]
    penalty = SpectralTarget(net, target=1.0, weight=0.1, cold_iters=60)
    value = penalty.penalty()
    expected = 0.1 * exact(weights, [1.0] * 3)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    got = torch.autograd.grad(value, weights)
    for a, b in zip(got, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_targets_by_name_and_include():
    net = model()
    targets = {"0.weight": 0.5, "3.weight": 2.0}
    penalty = SpectralTarget(net, target=targets, include=["[03].weight"], cold_iters=60)
    assert penalty.names == ("0.weight", "3.weight")
    expected = exact([net[0].weight, net[3].weight], [0.5, 2.0])
    torch.testing.assert_close(penalty.penalty(), expected, rtol=1e-9, atol=0)
    square = SpectralTarget(net, include=lambda name, w: w.shape[0] == w.shape[1])
    assert square.names == ("3.weight",)


def test_training_reaches_the_target():
    net = model()
    penalty = SpectralTarget(net, target=1.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        penalty.penalty().backward()
        optimizer.step()
    for weight in (net[0].weight, net[2].weight, net[3].weight):
        norm = torch.linalg.matrix_norm(weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1.5, abs=1e-3)


def test_a_warm_call_continues_where_the_last_one_ended():
    net = model()
    weights = [p for p in net.parameters() if p.ndim >= 2]
    exact_norms = torch.stack([torch.linalg.matrix_norm(w.flatten(1), 2) for w in weights]).detach()
    penalty = SpectralTarget(net, iters=4, cold_iters=2)
    errors = []
    for _ in range(12):
        penalty.penalty()
        errors.append(float((penalty.norms.sigma.detach() / exact_norms - 1).abs().max()))
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-6


def test_state_dict_round_trip():
    net = model()
    first = SpectralTarget(net)
    assert first.state_dict() == {}
    first.penalty()
    second = SpectralTarget(net)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.penalty(), second.penalty())
    with pytest.raises(fk.InputError, match="state must have the names"):
        second.load_state_dict({"other": torch.ones(3)})


def test_stacks_equal_models_one_by_one():
    nets = [model(seed) for seed in range(4)]
    names = ["0.weight", "3.weight"]
    stacks = {
        name: torch.stack([dict(net.named_parameters())[name].detach() for net in nets])
        for name in names
    }
    for stack in stacks.values():
        stack.requires_grad_()
    targets = torch.tensor([0.5, 1.0, 1.5, 2.0])
    lambdas = torch.tensor([0.1, 0.2, 0.0, 1.0])
    together = SpectralTarget(stacks, target=targets, weight=lambdas, cold_iters=60)
    values = together.penalty()
    assert values.shape == (4,)
    for run in range(4):
        weights = [stack[run] for stack in stacks.values()]
        expected = lambdas[run].double() * exact(weights, [float(targets[run])] * 2)
        torch.testing.assert_close(values[run], expected, rtol=1e-9, atol=1e-12)
    values.sum().backward()
    assert stacks["0.weight"].grad[2].abs().max() == 0
    shapes = {name: tuple(v.shape) for name, v in together.state_dict().items()}
    assert shapes == {"0.weight": (4, 6), "3.weight": (4, 5)}


def test_a_shared_weight_counts_once_and_a_parametrised_one_as_computed():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)).double()
    net[1].weight = net[0].weight
    assert SpectralTarget(net).names == ("0.weight",)

    scaled = nn.Sequential(weight_norm(nn.Linear(4, 3))).double()
    penalty = SpectralTarget(scaled, cold_iters=60)
    assert penalty.names == ("0.weight",)
    torch.testing.assert_close(penalty.penalty(), exact([scaled[0].weight], [1.0]))
    penalty.penalty().backward()
    assert scaled[0].parametrizations.weight.original0.grad.abs().max() > 0


def test_a_copy_of_the_model_is_independent():
    net = model()
    penalty = SpectralTarget(net)
    copied = SpectralTarget(copy.deepcopy(net))
    assert torch.equal(penalty.penalty(), copied.penalty())


BAD = {
    "a list": (lambda: SpectralTarget([torch.ones(2, 2)]), "weights must be a module or a dict"),
    "nothing included": (lambda: SpectralTarget(model(), include=[]), "at least one weight"),
    "unknown target": (
        lambda: SpectralTarget(model(), target={"0.weight": 1.0}),
        "target must have the names",
    ),
    "target not finite": (
        lambda: SpectralTarget(model(), target=float("nan")),
        "target must be finite",
    ),
    "targets of a module": (
        lambda: SpectralTarget(model(), target=torch.ones(3)),
        r"target must be a number, got shape \[3\]",
    ),
    "stacks of other lengths": (
        lambda: SpectralTarget({"a": torch.ones(2, 3, 3), "b": torch.ones(3, 3, 3)}),
        "stacks",
    ),
    "weights of other runs": (
        lambda: SpectralTarget({"a": torch.ones(2, 3, 3)}, weight=torch.ones(3)),
        r"weight must be a number or \[R\] = \[2\], got shape \[3\]",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    build, message = BAD[case]
    with pytest.raises(fk.InputError, match=message) as caught:
        build()
    assert str(caught.value).startswith("SpectralTarget: ")
    assert "\n" not in str(caught.value)
