"""Masks of dropout: words of Philox, the same by the op and by its reference."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fractalkern import backends
from fractalkern.ops.dropout_mask import dropout_mask
from fractalkern.random import philox4x32
from fractalkern.reference import dropout_mask as reference

STREAM = 77


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 12345678901234567])
def test_words_are_philox(seed):
    words = seed & 0xFFFFFFFF, seed >> 32
    counter = np.zeros((5, 4), dtype=np.uint64)
    counter[:, 0] = np.arange(5)
    counter[:, 1:] = 3, 2**31, STREAM
    expected = philox4x32(counter, words).flatten()[:18]
    found = reference.philox_words(torch.tensor(words), 18, 3, 2**31, STREAM)
    assert found.tolist() == expected.tolist()


def test_matches_reference(instruction_set, threads):
    keys = torch.tensor([[1, 2], [0xFFFFFFFF, 7]])
    share = round(0.3 * 2**32)
    for count in (0, 1, 6, 31, 100_003):
        rest = (5, 9, STREAM, share, 1 / 0.7)
        masks = torch.vmap(lambda key, n=count, rest=rest: dropout_mask(key, n, *rest))(keys)
        for key, mask in zip(keys, masks, strict=True):
            assert torch.equal(mask, reference.dropout_mask(key, count, *rest))
    assert (dropout_mask(keys[0], 64, 0, 0, 0, 0, 1.5) == 1.5).all()
    assert (dropout_mask(keys[0], 64, 0, 0, 0, 2**32, 1.5) == 0).all()


@pytest.mark.needs("nvcc")
def test_the_reference_runs_on_a_gpu_only_where_the_cuda_kernels_are_missing(monkeypatch):
    monkeypatch.setattr(reference, "dropout_mask", lambda *arguments: "reference")
    with FakeTensorMode():
        arguments = (torch.empty(2, dtype=torch.int64, device="cuda"), 9, 0, 0, STREAM, 2**31, 2.0)
        mask = dropout_mask(*arguments)
        assert (mask.device.type, mask.dtype, mask.shape) == ("cuda", torch.float32, (9,))
        monkeypatch.setattr(backends, "_CUDA_BUILT", False)
        assert dropout_mask(*arguments) == "reference"


def test_passes_opcheck_and_compiles():
    op = torch.ops.fractalkern.dropout_mask.default
    arguments = (torch.ones(2, 2).long(), 9, 0, 0, 1, 2**31, 2.0)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, arguments, test_utils=tests)
    compiled = torch.compile(dropout_mask, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), dropout_mask(*arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (torch.ones(2, 3).long(), 9, 0, 0, 1, 1, 1.0),
            r"keys must be int64 of shape \[\.\.\., 2\]",
        ),
        ((torch.ones(2).long(), -1, 0, 0, 1, 1, 1.0), "count must be from 0"),
        ((torch.ones(2).long(), 9, 0, 0, 1, 2**32 + 1, 1.0), "threshold must be from 0"),
    ],
)
def test_raw_op_checks_what_could_crash(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fractalkern.dropout_mask(*arguments)
