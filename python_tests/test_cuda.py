"""CUDA kernels beside the CPU's: the same counts, labels and sentences on either device."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

import fractalkern as fk
from fractalkern.experiments.trainability import training
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.data import shared
from fractalkern.experiments.trainability.training import sweep_arguments
from fractalkern.init import genesis_
from fractalkern.ops.adam import adam_step
from fractalkern.ops.box_mass import gliding_moments
from fractalkern.ops.dropout_mask import dropout_mask
from fractalkern.regularizers import spectral_penalty
from fractalkern.sweeps.grid import Tile, log_axis

pytestmark = pytest.mark.needs("cuda")
DEVICE = torch.device("cuda")
INTEGERS = {1: torch.uint8, 4: torch.int32, 8: torch.int64}

MASKS = {
    "2-D": ((257, 131), 2),
    "wide": ((5, 70001), 2),
    "3-D": ((33, 65, 40), 3),
    "4-D": ((9, 17, 8, 35), 4),
    "5-D": ((5, 6, 7, 8, 9), 5),
    "batch": ((4096, 64, 64), 2),
    "line": ((100003,), 1),
    "empty batch": ((0, 16, 16), 2),
}
OPTIONS = {
    "default": {},
    "mixed": {"rule": "mixed"},
    "offsets": {"offsets": 3},
    "sizes": {"sizes": [1, 3, 5], "border": "crop"},
    "every cell": {"sizes": [2, 5], "offsets": "all", "rule": "mixed"},
}


def generator():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("shape", "dims"), MASKS.values(), ids=MASKS)
def test_box_counts_are_those_of_the_cpu(shape, dims, options):
    mask = torch.rand(shape, generator=generator()) < 0.03
    ours = fk.box_count(mask.to(DEVICE), spatial_dims=dims, **options)
    expected = fk.box_count(mask, spatial_dims=dims, **options)
    assert ours.per_grid.is_cuda
    assert torch.equal(ours.per_grid.cpu(), expected.per_grid)


def test_box_count_takes_any_strides_and_dtypes():
    mask = torch.randint(0, 3, (3, 90, 150), generator=generator()) * 128
    for view in (mask.transpose(1, 2), mask[:, ::2, 5:], mask.to(torch.uint8)[..., 1:]):
        ours = fk.box_count(view.to(DEVICE), spatial_dims=2)
        assert torch.equal(ours.per_grid.cpu(), fk.box_count(view, spatial_dims=2).per_grid)
    on_device = mask.to(torch.uint8).to(DEVICE)
    for view in (on_device[..., 1:], on_device.transpose(1, 2), on_device[:, 3::2]):
        ours = fk.box_count(view, spatial_dims=2)
        assert torch.equal(ours.per_grid.cpu(), fk.box_count(view.cpu(), spatial_dims=2).per_grid)


def test_masks_beyond_two_to_the_31_cells():
    shape = (33_000, 66_000)
    free, _ = torch.cuda.mem_get_info()
    if free < 4 * shape[0] * shape[1]:
        pytest.skip("the device has less than 8 GB of memory free")
    mask = torch.zeros(shape, dtype=torch.uint8, device=DEVICE)
    mask[-1, -1] = mask[0, 0] = 1
    counts = fk.box_count(mask, sizes=[1, 2, 64, 16384, 32768]).counts.tolist()
    assert counts == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("weights", [torch.bool, torch.uint8, torch.float64], ids=str)
def test_box_masses_are_those_of_the_cpu(weights):
    mask = (torch.rand(3, 65, 131, generator=generator()) < 0.1).to(weights)
    for options in ({}, {"sizes": [1, 3, 7], "offsets": 2}):
        ours = fk.box_masses(mask.to(DEVICE), spatial_dims=2, **options)
        expected = fk.box_masses(mask, spatial_dims=2, **options)
        assert torch.equal(ours.flat.cpu(), expected.flat)


@pytest.mark.parametrize("weights", [torch.bool, torch.uint8, torch.int64], ids=str)
def test_gliding_moments_are_those_of_the_cpu(weights):
    mask = (torch.rand(3, 65, 2100, generator=generator()) < 0.1).to(weights) * 3
    for array, dims in ((mask, 2), (mask[0, :, :70].mT, 1), (mask[..., :31], 3)):
        ours = gliding_moments(array.to(DEVICE), spatial_dims=dims)
        expected = gliding_moments(array, spatial_dims=dims)
        for name in ("positions", "mass", "square"):
            assert torch.equal(getattr(ours, name).cpu(), getattr(expected, name)), name


def view(condition, resolution=64, steps=100, **changes):
    """The arguments of a coarse grid over a condition's first view, on the CPU."""
    config = TrainabilityConfig(condition=condition, resolution=resolution, steps=steps, **changes)
    low0, high0, low1, high1 = config.window
    first = log_axis(low0, high0, resolution).to(getattr(torch, config.dtype))
    second = log_axis(low1, high1, resolution).to(getattr(torch, config.dtype))
    cells = first.repeat(resolution), second.repeat_interleave(resolution)
    arguments, options = sweep_arguments(config, shared(config), *cells)
    return arguments, options


def changed(change, arguments, options):
    """The same with `change(tensor)` in place of every tensor."""

    def one(value):
        return change(value) if isinstance(value, torch.Tensor) else value

    return [one(value) for value in arguments], {key: one(v) for key, v in options.items()}


def moved(arguments, options, device=DEVICE):
    return changed(lambda tensor: tensor.to(device), arguments, options)


def bits(result):
    """Its arrays on the CPU, as integers: NaN equals NaN."""
    parts = [result.value, result.converged, result.final_loss, result.steps_run]
    return [part.cpu().view(INTEGERS[part.element_size()]) for part in parts]


@pytest.mark.parametrize(
    "condition",
    ["tanh", "relu", "linear", "tanh-single", "tanh-minibatch", "init-offset"],
)
def test_labels_are_those_of_the_cpu(condition):
    arguments, options = view(condition)
    expected = fk.train_sweep(*arguments, **options)
    there, there_options = moved(arguments, options)
    ours = fk.train_sweep(*there, **there_options)
    same = (ours.converged.cpu() == expected.converged).double().mean()
    assert same >= 0.997
    calm = (arguments[4] < 1) & (arguments[5] < 1) & expected.converged
    if condition != "init-offset":
        torch.testing.assert_close(
            ours.value.cpu()[calm], expected.value[calm], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 5e-16), (torch.float32, 3e-7)])
def test_tanh(dtype, bound):
    x = torch.linspace(-25, 25, 100_001, dtype=torch.float64).to(dtype)
    x = torch.cat([x, torch.tensor([0.0, -0.0, torch.inf, -torch.inf], dtype=dtype)])
    ours = torch.ops.fractalkern.vector_tanh(x.to(DEVICE)).cpu()
    torch.testing.assert_close(ours, x.double().tanh().to(dtype), rtol=0, atol=bound)
    nan = torch.full((3,), torch.nan, dtype=dtype)
    assert torch.ops.fractalkern.vector_tanh(nan.to(DEVICE)).isnan().all()


@pytest.mark.parametrize("unit", ["multiply-add", "tensor-core", "any-shape"])
def test_every_unit_gives_the_labels_of_the_cpu(unit, monkeypatch):
    arguments, options = view("tanh", resolution=32, steps=60)
    expected = fk.train_sweep(*arguments, **options)
    monkeypatch.setenv("FRACTALKERN_SWEEP_UNIT", unit)
    there, there_options = moved(arguments, options)
    ours = fk.train_sweep(*there, **there_options)
    assert (ours.converged.cpu() == expected.converged).double().mean() >= 0.997


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("width", [3, 8, 16, 32])
def test_bits_do_not_depend_on_what_shares_the_launch(width, dtype):
    arguments, options = view("tanh", resolution=32, steps=50, width=width, dtype=dtype)
    arguments, options = moved(arguments, options)
    *data, lr0, lr1 = arguments
    whole = bits(fk.train_sweep(*data, lr0, lr1, **options))
    order = torch.randperm(len(lr0), generator=generator())
    device_order = order.to(DEVICE)
    shuffled = bits(fk.train_sweep(*data, lr0[device_order], lr1[device_order], **options))
    for one, other in zip(whole, shuffled, strict=True):
        assert torch.equal(one[order], other)
    parts = [
        bits(fk.train_sweep(*data, lr0[cut], lr1[cut], **options))
        for cut in (slice(0, 1), slice(1, 700), slice(700, None))
    ]
    for one, *cuts in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.cat(cuts))


@pytest.mark.parametrize("condition", ["tanh", "tanh-minibatch", "init-offset-published"])
def test_a_grid_trained_in_pieces_has_the_same_bits(condition, monkeypatch):
    config = TrainabilityConfig(condition=condition, resolution=32, steps=40, device=DEVICE.type)
    whole = training.tile_trainer(config)(Tile(0, 0, 32))
    monkeypatch.setattr(training, "networks_of_a_call", lambda config: 100)
    parts = [
        training.tile_trainer(config)(Tile(index, start, stop))
        for index, (start, stop) in enumerate([(0, 1), (1, 20), (20, 32)])
    ]
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_a_resumed_run_has_the_bytes_of_one_that_did_not_stop(tmp_path, monkeypatch):
    for package in ("safetensors", "matplotlib", "PIL", "rich"):
        pytest.importorskip(package)
    from fractalkern.experiments.trainability.run import run

    monkeypatch.setattr(TrainabilityConfig, "rows_per_tile", 7)
    config = TrainabilityConfig(width=8, resolution=24, steps=30, device=DEVICE.type)
    run(config, tmp_path / "whole")
    train, calls = training.train_sweep, []

    def train_twice(*arguments, **options):
        calls.append(options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(training, "train_sweep", train_twice)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "resumed")
    run(config, tmp_path / "resumed")
    assert len(calls) == 3 + 2
    whole, resumed = (tmp_path / name / "grid.safetensors" for name in ("whole", "resumed"))
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("condition", ["tanh", "tanh-minibatch", "init-offset"])
def test_training_takes_any_strides(condition):
    def spread(tensor):
        return torch.stack([tensor, torch.full_like(tensor, 99)], -1)[..., 0]

    def transposed(tensor):
        return tensor.mT.contiguous().mT if tensor.dim() == 2 else spread(tensor)

    arguments, options = moved(*view(condition, resolution=16, steps=30))
    expected = bits(fk.train_sweep(*arguments, **options))
    for change in (spread, transposed):
        there, there_options = changed(change, arguments, options)
        assert not there[0].is_contiguous()
        assert not there[4].is_contiguous()
        ours = bits(fk.train_sweep(*there, **there_options))
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    one_rate = arguments[4][:1].expand(256)
    ours = bits(fk.train_sweep(*arguments[:4], one_rate, arguments[5], **options))
    alike = bits(fk.train_sweep(*arguments[:4], one_rate.clone(), arguments[5], **options))
    assert all(torch.equal(a, b) for a, b in zip(ours, alike, strict=True))


def test_early_exit_changes_no_result():
    arguments, options = moved(*view("relu", resolution=32, steps=60))
    call = torch.ops.fractalkern.train_sweep
    rest = (options["steps"], options["activation"], None, None, False, None, True, False)
    with_exit, without = call(*arguments, *rest, True), call(*arguments, *rest, False)
    for index in (0, 1, 2, 4, 5):
        torch.testing.assert_close(with_exit[index], without[index], rtol=0, atol=0, equal_nan=True)


# Small matrices, some that do not fit into a multiprocessor's shared memory, and odd strides.
MATRICES = {
    "small": [(64, 2), (64, 64), (1, 64), (200, 1), (3, 5)],
    "large": [(700, 300), (1000, 999), (64, 64), (5, 40_000), (60_000, 3)],
    "one": [(2048, 2048)],
}


def weights(shapes, dtype):
    """Matrices of a spectrum with a gap, every third a view with a longer row."""
    drawn = []
    for i, (m, n) in enumerate(shapes):
        matrix = 0.3 * torch.randn(m, n + 3 * (i % 3 == 2), generator=generator())
        view = matrix.to(dtype)[:, :n]
        u, v = torch.randn(m, 1, generator=generator()), torch.randn(n, generator=generator())
        view += (u * v / (i + 1)).to(dtype)
        drawn.append(view)
    return drawn


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("shapes", MATRICES.values(), ids=MATRICES)
def test_singular_values_are_those_of_the_cpu(shapes, dtype, method):
    matrices = weights(shapes, dtype)
    on_device = [w.to(DEVICE) for w in matrices]
    for options in ({"iters": 9}, {"iters": 200, "tol": 1e-3}):
        ours = fk.power_iteration(on_device, method=method, seed=5, **options)
        expected = fk.power_iteration(matrices, method=method, seed=5, **options)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(ours.sigma.cpu(), expected.sigma, rtol=tolerance, atol=0)
        torch.testing.assert_close(ours.lower.cpu(), expected.lower, rtol=tolerance, atol=0)
        assert ours.status == expected.status
        assert (ours.lower <= ours.sigma * (1 + 1e-7)).all()
        assert (ours.upper >= ours.sigma * (1 - 1e-7)).all()
        for w, sigma, u, v in zip(on_device, ours.sigma, ours.u, ours.v, strict=True):
            torch.testing.assert_close(
                (w.double() @ v.double()).norm(), sigma.double(), rtol=1e-5, atol=0
            )
            torch.testing.assert_close(
                w.double() @ v.double(),
                sigma.double() * u.double(),
                rtol=0,
                atol=float(1e-5 * sigma),
            )
    again = fk.power_iteration(on_device, method=method, seed=5, **options)
    assert torch.equal(ours.sigma, again.sigma)
    assert torch.equal(ours.flat_v, again.flat_v)


def test_singular_values_of_stacks_scales_and_starts():
    stack = 1e20 * torch.randn(3, 4, 48, 31, generator=generator())
    stack[1, 2] = 0
    stack[2, 0] *= 1e-37
    ours = fk.power_iteration(stack.to(DEVICE), iters=31)
    exact = torch.linalg.matrix_norm(stack.double(), 2)
    torch.testing.assert_close(ours.sigma.cpu().double(), exact, rtol=1e-5, atol=0)
    assert ours.status[1][2] == "zero"
    assert not ours.u[1, 2].any()
    start = ours.v.clone()
    start[1, 2] = 1
    warm = fk.power_iteration(stack.to(DEVICE), iters=2, start=start)
    torch.testing.assert_close(warm.sigma, ours.sigma, rtol=1e-5, atol=0)


def test_a_matrix_that_is_not_finite_says_so_without_a_wait():
    broken = torch.ones(4, 4, device=DEVICE)
    broken[1, 1] = float("nan")
    norms = fk.power_iteration([broken, broken[2:]])
    assert norms.status == ["non-finite", "iterated"]
    assert norms.sigma.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_penalties_and_gradients_are_those_of_the_cpu(dtype):
    matrices = weights([(64, 2), (64, 64), (90, 1), (300, 700)], dtype)
    found = []
    for device in (DEVICE, torch.device("cpu")):
        leaves = [w.to(device).detach().clone().requires_grad_() for w in matrices]
        targets = torch.tensor([1.0, 2.0, 0.5, 3.0], device=device)
        penalty, sigma, following = spectral_penalty(
            leaves, targets, torch.tensor(0.1, dtype=torch.float64, device=device), iters=12
        )
        penalty.backward()
        (fk.power_iteration(leaves, iters=12).sigma.sum() * 3).backward()
        found.append([penalty, sigma, following.abs(), *[w.grad for w in leaves]])
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-4
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours.cpu(), expected, rtol=rounding, atol=rounding)


def test_a_penalty_is_captured_in_a_graph():
    leaves = [w.to(DEVICE).requires_grad_() for w in weights([(64, 64), (900, 400)], torch.float32)]
    goal, scale = torch.ones(2, device=DEVICE), torch.ones((), device=DEVICE)

    def step():
        penalty, *_ = spectral_penalty(leaves, goal, scale, iters=6)
        return penalty, torch.autograd.grad(penalty, leaves)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, gradients = step()
    with torch.no_grad():
        leaves[0].mul_(2)
        leaves[1].add_(0.01)
    graph.replay()
    torch.cuda.synchronize()
    expected, expected_gradients = step()
    assert torch.equal(captured, expected)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))


def every_op(device=DEVICE):
    """A call of each op, by its name, with its inputs on a device; each gives a tensor."""
    mask = (torch.rand(130, 512, generator=generator()) < 0.02).to(device)
    arguments, options = moved(*view("tanh", resolution=16, steps=30), device)
    matrices = [w.to(device) for w in weights(MATRICES["small"], torch.float32)]
    keys = torch.tensor([5, 6], device=device)
    return {
        "box_count": lambda: fk.box_count(mask).counts,
        "box_masses": lambda: fk.box_masses(mask).flat,
        "gliding_moments": lambda: gliding_moments(mask).square,
        "train_sweep": lambda: fk.train_sweep(*arguments, **options).value,
        "fractal_noise": lambda: fk.fractal_noise((65, 40), 1.3, seed=3, device=device),
        "power_iteration": lambda: fk.power_iteration(matrices, iters=7).sigma,
        "adam_step": lambda: stepped(device),
        "dropout_mask": lambda: dropout_mask(keys, 4099, 1, 2, 3, 2**30, 1.5),
    }


def stepped(device):
    tensors = [tensor.to(device) for tensor in adam_problem(3, 640, torch.float32)]
    adam_step(*tensors)
    return tensors[0]


def test_streams_do_not_disturb_each_other():
    calls = every_op()
    alone = {name: call() for name, call in calls.items()}
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for _ in range(3):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append({name: call() for name, call in calls.items()})
    torch.cuda.synchronize()
    for result in results:
        for name, found in result.items():
            assert torch.equal(found, alone[name]), name


def test_work_is_queued_on_the_current_stream():
    mask = torch.zeros(4096, 4096, dtype=torch.bool, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        mask.fill_(True)
        counts = fk.box_count(mask, sizes=[1]).counts
    stream.synchronize()
    assert counts.tolist() == [4096**2]


@pytest.mark.needs("second-cuda")
def test_a_second_device_works_while_the_first_is_current():
    calls = every_op("cuda:1")
    results = {name: call() for name, call in calls.items()}
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        alone = {name: call() for name, call in calls.items()}
    for name, on_the_cpu in every_op("cpu").items():
        assert results[name].device == torch.device("cuda:1"), name
        assert torch.equal(results[name], alone[name]), name
        if name != "train_sweep":
            torch.testing.assert_close(results[name].cpu(), on_the_cpu(), rtol=1e-5, atol=1e-5)
    arguments, options = view("tanh", resolution=16, steps=30)
    converged = fk.train_sweep(*arguments, **options).converged
    assert ((results["train_sweep"].cpu() < 0) == converged).double().mean() >= 0.99


@pytest.mark.needs("second-cuda")
@pytest.mark.needs("triton")
def test_triton_works_on_a_second_device_while_the_first_is_current():
    device = torch.device("cuda:1")
    mask = (torch.rand(130, 512, generator=generator()) < 0.02).to(device)
    matrices = [w.to(device) for w in weights(MATRICES["small"], torch.float32)]
    calls = {
        "box_count": lambda: fk.box_count(mask).counts,
        "fractal_noise": lambda: fk.fractal_noise((65, 40), 1.3, seed=3, device=device),
        "power_iteration": lambda: fk.power_iteration(matrices, iters=7, method="power").sigma,
    }
    expected = {name: call() for name, call in calls.items()}
    with fk.use_backend("triton"):
        for name, call in calls.items():
            torch.testing.assert_close(call(), expected[name], rtol=1e-5, atol=1e-5)
    assert torch.cuda.current_device() == 0


def test_calls_are_captured_in_a_graph():
    mask = torch.zeros(300, 300, dtype=torch.bool, device=DEVICE)
    arguments, options = moved(*view("tanh-minibatch", resolution=16, steps=20))

    def calls():
        trained = fk.train_sweep(*arguments, **options)
        return fk.box_count(mask), fk.box_masses(mask), gliding_moments(mask), trained

    calls()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counted, summed, glided, trained = calls()
    mask.copy_(torch.rand(300, 300, generator=generator()) < 0.1)
    arguments[4].mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    again = calls()
    assert torch.equal(counted.counts, again[0].counts)
    assert torch.equal(summed.flat, again[1].flat)
    assert torch.equal(glided.square, again[2].square)
    assert all(torch.equal(a, b) for a, b in zip(bits(trained), bits(again[3]), strict=True))
    options["batches"][3, 1] = -1
    graph.replay()
    torch.cuda.synchronize()
    assert trained.value.isnan().all(), "a row that x lacks must not pass"


def test_sizes_on_the_device_cannot_be_read_while_a_graph_is_captured():
    mask = torch.ones(8, 8, dtype=torch.bool, device=DEVICE)
    sizes = torch.tensor([1, 2], device=DEVICE)
    torch.cuda.synchronize()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        mask.logical_not_()  # a graph must not be empty
        with pytest.raises(fk.InputError, match=r"^box_count: sizes must be"):
            fk.box_count(mask, sizes)


def test_torch_compile_sees_the_ops():
    mask = (torch.rand(64, 64, generator=generator()) < 0.1).to(DEVICE)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def counted(mask):
        return fk.box_count(mask).counts * 2

    arguments, options = moved(*view("tanh-minibatch", resolution=8, steps=10))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def trained(batches, *arguments):
        result = fk.train_sweep(*arguments, **options | {"batches": batches})
        return result.final_loss, result.value * 2

    @torch.compile(fullgraph=True, backend="aot_eager")
    def dropped(key, p, g, m, v, numbers):
        adam_step(p, g * dropout_mask(key, 64, 0, 1, 7, 2**31, 2.0), m, v, numbers)
        return p * 2

    key = torch.tensor([1, 2], device=DEVICE)
    ours, expected = (on_device(adam_problem(1, 64, torch.float32)) for _ in range(2))
    expected[1] *= dropout_mask(key, 64, 0, 1, 7, 2**31, 2.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert torch.equal(counted(mask), fk.box_count(mask).counts * 2)
        doubled = dropped(key, *ours)
        adam_step(*expected)
        assert torch.equal(ours[0], expected[0])
        assert torch.equal(doubled, expected[0] * 2)
        final_loss, value = trained(options["batches"], *arguments)
        broken = trained(options["batches"] + 10**9, *arguments)
    expected = fk.train_sweep(*arguments, **options)
    torch.testing.assert_close(final_loss, expected.final_loss, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(value, expected.value * 2)
    assert all(part.isnan().all() for part in broken), "rows that x lacks must not pass"


def test_opcheck():
    mask = (torch.rand(3, 20, 30, generator=generator()) < 0.2).to(DEVICE)
    torch.library.opcheck(
        torch.ops.fractalkern.box_count.default, (mask, 2, [1, 2, 5], 2, True, False)
    )
    for operands in ((mask, 2, [1, 2, 5], 2), (mask.double(), 2, [1, 3], 1)):
        torch.library.opcheck(torch.ops.fractalkern.box_mass.default, operands)
    torch.library.opcheck(torch.ops.fractalkern.gliding_mass.default, (mask, 2, [1, 2, 5]))
    keys = torch.ones(2, 2, dtype=torch.int64, device=DEVICE)
    torch.library.opcheck(
        torch.ops.fractalkern.dropout_mask.default, (keys, 9, 0, 0, 1, 2**31, 2.0)
    )
    torch.library.opcheck(
        torch.ops.fractalkern.adam_step.default,
        tuple(on_device(adam_problem(2, 9, torch.float32))),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    arguments, options = moved(*view("tanh", resolution=4, steps=5))
    rest = (options["steps"], options["activation"], None, None, False, None, True, False, True)
    torch.library.opcheck(torch.ops.fractalkern.train_sweep.default, (*arguments, *rest))
    matrices = [w.to(DEVICE) for w in weights([(5, 3), (4, 4)], torch.float32)]
    options = (None, 5, -1.0, True, 1e-6, 0)
    torch.library.opcheck(torch.ops.fractalkern.power_iteration.default, (matrices, *options))


def test_autocast_leaves_the_training_alone():
    arguments, options = moved(*view("tanh", resolution=8, steps=10))
    expected = bits(fk.train_sweep(*arguments, **options))
    with torch.autocast("cuda"):
        ours = bits(fk.train_sweep(*arguments, **options))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, o: a.__setitem__(1, a[1].cpu()), r"y must be on the device of x, cuda:0"),
        (lambda a, o: a[4].__setitem__(3, float("nan")), r"lr0 must hold no NaN, got one"),
        (lambda a, o: a[1].mul_(1e9), r"the first loss must be positive and at most 1e6"),
        (
            lambda a, o: o.update(batches=torch.full((10, 2), 999, device=DEVICE)),
            r"batches must hold row numbers from 0 to 271",
        ),
    ],
    ids=["device", "nan", "first loss", "rows"],
)
def test_bad_input_gives_the_sentences_of_the_cpu(change, message):
    arguments, options = moved(*view("tanh", resolution=8, steps=10))
    change(arguments, options)
    with pytest.raises(fk.InputError, match=f"^train_sweep: {message}"):
        fk.train_sweep(*arguments, **options)


BAD = {
    "floats": lambda device: fk.box_count(torch.ones(4, 4, device=device)),
    "size": lambda device: fk.box_masses(torch.ones(4, 4, device=device), sizes=[5]),
    "weights": lambda device: gliding_moments(torch.ones(4, 4, device=device)),
    "side": lambda device: fk.fractal_noise((4, 0), 1.0, device=device),
    "beta": lambda device: fk.fractal_noise((4, 4), torch.tensor(torch.nan, device=device)),
    "integers": lambda device: fk.power_iteration([torch.ones(2, 2, dtype=int, device=device)]),
    "iters": lambda device: fk.power_iteration([torch.ones(2, 2, device=device)], iters=0),
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
def test_bad_input_of_the_other_ops_gives_the_sentences_of_the_cpu(call):
    sentences = []
    for device in ("cpu", DEVICE):
        with pytest.raises(Exception, match=": ") as error:
            call(device)
        sentences.append((type(error.value), str(error.value)))
    assert sentences[0] == sentences[1]
    assert issubclass(sentences[0][0], fk.InputError | fk.errors.InputTypeError)


def test_a_grid_is_trained_on_the_device():
    config = TrainabilityConfig(resolution=32, steps=40, device="cuda").checked()
    tile = Tile(0, 0, 32)
    ours = training.tile_trainer(config)(tile)
    expected = training.tile_trainer(dataclasses.replace(config, device="cpu"))(tile)
    first, second = training.tile_cells(config, tile)
    calm = ((first < 1) & (second < 1)).reshape(32, 32).numpy()
    assert calm.any()
    for name in ("value", "final_loss"):
        np.testing.assert_allclose(ours[name][calm], expected[name][calm], rtol=1e-9)


FIELDS = {
    "1-D": ((59_049,), {}),
    "2-D": ((257, 130), {}),
    "full 2-D": ((1024, 1024), {}),
    "odd 2-D": ((64, 101), {"normalize": None, "k_min": 0.1}),
    "3-D": ((33, 20, 41), {"normalize": "ensemble"}),
    "4-D": ((9, 16, 8, 15), {"spectrum": "phase"}),
    "5-D": ((5, 6, 7, 4, 9), {"spectrum": "genesis"}),
    "batch": ((31, 33), {"batch": (3, 5)}),
    "common noise": ((16, 6), {"batch": 4, "common_noise": True, "k_max": 0.3}),
    "empty batch": ((8, 8), {"batch": 0}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("size", "options"), FIELDS.values(), ids=FIELDS)
def test_fields_are_those_of_the_cpu(size, options, dtype):
    batch = options.get("batch", ())
    items = math.prod((batch,) if isinstance(batch, int) else batch)
    beta = 1.3 if batch == () else torch.linspace(-1, 2.5, items).reshape(batch)
    ours = fk.fractal_noise(size, beta, seed=7, dtype=dtype, device=DEVICE, **options)
    expected = fk.fractal_noise(size, beta, seed=7, dtype=dtype, **options)
    assert ours.device.type == DEVICE.type
    assert ours.shape == expected.shape
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    axes = tuple(range(-len(size), 0))
    error = (ours.cpu() - expected).abs().amax(axes) / expected.square().mean(axes).sqrt()
    assert not (error > tolerance).any()


@pytest.mark.needs("triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_triton_agrees_with_cuda(dtype):
    for size, options in FIELDS.values():
        given = {"seed": 7, "dtype": dtype, "device": DEVICE, **options}
        ours = fk.fractal_noise(size, 1.3, backend="triton", **given)
        expected = fk.fractal_noise(size, 1.3, **given)
        largest = expected.abs().max() if expected.numel() else 0.0
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * float(largest))
    for shape, dims in MASKS.values():
        mask = torch.rand(shape, generator=generator()).to(DEVICE) < 0.03
        ours = fk.box_count(mask, spatial_dims=dims, backend="triton")
        expected = fk.box_count(mask.cpu(), spatial_dims=dims)
        assert torch.equal(ours.per_grid.cpu(), expected.per_grid)
    for shapes in MATRICES.values():
        matrices = [w.to(DEVICE) for w in weights(shapes, dtype)]
        given = {"method": "power", "iters": 9, "seed": 5}
        ours = fk.power_iteration(matrices, backend="triton", **given)
        expected = fk.power_iteration(matrices, **given)
        torch.testing.assert_close(ours.sigma, expected.sigma, rtol=1e-5, atol=0)
        assert ours.status == expected.status


def test_fields_have_mean_zero_and_variance_one():
    field = fk.fractal_noise((512, 512), 1.0, seed=1, device=DEVICE, dtype=torch.float32)
    assert float(field.mean().abs()) < 1e-5
    assert float(field.var(correction=0)) == pytest.approx(1, abs=1e-5)


def test_fields_repeat_and_do_not_depend_on_the_batch():
    betas = torch.tensor([1.5, 0.5, -1.0], dtype=torch.float64, device=DEVICE)
    step, rest = [1 / 101, 1 / 67], (0.0, math.inf, "gaussian", "sample", False)
    op = torch.ops.fractalkern.fractal_noise_spectrum
    first, again, alone = (
        op(some, [101, 67], step, 3, False, *rest) for some in (betas, betas, betas[:1])
    )
    assert torch.equal(first, again)
    assert torch.equal(first[:1], alone)


@pytest.mark.parametrize(
    ("rows", "count"), [(3, 0), (3, 1), (3, 9), (3, 4096), (3, 100_003), (20_000, 6)]
)
def test_dropout_masks_are_those_of_the_cpu(rows, count):
    keys = torch.randint(0, 2**32, (rows, 2), generator=generator())
    for threshold in (0, 2**30, 2**32):
        place = (count, 5, 2**20, 7, threshold, 1.5)
        masks = torch.vmap(lambda key, place=place: dropout_mask(key, *place))
        ours = masks(keys.to(DEVICE))
        assert ours.device.type == DEVICE.type
        assert torch.equal(ours.cpu(), masks(keys))


def adam_problem(rows, columns, dtype, shift=0):
    """Arrays that begin `shift` elements into their memory, and numbers."""
    drawn = torch.randn(4, shift + rows * columns, generator=generator(), dtype=dtype)
    p, g, m, v = (one[shift:].view(rows, columns) for one in (*drawn[:3], drawn[3].square()))
    return p, g, m, v, torch.rand(rows, 9, generator=generator(), dtype=torch.float64) + 0.01


def on_device(tensors, shift=0):
    """Copies that begin as many elements into their memory."""
    return [
        torch.cat([t.new_empty(shift), t.flatten()]).to(DEVICE)[shift:].view(t.shape)
        for t in tensors
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (5, 64), (3, 40_003), (20_000, 4)])
def test_adam_steps_are_those_of_the_cpu(rows, columns, dtype):
    exact = fk.build_info()["instruction_set"] != "baseline"  # it has no multiply-add
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    for shift in (0, 1):
        expected = adam_problem(rows, columns, dtype)
        ours = [*on_device(expected[:4], shift), *on_device(expected[4:])]
        adam_step(*ours)
        adam_step(*expected)
        for found, wanted in zip(ours, expected, strict=True):
            if exact:
                assert torch.equal(found.cpu(), wanted)
            torch.testing.assert_close(found.cpu(), wanted, rtol=tolerance, atol=tolerance)


def test_adam_steps_leave_runs_that_diverged_to_themselves():
    expected = adam_problem(4, 96, torch.float32)
    expected[1][1], expected[3][2], expected[1][3] = torch.nan, torch.inf, -torch.inf
    ours = on_device(expected)
    adam_step(*ours)
    adam_step(*expected)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=2e-6, atol=2e-6, equal_nan=True)


def test_adam_steps_want_one_device():
    ours = on_device(adam_problem(2, 8, torch.float32))
    ours[4] = ours[4].cpu()
    with pytest.raises(RuntimeError, match="all tensors must be on the device of parameters"):
        adam_step(*ours)


def test_adam_steps_and_dropout_masks_are_captured_in_a_graph():
    p, *others = on_device(adam_problem(3, 640, torch.float32))
    key = torch.tensor([1, 2], device=DEVICE)

    def step():
        mask = dropout_mask(key, 3 * 640, 0, 1, 7, 2**31, 2.0)
        adam_step(p, others[0] * mask.view(3, 640), *others[1:])

    before = [tensor.clone() for tensor in (p, *others)]
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    found = []
    for run in (graph.replay, step):
        for tensor, value in zip((p, *others), before, strict=True):
            tensor.copy_(value)
        key.copy_(torch.tensor([3, 4]))
        run()
        found.append([tensor.clone() for tensor in (p, *others)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(found[0][0], before[0])


def test_field_is_written_to_out_and_differentiable_in_beta():
    out = torch.empty(3, 40, 30, device=DEVICE)
    options = {"seed": 2, "batch": 3, "device": DEVICE}
    assert fk.fractal_noise((40, 30), 1.0, out=out, **options) is out
    assert torch.equal(out, fk.fractal_noise((40, 30), 1.0, dtype=torch.float32, **options))
    gradients = []
    for device in (DEVICE, "cpu"):
        beta = torch.tensor(0.8, dtype=torch.float64, device=device, requires_grad=True)
        options = {"seed": 5, "dtype": torch.float64, "device": device}
        fk.fractal_noise((12, 9), beta, **options).pow(3).sum().backward()
        gradients.append(beta.grad.cpu())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "backend", ["native", pytest.param("triton", marks=pytest.mark.needs("triton"))]
)
def test_noise_is_captured_in_a_graph(backend):
    beta = torch.tensor(0.5, dtype=torch.float64, device=DEVICE)
    options = {"seed": 3, "device": DEVICE, "dtype": torch.float32, "backend": backend}
    fk.fractal_noise((300, 200), beta, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        field = fk.fractal_noise((300, 200), beta, **options)
    beta.fill_(1.5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(field, fk.fractal_noise((300, 200), 1.5, **options))


@pytest.mark.parametrize("protocol", ["fixed", "published"])
def test_genesis_fills_a_model_on_its_device(protocol):
    models = [
        torch.nn.Sequential(torch.nn.Linear(36, 211), torch.nn.LayerNorm(211)).to(device)
        for device in (DEVICE, "cpu")
    ]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        genesis_(model, seed=4, protocol=protocol)
    for ours, expected in zip(*(model.state_dict().values() for model in models), strict=True):
        assert ours.device.type == DEVICE.type
        torch.testing.assert_close(
            ours.cpu(), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


def test_opcheck_of_the_spectrum():
    betas = torch.tensor([1.5, 0.5], dtype=torch.float64, device=DEVICE)
    rest = (0.0, 0.4, "genesis", "ensemble", False)
    torch.library.opcheck(
        torch.ops.fractalkern.fractal_noise_spectrum.default,
        (betas, [6, 7], [1 / 6, 1 / 7], 3, True, *rest),
    )
