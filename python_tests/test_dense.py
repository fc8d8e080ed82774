"""The kernel of plain ReLU networks against float64 autograd and against vmap."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fractalkern as fk
from fractalkern.ensemble import (
    SGD,
    Adam,
    BinaryCrossEntropy,
    CrossEntropy,
    Data,
    Ensemble,
    MeanSquaredError,
    SpectralPenalty,
)
from fractalkern.ensemble.rows import layout_of
from fractalkern.errors import InputError
from fractalkern.ops.dense import dense_gradients
from fractalkern.reference import dense as reference

WIDTHS = ([2, 64, 64, 1], [5, 7, 3], [20, 33, 17, 10], [3, 4], [70, 20, 1], [2, 8, 8, 8, 2])
LOSSES = (BinaryCrossEntropy(), MeanSquaredError(), CrossEntropy())
NETWORKS = 3


def problem(widths, loss, points, own):
    """x, y, parameters [R, P], the numbers of the op's layout and the named one."""
    generator = torch.Generator().manual_seed(7)
    shapes = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= {f"w{number}": (outputs, inputs), f"b{number}": (outputs,)}
    layout = layout_of(shapes)
    start = {name: column for name, column, _ in layout.places}
    numbers = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        numbers += [inputs, outputs, start[f"w{number}"], start[f"b{number}"]]
    parameters = 0.3 * torch.randn(NETWORKS, layout.width, generator=generator)
    leading = (NETWORKS, points) if own else (points,)
    x = torch.randn(*leading, widths[0], generator=generator)
    if isinstance(loss, CrossEntropy):
        y = torch.randint(widths[-1], leading, generator=generator)
    elif isinstance(loss, BinaryCrossEntropy):
        y = torch.rand(*leading, widths[-1], generator=generator)
    else:
        y = torch.randn(*leading, widths[-1], generator=generator)
    return x, y, parameters, numbers, layout


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("points", [1, 59, 130])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_matches_autograd(instruction_set, widths, loss, points, own):
    x, y, parameters, numbers, layout = problem(widths, loss, points, own)
    gradients = torch.full_like(parameters, torch.nan)
    losses = torch.ops.fractalkern.dense_gradients(x, y, parameters, gradients, numbers, loss.code)
    outputs = torch.ops.fractalkern.dense_outputs(x, parameters, numbers)
    exact = parameters.double()
    targets = y.double() if y.is_floating_point() else y
    expected, slopes = reference.dense_gradients(x.double(), targets, exact, numbers, loss.code)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
    far = reference.dense_outputs(x.double(), exact, numbers)
    torch.testing.assert_close(outputs.double(), far, rtol=1e-5, atol=1e-5)
    for name, found in layout.views(gradients).items():
        torch.testing.assert_close(found.double(), layout.views(slopes)[name], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("logit", [0.0, 1e-3, -30.0, 80.0, -3e4, 1e30])
def test_losses_of_extreme_logits(loss, logit):
    """One layer without inputs that count: the bias is the logit."""
    x, y = torch.zeros(1, 1), torch.zeros(1, 2)
    target = torch.ones(1, dtype=torch.int64) if isinstance(loss, CrossEntropy) else y
    parameters = torch.zeros(1, 32)
    parameters[0, 16] = logit
    gradients = torch.zeros_like(parameters)
    losses = torch.ops.fractalkern.dense_gradients(
        x, target, parameters, gradients, [1, 2, 0, 16], loss.code
    )
    z = torch.tensor([[logit, 0.0]], dtype=torch.float64, requires_grad=True)
    expected = loss(lambda _: z, x, target if target.dtype == torch.int64 else target.double())
    expected.backward()
    # The slope of the own label is a difference from 1.
    smallest = 6e-8 if isinstance(loss, CrossEntropy) else 1e-30
    torch.testing.assert_close(
        losses.double(), expected.float().double()[None], rtol=1e-6, atol=1e-12
    )
    torch.testing.assert_close(
        gradients[:, 16:18].double(), z.grad.float().double(), rtol=1e-6, atol=smallest
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_what_is_not_finite_shows_in_the_loss(instruction_set, loss, bad):
    x, y, parameters, numbers, _ = problem([2, 8, 3], loss, 70, False)
    parameters[1, 5] = bad
    gradients = torch.zeros_like(parameters)
    losses = torch.ops.fractalkern.dense_gradients(x, y, parameters, gradients, numbers, loss.code)
    finite = losses.isfinite() & gradients.isfinite().all(dim=1)
    assert finite.tolist() == [True, False, True]


def test_a_networks_bits_depend_on_it_alone(threads):
    x, y, parameters, numbers, _ = problem([2, 64, 64, 1], LOSSES[0], 1500, True)
    gradients = torch.zeros_like(parameters)
    losses = torch.ops.fractalkern.dense_gradients(x, y, parameters, gradients, numbers, 0)
    outputs = torch.ops.fractalkern.dense_outputs(x, parameters, numbers)
    for run in range(NETWORKS):
        row, alone = parameters[run : run + 1], torch.zeros_like(parameters[:1])
        mine = (x[run], y[run], row, alone, numbers, 0)
        assert torch.equal(torch.ops.fractalkern.dense_gradients(*mine)[0], losses[run])
        assert torch.equal(alone[0], gradients[run])
        assert torch.equal(
            torch.ops.fractalkern.dense_outputs(x[run], row, numbers)[0], outputs[run]
        )


def network(run):
    return nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 1))


def moons(runs=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*((runs,) if runs else ()), 90, 2, generator=generator)
    return x, (x.prod(dim=-1) > 0).float()


@pytest.mark.parametrize("batch_size", [None, 32])
def test_trains_as_vmap_does(batch_size):
    lr = torch.logspace(-3, -1.5, 5)
    results = []
    for kernel in ("dense", "vmap"):
        data = Data(*moons(5), of_run="own", batch_size=batch_size)
        made = Ensemble(network, BinaryCrossEntropy(), Adam(lr=lr), runs=5, kernel=kernel)
        results.append(
            made.fit(data, 20, metrics=lambda view: {"zero": view(torch.zeros(3, 2))}, every=10)
        )
        assert results[-1].record["kernel"] == kernel
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(results[0].metrics, results[1].metrics, rtol=1e-2, atol=1e-3)


def test_any_subset_of_runs_gives_the_same_bits():
    lr = torch.tensor([0.1, 0.01, 1e35, 0.05, 0.02, 0.03])
    penalty = SpectralPenalty(6, torch.linspace(0.5, 2, 6), 0.1, include=lambda n: n != "4.weight")

    def fit(**options):
        made = Ensemble(network, BinaryCrossEntropy(), SGD(lr=lr), runs=6, penalty=penalty)
        return made.fit(Data(*moons()), 15, **options)

    whole, part = fit(), fit(only=[4, 0])
    assert whole.record["width"] == 1
    assert whole.frozen_at.tolist() == [-1, -1, 1, -1, -1, -1]
    for run in (0, 4):
        assert torch.equal(whole.losses[run], part.losses[run])
        for name, stack in whole.parameters.items():
            assert torch.equal(stack[run], part.parameters[name][run])
    assert part.losses[1].isnan().all()


def square_twice(run):
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(2, 1))


@pytest.mark.parametrize(
    "build",
    [
        lambda run: nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)),
        lambda run: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)),
        lambda run: network(run).double(),
        lambda run: nn.Sequential(*network(run)[:2], nn.Dropout(0.1), *network(run)[2:]),
        square_twice,
    ],
    ids=["tanh", "no bias", "float64", "dropout", "a layer twice"],
)
def test_other_models_go_by_vmap(build):
    x, y = moons()
    x, y = (t.to(next(build(0).parameters()).dtype) for t in (x, y))
    result = Ensemble(build, BinaryCrossEntropy(), SGD(lr=0.1), runs=2).fit(Data(x, y), 2)
    assert result.record["kernel"] == "vmap"


def test_labels_that_are_no_class_are_left_to_torch():
    """Cross entropy leaves out the label -100."""
    x, y = moons()
    labels = torch.where(torch.arange(len(y)) % 3 == 0, -100, y.long())
    made = Ensemble(lambda run: nn.Sequential(nn.Linear(2, 2)), CrossEntropy(), SGD(), runs=2)
    losses = made.fit(Data(x, labels), 1).losses
    for run in range(2):
        alone = F.cross_entropy(made.module(run)(x)[labels >= 0], labels[labels >= 0])
        assert float(losses[run, 0]) == pytest.approx(float(alone.detach()))


def test_data_that_do_not_fit_go_by_vmap_or_say_so():
    x, y = moons()
    fitting, other = Data(x, y), Data(x, y.double())

    def train(data, kernel):
        made = Ensemble(network, BinaryCrossEntropy(), SGD(lr=0.1), runs=2, kernel=kernel)
        return made.fit(data, 2), made.fit(fitting, 2)

    first, second = train(other, None)
    assert (first.record["kernel"], second.record["kernel"]) == ("vmap", "dense")
    with pytest.raises(InputError, match=r"data must be float32 points .*torch\.float64"):
        train(other, "dense")


def test_raw_ops_check_what_could_crash():
    ops = torch.ops.fractalkern
    x, y, parameters, numbers, _ = problem([2, 8, 3], LOSSES[2], 10, False)
    for bad, message in (
        ((x[:, :1], parameters, numbers), "x must be contiguous|2 inputs a point"),
        ((x.double(), parameters, numbers), "x must be contiguous float32"),
        ((x, parameters[:, :20], numbers), "parameters must be contiguous"),
        ((x, parameters[:, :20].contiguous(), numbers), "layout must lie within the 20 columns"),
        ((x, parameters, numbers[:3]), "four numbers a layer"),
        ((x, parameters, [2, 8, 0, 16, 7, 3, 32, 64]), "layers that fit together"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.dense_outputs(*bad)
    with pytest.raises(RuntimeError, match="labels from 0 to 2, got 3"):
        ops.dense_gradients(x, torch.full((10,), 3), parameters, parameters.clone(), numbers, 2)
    with pytest.raises(RuntimeError, match="one target for each point"):
        ops.dense_gradients(x, y[:5], parameters, parameters.clone(), numbers, 2)


def test_ops_pass_opcheck():
    x, y, parameters, numbers, _ = problem([2, 8, 3], LOSSES[2], 10, False)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    outputs = torch.ops.fractalkern.dense_outputs.default
    torch.library.opcheck(outputs, (x, parameters, numbers), test_utils=tests)
    arguments = (x, y, parameters, torch.zeros_like(parameters), numbers, 2)
    gradients = torch.ops.fractalkern.dense_gradients.default
    torch.library.opcheck(gradients, arguments, test_utils=tests)


def test_compiles():
    x, y, parameters, numbers, _ = problem([2, 8, 3], LOSSES[0], 10, False)
    compiled = torch.compile(dense_gradients, fullgraph=True, backend="aot_eager")
    found = [torch.zeros_like(parameters) for _ in range(2)]
    losses = [
        f(x, y, parameters, g, numbers, 0)
        for f, g in zip((compiled, dense_gradients), found, strict=True)
    ]
    assert torch.equal(*losses)
    assert torch.equal(*found)


def test_instruction_set_is_in_the_record():
    result = Ensemble(network, BinaryCrossEntropy(), SGD(), runs=1).fit(Data(*moons()), 1)
    assert result.record["instruction_set"] == fk.build_info()["instruction_set"]
