"""Triton kernels under its interpreter, beside the compiled library on the CPU.

`test_triton.py` runs this file in a process of its own, with TRITON_INTERPRET=1. Interpreted
programs take a tenth of a second: sizes are small and each covers several things.
"""

import math
import os

import pytest
import torch

import fractalkern as fk
import fractalkern.triton  # registers the ops
from fractalkern.random import philox4x32

assert os.environ["TRITON_INTERPRET"] == "1"
ops = torch.ops.fractalkern

NOISE = [
    # size, spectrum, normalize, k_min, k_max, common noise, float64
    ((2050,), "gaussian", "sample", 0.0, math.inf, False, True),
    ((33,), "phase", "none", 0.0, 1 / 3, False, True),
    ((1,), "gaussian", "none", 0.0, math.inf, False, True),
    ((8, 7), "gaussian", "sample", 0.0, math.inf, False, False),
    ((40, 30), "genesis", "sample", 0.1, 0.4, False, False),
    ((3, 5, 4), "phase", "sample", 0.0, math.inf, False, False),
    ((4, 4, 4), "gaussian", "none", 0.0, math.inf, True, True),
    ((2, 3, 4, 5), "genesis", "none", 0.25, 0.5, False, True),
    ((2, 3, 4, 3, 2), "gaussian", "ensemble", 0.0, math.inf, False, True),
    ((4, 1, 5, 2, 9), "genesis", "ensemble", 0.0, math.inf, True, False),
]


@pytest.mark.parametrize("case", NOISE, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_modes_are_those_of_the_cpu(case):
    size, spectrum, normalize, low, high, common, float64 = case
    step = [1 / n for n in size]
    seed = -(2**62) - 5
    betas = torch.tensor([1.5, -0.5], dtype=torch.float64)
    arguments = (betas, list(size), step, seed, common, low, high, spectrum, normalize, float64)
    ours = ops.fractal_noise_spectrum_triton(*arguments)
    expected = ops.fractal_noise_spectrum(*arguments)
    assert ours.dtype == expected.dtype
    scale = expected.abs().amax(tuple(range(1, expected.dim())), keepdim=True)
    error = (ours - expected).abs()
    assert (error <= (3e-14 if float64 else 2e-6) * scale).all()


def test_phases_are_random_bits_equal_to_the_cpus():
    # Of modulus 1, so that the angle gives the words back.
    size, seed = (6, 5), 12345
    arguments = (list(size), [1 / 6, 1 / 5], seed, False, 0.0, math.inf, "phase", "none", True)
    flat = torch.zeros(1, dtype=torch.float64)
    modes = torch.view_as_complex(ops.fractal_noise_spectrum_triton(flat, *arguments))[0]
    key = philox4x32([0, 0, 0, 1], (seed, 0))[:2]
    for row, column in ((1, 1), (5, 2), (3, 1)):
        first = row if row <= 3 else row - 6
        words = philox4x32([column, first % 2**32, 0, 0], tuple(map(int, key)))
        turn = float(((words[2] << 32) | words[3]) >> 11) * 2.0**-53
        angle = float(modes[row, column].angle()) / (2 * math.pi) % 1
        assert angle == pytest.approx(turn, abs=1e-15)


def test_fields_and_gradients_are_those_of_the_native_backend():
    fields, gradients = [], []
    for backend in ("triton", "native"):
        beta = torch.tensor([0.8, 1.2], dtype=torch.float64, requires_grad=True)
        options = {"seed": 5, "dtype": torch.float64, "batch": 2, "backend": backend}
        field = fk.fractal_noise((6, 9), beta, **options)
        field.pow(3).sum().backward()
        fields.append(field.detach())
        gradients.append(beta.grad)
    torch.testing.assert_close(*fields, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=0)


def test_compile_sees_the_noise():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def doubled():
        return 2 * fk.fractal_noise((6, 4), 1.0, seed=3, backend="triton", dtype=torch.float64)

    expected = fk.fractal_noise((6, 4), 1.0, seed=3, dtype=torch.float64)
    torch.testing.assert_close(doubled(), 2 * expected, rtol=0, atol=1e-12)


def test_opcheck_of_the_spectrum():
    betas = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    rest = (3, True, 0.0, 0.4, "genesis", "none", False)
    torch.library.opcheck(
        ops.fractal_noise_spectrum_triton.default, (betas, [6, 7], [1 / 6, 1 / 7], *rest)
    )


BOXES = [
    # shape, spatial axes, options
    ((37, 90), 2, {}),
    ((3, 5, 6, 7), 3, {"rule": "mixed", "sizes": [1, 2, 4]}),
    ((2, 3, 4, 3, 5), 4, {"sizes": [2, 3]}),
    ((70,), 1, {"sizes": [1, 7, 21, 64], "rule": "mixed"}),
    ((2, 13, 11), 2, {"offsets": 2, "sizes": [3, 4], "border": "crop"}),
    ((9, 20), 2, {"sizes": [3, 6, 9], "border": "crop", "rule": "mixed"}),
    ((0, 8, 8), 2, {}),
]


@pytest.mark.parametrize(("shape", "dims", "options"), BOXES, ids=str)
def test_box_counts_are_those_of_the_cpu(shape, dims, options):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.1
    ours = fk.box_count(mask, spatial_dims=dims, backend="triton", **options)
    expected = fk.box_count(mask, spatial_dims=dims, **options)
    assert torch.equal(ours.per_grid, expected.per_grid)


def test_box_counts_of_integers_of_any_strides():
    mask = torch.randint(-1, 2, (9, 14), generator=torch.Generator().manual_seed(3))
    for view in (mask.T, mask.to(torch.int8)[:, ::3]):
        ours = fk.box_count(view, sizes=[1, 4], backend="triton")
        assert torch.equal(ours.per_grid, fk.box_count(view, sizes=[1, 4]).per_grid)


def test_compile_sees_the_counts():
    mask = torch.eye(6, dtype=torch.bool)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def counted(mask):
        return fk.box_count(mask, backend="triton").counts + 1

    assert counted(mask).tolist() == [7, 4, 3]


def test_opcheck_of_the_counts():
    mask = torch.eye(6, dtype=torch.bool)
    torch.library.opcheck(ops.box_count_triton.default, (mask, 2, [2, 3], 2, True, False))


MATRICES = {
    "odd shapes": ([(17, 5), (1, 130), (33, 1), (40, 37)], torch.float32),
    "float64": ([(20, 300), (7, 7)], torch.float64),
    "bfloat16": ([(18, 9)], torch.bfloat16),
    "float16": ([(9, 140)], torch.float16),
}


@pytest.mark.parametrize("method", ["lanczos", "power"])
@pytest.mark.parametrize(("shapes", "dtype"), MATRICES.values(), ids=MATRICES)
def test_singular_values_are_those_of_the_cpu(shapes, dtype, method):
    generator = torch.Generator().manual_seed(3)
    weights = []
    for m, n in shapes:
        noise = torch.randn(m, n + 2, generator=generator)
        noise += (
            2 * torch.randn(m, 1, generator=generator) * torch.randn(n + 2, generator=generator)
        )
        weights.append(noise.to(dtype)[:, :n].requires_grad_(dtype == torch.float32))
    for options in ({"iters": 5}, {"iters": 30, "tol": 1e-3}, {"iters": 1}):
        ours = fk.power_iteration(weights, method=method, seed=2, backend="triton", **options)
        expected = fk.power_iteration(weights, method=method, seed=2, **options)
        # The CPU's Lanczos takes half a step more from its last pass.
        tolerance = 1e-3 if method == "lanczos" else 1e-5
        torch.testing.assert_close(ours.sigma, expected.sigma, rtol=tolerance, atol=0)
        assert (ours.sigma <= expected.upper * (1 + 1e-6)).all()
        assert (ours.upper >= expected.sigma * (1 - 1e-6)).all()
        assert (ours.lower <= ours.sigma * (1 + 1e-6)).all()
        assert ours.status == expected.status
    if dtype == torch.float32:
        given = [torch.autograd.grad(r.sigma.sum(), weights) for r in (ours, expected)]
        for one, other in zip(*given, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_singular_values_of_stacks_starts_and_zeros():
    weights = 1e-30 * torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(1))
    weights[0, 1] = 0
    wide = weights.double() * 1e-250
    ours = fk.power_iteration(weights, iters=6, backend="triton")
    expected = fk.power_iteration(weights, iters=6)
    torch.testing.assert_close(ours.sigma, expected.sigma, rtol=1e-4, atol=0)
    assert ours.status == expected.status
    exact = torch.linalg.matrix_norm(1e280 * wide, 2)
    ours = fk.power_iteration(wide, iters=6, backend="triton")
    torch.testing.assert_close(1e280 * ours.sigma, exact, rtol=1e-9, atol=0)
    start = torch.ones(2, 2, 4)
    ours = fk.power_iteration(weights, iters=3, start=start, backend="triton")
    expected = fk.power_iteration(weights, iters=3, start=start)
    torch.testing.assert_close(ours.upper, expected.upper, rtol=1e-5, atol=0)
    with pytest.raises(fk.InputError, match=r"^power_iteration: weights must be finite"):
        fk.power_iteration(weights / 0, backend="triton")
    torch.library.opcheck(
        ops.power_iteration_triton, ([weights[0, 0]], None, 3, -1.0, True, 1e-6, 0)
    )


def test_kernels_are_launched_while_the_device_of_their_tensors_is_current(monkeypatch):
    # Triton launches on the current device, which need not be the tensors'.
    from fractalkern.triton import box_count, fractal_noise, power_iteration

    chosen, launched = [], []

    class Chosen:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            chosen.append(self.device)

        def __exit__(self, *_):
            chosen.pop()

    class Recorded:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append((self.kernel.__name__, list(chosen)))
            return self.kernel[grid]

    monkeypatch.setattr(torch.accelerator, "device_index", Chosen)
    kernels = {box_count: ("_merge", "_count"), fractal_noise: ("_draw",)}
    for module, names in (kernels | {power_iteration: ("_sweep",)}).items():
        for name in names:
            monkeypatch.setattr(module, name, Recorded(getattr(module, name)))
    with fk.use_backend("triton"):
        fk.box_count(torch.eye(4, dtype=torch.bool))
        fk.fractal_noise((4, 4), 1.0, seed=0)
        fk.power_iteration(torch.eye(3), iters=2)
    assert {name for name, _ in launched} == {"_merge", "_count", "_draw", "_sweep"}
    assert all(devices == [None] for _, devices in launched)


def test_noise_copies_nothing_from_the_host(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a tensor of a list: a graph cannot capture its copy to the device")

    monkeypatch.setattr(torch, "tensor", refused)
    fk.fractal_noise((6, 4), 1.0, seed=0, k_max=0.4, backend="triton")


def test_torch_compile_captures_no_kernel_that_waits():
    unsafe = torch.Tag.cudagraph_unsafe
    assert unsafe in ops.power_iteration_triton.default.tags
    assert unsafe not in ops.fractal_noise_spectrum_triton.default.tags
    assert unsafe not in ops.box_count_triton.default.tags
