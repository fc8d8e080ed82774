"""Our kernels alone, for pytest-benchmark's history: did a change make one slower?

    pytest bench --benchmark-enable --benchmark-autosave --benchmark-compare

Speed beside the peers is `python -m bench`.
"""

import numpy as np
import pytest
import torch

import fractalkern as fk
from bench.problem import Problem


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_train_sweep(benchmark, width, dtype):
    problem = Problem(width, dtype, steps=20, resolution=16)
    tensors = [torch.from_numpy(array) for array in problem.arrays()]
    benchmark.group = f"train_sweep, n = h = {width}"
    benchmark.extra_info |= problem.work()
    benchmark(fk.train_sweep, *tensors, steps=problem.steps)


@pytest.mark.parametrize("options", [{}, {"rule": "mixed"}, {"offsets": 2}], ids=str)
@pytest.mark.parametrize("shape", [(2048, 2048), (160, 160, 160), (1009, 1013)], ids=str)
def test_box_count(benchmark, shape, options):
    mask = torch.from_numpy(np.random.default_rng(0).random(shape) < 0.05)
    benchmark.group = f"box_count, {shape}"
    benchmark.extra_info["bytes"] = mask.numel()
    benchmark(fk.box_count, mask, **options)
