"""A step of Adam by the op, by its reference and, in test_ensemble_optimizers, as torch.optim's."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fractalkern import backends
from fractalkern.ops.adam import adam_step
from fractalkern.reference import adam as reference


def problem(rows, columns, dtype, numbers=None):
    generator = torch.Generator().manual_seed(3)
    p, g, m, v = (torch.randn(rows, columns, generator=generator, dtype=dtype) for _ in range(4))
    if numbers is None:
        numbers = torch.rand(rows, 9, generator=generator, dtype=torch.float64) + 0.01
    return p, g, m, v.square(), numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("columns", [0, 1, 7, 33, 40_003])
def test_matches_reference(instruction_set, threads, dtype, columns):
    rows = 3
    ours, expected = problem(rows, columns, dtype), problem(rows, columns, dtype)
    adam_step(*ours)
    reference.adam_step(*expected)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    for row in range(rows):  # the same bits alone
        alone = [tensor[row : row + 1].clone() for tensor in problem(rows, columns, dtype)]
        adam_step(*alone)
        assert all(torch.equal(one[0], all_[row]) for one, all_ in zip(alone, ours, strict=True))


def test_zeros_stay_zeros():
    """The gaps between parameters: no gradient, no moments."""
    p, g, m, v = (torch.zeros(2, 16) for _ in range(4))
    numbers = torch.tensor([[1, 0, 0.9, 0.1, 0.99, 0.01, 0.1, 3, 1e-8]]).double().expand(2, 9)
    adam_step(p, g, m, v, numbers.contiguous())
    assert not any(tensor.any() for tensor in (p, m, v))


def test_other_dtypes_go_to_the_reference():
    ours, expected = problem(2, 9, torch.bfloat16), problem(2, 9, torch.bfloat16)
    adam_step(*ours)
    reference.adam_step(*expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.needs("nvcc")
def test_the_reference_runs_on_a_gpu_only_where_the_cuda_kernels_are_missing(monkeypatch):
    ran = []
    monkeypatch.setattr(reference, "adam_step", lambda *tensors: ran.append("reference"))
    with FakeTensorMode():
        arrays = [torch.empty(2, 8, device="cuda") for _ in range(4)]
        arguments = (*arrays, torch.empty(2, 9, device="cuda", dtype=torch.float64))
        adam_step(*arguments)
        assert not ran
        monkeypatch.setattr(backends, "_CUDA_BUILT", False)
        adam_step(*arguments)
    assert ran == ["reference"]


def test_passes_opcheck_and_compiles():
    op = torch.ops.fractalkern.adam_step.default
    arguments = problem(2, 9, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, arguments, test_utils=tests)
    ours, expected = problem(2, 9, torch.float32), problem(2, 9, torch.float32)
    torch.compile(adam_step, fullgraph=True, backend="aot_eager")(*ours)
    adam_step(*expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, torch.ones(2, 9).half(), r"parameters must be float32 or float64 of shape \[R, P\]"),
        (1, torch.ones(2, 8), "gradients, first and second must be of the shape and dtype of"),
        (2, torch.ones(2, 9).double(), "gradients, first and second must be of the shape"),
        (3, torch.ones(9, 2).T, "all tensors must be contiguous"),
        (4, torch.ones(2, 8).double(), r"numbers must be float64 of shape \[R, 9\]"),
    ],
)
def test_raw_op_checks_what_could_crash(place, wrong, message):
    arguments = list(problem(2, 9, torch.float32))
    arguments[place] = wrong
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fractalkern.adam_step(*arguments)
