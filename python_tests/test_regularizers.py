import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fractalkern import InputError, InputTypeError
from fractalkern.regularizers import SpectralTarget, spectral_penalty


def mlp(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 1)).to(dtype)


def exact(module, targets, factor):
    weights = [w for w in module.parameters() if w.dim() > 1]
    sigmas = [torch.linalg.matrix_norm(w.flatten(1), 2) for w in weights]
    return factor * sum((s - t) ** 2 for s, t in zip(sigmas, targets, strict=True))


def test_penalty_and_gradient_match_the_svd():
    module = mlp()
    ours = SpectralTarget(module, [1.0, 2.0, 0.5], weight=0.7, iters=40)
    penalty = ours.penalty()
    expected = exact(module, [1.0, 2.0, 0.5], 0.7)
    torch.testing.assert_close(penalty, expected, rtol=1e-9, atol=0)
    weights = [w for w in module.parameters() if w.dim() > 1]
    gradients = torch.autograd.grad(2 * penalty, weights)
    for a, b in zip(gradients, torch.autograd.grad(2 * expected, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_warm_starts_improve_from_call_to_call():
    module = mlp()
    ours = SpectralTarget(module, target=0.0)
    values = [float(ours.penalty().detach()) for _ in range(300)]
    # Each call contains the former vector in its span; converged, it moves by rounding alone.
    assert all(b >= a * (1 - 1e-13) for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(float(exact(module, [0.0] * 3, 1.0).detach()), rel=1e-9)


def test_training_reaches_the_target():
    module = mlp(torch.float32)
    ours = SpectralTarget(module, target=1.5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ours.penalty().backward()
        optimizer.step()
    for weight in (w for w in module.parameters() if w.dim() > 1):
        assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1.5, abs=1e-2)


def conv_and_parametrised():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.Linear(4, 3), weight_norm(nn.Linear(3, 2))]
    frozen = nn.Linear(3, 3)
    frozen.weight.requires_grad_(False)
    return nn.Sequential(*layers, frozen, nn.Linear(3, 5, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", ["module", "stacks"])
def test_backward_without_autograd_adds_the_same_gradients(kind):
    module = conv_and_parametrised()
    stacks = {"a": torch.randn(3, 5, 4).requires_grad_(), "b": torch.randn(3, 6, 5)}
    learning = [*module.parameters()] if kind == "module" else [*stacks.values()]
    found = []
    for how in ("autograd", "directly"):
        ours = SpectralTarget(module if kind == "module" else stacks, target=0.5, weight=0.3)
        for parameter in learning:
            parameter.grad = None
        for _ in range(2):  # the second call adds to what is there, from the warm start
            if how == "autograd":
                penalty = ours.penalty()
                penalty.sum().backward()
            else:
                penalty = ours.backward()
        assert not (how == "directly" and penalty.requires_grad)
        found.append((penalty.detach(), ours.start, [p.grad for p in learning]))
    (penalty, start, expected), (directly, next_start, gradients) = found
    assert torch.equal(penalty, directly) and torch.equal(start, next_start)
    assert sum(gradient is not None for gradient in gradients) == (5 if kind == "module" else 1)
    for a, b in zip(gradients, expected, strict=True):
        assert a is b is None or torch.equal(a, b)


def test_backward_of_weights_that_share_a_graph():
    logs = torch.randn(2, 4, 6).requires_grad_()
    found = []
    for how in ("autograd", "directly"):
        both = logs.exp()
        ours = SpectralTarget({"a": both[:, :, :3], "b": both[:, :, 3:]})
        logs.grad = None
        ours.penalty().sum().backward() if how == "autograd" else ours.backward()
        found.append(logs.grad)
    torch.testing.assert_close(*found)


def test_backward_needs_a_weight_that_learns():
    with pytest.raises(InputError, match="SpectralTarget: some weight must require a gradient"):
        SpectralTarget({"a": torch.randn(2, 3, 3)}).backward()
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, float("nan"))
    with pytest.raises(InputError, match="weights must be finite"):
        SpectralTarget(module).backward()


def test_state_dict_goes_on_where_it_was():
    module = mlp()
    first = SpectralTarget(module)
    for _ in range(3):
        first.penalty()
    second = SpectralTarget(module, seed=9)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.penalty(), second.penalty())
    assert not list(first.parameters())


def test_shared_and_parametrised_weights_count_once():
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    module[2].weight = shared.weight
    ours = SpectralTarget(module, iters=30)
    assert ours.names == ["0.weight", "1.weight"]
    expected = torch.linalg.matrix_norm(module[1].weight, 2)
    torch.testing.assert_close(ours.sigma()[1], expected, rtol=1e-4, atol=0)
    ours.penalty().backward()
    assert module[1].parametrizations.weight.original1.grad.any()


def test_include_and_convolutions():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 4))
    ours = SpectralTarget(module, include=lambda name, tensor: tensor.dim() == 4, iters=30)
    expected = torch.linalg.matrix_norm(module[0].weight.flatten(1), 2)
    torch.testing.assert_close(ours.sigma(), expected[None], rtol=1e-5, atol=0)
    by_name = SpectralTarget(module, {"0.weight": 1.0, "1.weight": 2.0})
    assert by_name.target.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", [list, torch.tensor, np.asarray])
def test_targets_of_the_layers_may_be_a_tensor(kind):
    ours = SpectralTarget(mlp(), kind([1.0, 2.0, 0.5]))
    assert ours.target.tolist() == [1.0, 2.0, 0.5]
    with pytest.raises(InputError, match="one entry a weight, 3, got 2"):
        SpectralTarget(mlp(), kind([1.0, 2.0]))


def test_a_module_made_on_the_meta_device():
    with torch.device("meta"):
        layer = nn.Linear(3, 3)
        ours = SpectralTarget(layer)
    assert ours.start.is_meta


def test_stacks_of_empty_matrices():
    ours = SpectralTarget({"a": torch.ones(2, 0, 3), "b": torch.ones(2, 3, 0)}, target=2.0)
    assert ours.penalty().tolist() == [8.0, 8.0]


def test_stacks_of_models_equal_single_ones():
    stacks = {"a": torch.randn(3, 5, 4).double(), "b": torch.randn(3, 6, 5).double()}
    stacks = {name: w.requires_grad_() for name, w in stacks.items()}
    factors = torch.tensor([0.1, 1.0, 3.0])
    ours = SpectralTarget(
        stacks, {"a": torch.tensor([1.0, 2.0, 3.0]), "b": 0.5}, weight=factors, iters=30
    )
    penalty = ours.penalty()
    assert penalty.shape == (3,) and ours.sigma().shape == (2, 3)
    gradients = torch.autograd.grad(penalty.sum(), list(stacks.values()))
    for r in range(3):
        sigmas = torch.stack([torch.linalg.matrix_norm(w[r], 2) for w in stacks.values()])
        targets = torch.tensor([r + 1.0, 0.5])
        expected = factors[r] * ((sigmas - targets) ** 2).sum()
        torch.testing.assert_close(penalty[r], expected, rtol=1e-7, atol=0)
        for a, b in zip(
            gradients, torch.autograd.grad(expected, list(stacks.values())), strict=True
        ):
            torch.testing.assert_close(a[r], b[r], rtol=1e-4, atol=1e-6)


def test_zero_weights_keep_the_start():
    module = nn.Linear(3, 3)
    ours = SpectralTarget(module)
    ours.penalty()
    nn.init.zeros_(module.weight)
    assert float(ours.penalty().detach()) == 1
    nn.init.eye_(module.weight)
    assert float(ours.penalty().detach()) == pytest.approx(0, abs=1e-10)


def test_a_zero_weight_from_the_first_call_on():
    """It has no vector to start from, and the others keep theirs."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    nn.init.zeros_(module[0].weight)
    ours = SpectralTarget(module)
    for _ in range(60):
        ours.penalty()
    assert not ours.start[:3].any() and ours.start[3:].any()
    expected = torch.linalg.matrix_norm(module[1].weight, 2)
    torch.testing.assert_close(ours.sigma()[1], expected, rtol=1e-5, atol=0)
    nn.init.eye_(module[0].weight)
    assert float(ours.sigma()[0]) == pytest.approx(1, rel=1e-6)


def test_opcheck_and_gradcheck():
    weights = [torch.randn(4, 3).double().requires_grad_(), torch.randn(3, 5).double()]
    arguments = (weights, None, torch.ones(2), torch.tensor(2.0), 30, True, 0)
    torch.library.opcheck(torch.ops.fractalkern.spectral_penalty.default, arguments)

    def penalty(a, b):
        return spectral_penalty([a, b], torch.ones(2), torch.tensor(2.0), iters=30)[0]

    assert torch.autograd.gradcheck(penalty, [w.requires_grad_() for w in weights])


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: SpectralTarget(nn.ReLU()), InputError, "got none"),
        (lambda: SpectralTarget(3), InputTypeError, "a module or a dict"),
        (lambda: SpectralTarget(mlp(), [1.0]), InputError, "one entry a weight, 3, got 1"),
        (lambda: SpectralTarget(mlp(), {"x": 1.0}), InputError, "exactly the weights"),
        (lambda: SpectralTarget(mlp(), float("nan")), InputError, "target must be finite"),
        (
            lambda: SpectralTarget(mlp(), weight=torch.ones(2)),
            InputError,
            "weight must be a number",
        ),
        (
            lambda: SpectralTarget(mlp(), iters=1),
            InputError,
            "iters must be an integer of at least 2",
        ),
        (lambda: SpectralTarget({"a": torch.ones(2, 2)}), InputError, r"shape \[R, m, n\]"),
        (lambda: SpectralTarget(mlp(), seed=-1), InputError, "seed must be an integer of at"),
        (lambda: SpectralTarget(mlp(), seed="a"), InputTypeError, "seed must be an integer of at"),
        (lambda: SpectralTarget(mlp(), iters=2**70), InputError, "iters and seed must be below"),
        (lambda: SpectralTarget(mlp(), "high"), InputTypeError, "target must be a tensor or an"),
        (lambda: SpectralTarget(mlp(), 1j), InputTypeError, "target must be real numbers"),
        (lambda: SpectralTarget(mlp(), weight=None), InputTypeError, "weight must be a tensor or"),
        (lambda: SpectralTarget({"a": 1}), InputTypeError, "tensors, but a is int"),
        (
            lambda: SpectralTarget({"a": torch.ones(2, 3, 3).long()}),
            InputTypeError,
            "tensors, but a is torch.int64",
        ),
        (
            lambda: SpectralTarget({"a": torch.ones(1, 1, 1), "b": torch.ones(1, 1, 1).to("meta")}),
            InputError,
            "weights must be on one device, but a is on cpu and b on meta",
        ),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_non_finite_weights_raise():
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, float("nan"))
    with pytest.raises(InputError, match="weights must be finite"):
        SpectralTarget(module).penalty()


def test_penalty_compiles_without_graph_break():
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target, factor = torch.ones(1, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def penalty(weight):
        return spectral_penalty([weight], target, factor)[0]

    compiled = torch.compile(penalty, fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(weight), weight)
    (expected,) = torch.autograd.grad(penalty(weight), weight)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.func.grad(penalty)(weight.detach()), expected)


def test_second_derivatives_are_refused():
    """A gradient that passed for a constant would drop terms without a word."""
    module = mlp()
    weights = [w for w in module.parameters() if w.dim() > 1]
    gradients = torch.autograd.grad(SpectralTarget(module).penalty(), weights, create_graph=True)
    with pytest.raises(NotImplementedError, match="can be differentiated once only"):
        sum(g.sum() for g in gradients).backward()
