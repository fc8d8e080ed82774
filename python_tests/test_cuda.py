"""CUDA kernels beside the CPU's: the same counts, labels and sentences on either device."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import fractalkern as fk
from fractalkern import backends
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.data import shared
from fractalkern.experiments.trainability.training import sweep_arguments
from fractalkern.sweeps.grid import log_axis

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
    if "box_mass" not in backends.CUDA_KERNELS:
        pytest.skip("box_mass is not written in CUDA yet")
    mask = (torch.rand(3, 65, 131, generator=generator()) < 0.1).to(weights)
    for options in ({}, {"sizes": [1, 3, 7], "offsets": 2}):
        ours = fk.box_masses(mask.to(DEVICE), spatial_dims=2, **options)
        expected = fk.box_masses(mask, spatial_dims=2, **options)
        assert torch.equal(ours.flat.cpu(), expected.flat)


def view(condition, resolution=64, steps=100, **changes):
    """The arguments of a coarse grid over a condition's first view, on the CPU."""
    config = TrainabilityConfig(condition=condition, resolution=resolution, steps=steps, **changes)
    low0, high0, low1, high1 = config.window
    first = log_axis(low0, high0, resolution).to(getattr(torch, config.dtype))
    second = log_axis(low1, high1, resolution).to(getattr(torch, config.dtype))
    cells = first.repeat(resolution), second.repeat_interleave(resolution)
    arguments, options = sweep_arguments(config, shared(config), *cells)
    return arguments, options


def moved(arguments, options):
    def move(value):
        return value.to(DEVICE) if isinstance(value, torch.Tensor) else value

    return [move(value) for value in arguments], {k: move(v) for k, v in options.items()}


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


def test_early_exit_changes_no_result():
    arguments, options = moved(*view("relu", resolution=32, steps=60))
    call = torch.ops.fractalkern.train_sweep
    rest = (options["steps"], options["activation"], None, None, False, None, True, False)
    with_exit, without = call(*arguments, *rest, True), call(*arguments, *rest, False)
    for index in (0, 1, 2, 4, 5):
        torch.testing.assert_close(with_exit[index], without[index], rtol=0, atol=0, equal_nan=True)


def test_streams_do_not_disturb_each_other():
    mask = (torch.rand(512, 512, generator=generator()) < 0.02).to(DEVICE)
    arguments, options = moved(*view("tanh", resolution=16, steps=30))
    counts, bits_alone = fk.box_count(mask).counts, bits(fk.train_sweep(*arguments, **options))
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for _ in range(3):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append((fk.box_count(mask), fk.train_sweep(*arguments, **options)))
    torch.cuda.synchronize()
    for counted, trained in results:
        assert torch.equal(counted.counts, counts)
        assert all(torch.equal(a, b) for a, b in zip(bits(trained), bits_alone, strict=True))


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


def test_a_second_device_works_while_the_first_is_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one CUDA device")
    mask = torch.rand(100, 100, generator=generator()) < 0.1
    counted = fk.box_count(mask.to("cuda:1"))
    assert counted.counts.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(counted.counts.cpu(), fk.box_count(mask).counts)


def test_calls_are_captured_in_a_graph():
    mask = torch.zeros(300, 300, dtype=torch.bool, device=DEVICE)
    arguments, options = moved(*view("tanh", resolution=16, steps=20))
    fk.box_count(mask), fk.train_sweep(*arguments, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counted, trained = fk.box_count(mask), fk.train_sweep(*arguments, **options)
    other = (torch.rand(300, 300, generator=generator()) < 0.1).to(DEVICE)
    mask.copy_(other)
    arguments[4].mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(counted.counts, fk.box_count(other).counts)
    expected = bits(fk.train_sweep(*arguments, **options))
    assert all(torch.equal(a, b) for a, b in zip(bits(trained), expected, strict=True))


def test_torch_compile_sees_the_ops():
    mask = (torch.rand(64, 64, generator=generator()) < 0.1).to(DEVICE)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def counted(mask):
        return fk.box_count(mask).counts * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert torch.equal(counted(mask), fk.box_count(mask).counts * 2)


def test_opcheck():
    mask = (torch.rand(3, 20, 30, generator=generator()) < 0.2).to(DEVICE)
    torch.library.opcheck(
        torch.ops.fractalkern.box_count.default, (mask, 2, [1, 2, 5], 2, True, False)
    )
    arguments, options = moved(*view("tanh", resolution=4, steps=5))
    rest = (options["steps"], options["activation"], None, None, False, None, True, False, True)
    torch.library.opcheck(torch.ops.fractalkern.train_sweep.default, (*arguments, *rest))


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


def test_a_grid_is_trained_on_the_device():
    pytest.importorskip("safetensors")
    from fractalkern.experiments.trainability.training import tile_cells, tile_trainer
    from fractalkern.sweeps.grid import Tile

    config = TrainabilityConfig(resolution=32, steps=40, device="cuda").checked()
    tile = Tile(0, 0, 32)
    ours = tile_trainer(config)(tile)
    expected = tile_trainer(dataclasses.replace(config, device="cpu"))(tile)
    first, second = tile_cells(config, tile)
    calm = ((first < 1) & (second < 1)).reshape(32, 32).numpy()
    assert calm.any()
    for name in ("value", "final_loss"):
        np.testing.assert_allclose(ours[name][calm], expected[name][calm], rtol=1e-9)


def test_a_kernel_that_is_missing_says_so():
    missing = set(backends._KERNELS) - set(backends.CUDA_KERNELS)
    if "power_iteration" not in missing:
        pytest.skip("every kernel is written in CUDA")
    with pytest.raises(fk.BackendError, match="power_iteration: the native backend cannot run on"):
        fk.power_iteration(torch.eye(4, device=DEVICE), iters=1)
