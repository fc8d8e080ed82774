"""`train_sweep` on the GPU beside JAX, compiled PyTorch and the CPU kernel on two cores."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import fractalkern as fk
from bench import jax_peers
from bench.on_gpu.ceilings import matmul_case
from bench.on_gpu.rows import Case, Contender
from bench.problem import Problem

_STEPS = {8: 400, 16: 200, 32: 50}
# A peer keeps arrays of a number for every network, row and hidden unit, 4 GiB at width 32.
_PEER_STEPS, _PEER_RESOLUTION = 20, 128
_FRAME = 4096


def _ours(problem: Problem, device: str, early_exit: bool) -> Callable[[], Tensor]:
    tensors = [torch.from_numpy(array).to(device) for array in problem.arrays()]
    options = (problem.steps, problem.activation, None, None, False, None, False, True, early_exit)
    return lambda: torch.ops.fractalkern.train_sweep(*tensors, *options)[2]


def _on_two_cores(problem: Problem) -> Callable[[], Tensor]:
    call = _ours(problem, "cpu", early_exit=False)

    def train() -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            return call()
        finally:
            torch.set_num_threads(before)

    return train


def _forced(call: Callable[[], Tensor], unit: str) -> Callable[[], Tensor]:
    """The same on a unit of the GPU."""

    def train() -> Tensor:
        os.environ["FRACTALKERN_SWEEP_UNIT"] = unit
        try:
            return call()
        finally:
            del os.environ["FRACTALKERN_SWEEP_UNIT"]

    return train


def _jax(problem: Problem) -> Callable[[], np.ndarray]:
    import jax

    if jax.default_backend() != "gpu":
        raise ImportError(f"the JAX here runs on {jax.default_backend()} alone")
    return jax_peers.scanned(problem)


def _batched(problem: Problem, compiled: Callable[[Callable], Callable]) -> Callable[[], Tensor]:
    """Batched products and a gradient written by hand, one function a step."""
    x, y, w0, w1, lr0, lr1 = (torch.from_numpy(a).cuda() for a in problem.arrays())
    (points, n), h = x.shape, w0.shape[1]
    scale = math.sqrt(2 / n)

    @compiled
    def step(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(scale * (x @ u))
        error = hidden @ v / h - y
        gradient = error * (2 / (points * h))
        back = (gradient * v.mT) * (1 - hidden * hidden)
        new_v = v - lr1[:, None, None] * (hidden.mT @ gradient)
        new_u = u - lr0[:, None, None] * (scale * (x.T @ back))
        return new_u, new_v, error.square().mean((1, 2))

    def train() -> Tensor:
        u, v = (w.expand(len(lr0), -1, -1).clone() for w in (w0, w1))
        for _ in range(problem.steps):
            u, v, loss = step(u, v)
        return loss

    return train


@functools.cache
def _expected(problem: Problem) -> Tensor:
    calm = problem.calm()
    *data, lr0, lr1 = (torch.from_numpy(a.astype("float64")) for a in problem.arrays())
    return fk.train_sweep(*data, lr0[calm], lr1[calm], steps=problem.steps).final_loss


def _check(problem: Problem) -> Callable[[Tensor | np.ndarray], None]:
    tolerance = 1e-9 if problem.dtype == "float64" else 1e-3

    def check(answer: Tensor | np.ndarray) -> None:
        on_host = answer.cpu() if isinstance(answer, Tensor) else torch.from_numpy(answer.copy())
        losses = on_host.double()[torch.from_numpy(problem.calm())]
        expected = _expected(replace(problem, dtype="float64"))
        torch.testing.assert_close(losses, expected, rtol=tolerance, atol=0)

    return check


def _case(width: int, dtype: str, target: str) -> Case:
    problem = Problem(width, dtype, _STEPS[width], resolution=256)
    peers = replace(problem, steps=_PEER_STEPS, resolution=_PEER_RESOLUTION)
    host = replace(problem, steps=_PEER_STEPS, resolution=32)

    compiled = functools.partial(torch.compile, dynamic=False)

    def forced(unit: str) -> Callable[[], Callable[[], Tensor]]:
        return lambda: _forced(_ours(problem, "cuda", False), unit)

    def contender(name: str, build: Callable, of: Problem, **options) -> Contender:
        work = of.work()["network_steps"]
        return Contender(f"{name}, {of.steps} steps", build, work, _check(of), **options)

    return Case(
        "train_sweep",
        f"n = h = {width}, D = {width * (width + 1)}, {dtype}, first view",
        "steps/s",
        [
            contender(
                "CUDA, no early exit", lambda: _ours(problem, "cuda", False), problem, role="ours"
            ),
            contender(
                "CUDA, early exit", lambda: _ours(problem, "cuda", True), problem, role="ours"
            ),
            contender("CUDA, multiply-adds", forced("multiply-add"), problem, role="ours"),
            contender("scan of vmap, JAX", lambda: _jax(peers), peers, clock="host"),
            contender("batched, PyTorch", lambda: _batched(peers, lambda step: step), peers),
            contender("batched, torch.compile", lambda: _batched(peers, compiled), peers),
            contender("CPU kernel, two cores", lambda: _on_two_cores(host), host, clock="host"),
        ],
        target,
        ceiling=matmul_case(dtype),
        per_unit=Problem(width, dtype, 1, resolution=1).work()["flops"],
    )


def _frame() -> Case:
    """Every sixteenth row and column of a 4,096² frame, 1/256 of its cells."""
    problem = Problem(16, "float64", 500, resolution=_FRAME // 16)
    ours = Contender(
        "CUDA, early exit", lambda: _ours(problem, "cuda", True), 1 / 256, _check(problem), "ours"
    )
    return Case(
        "train_sweep",
        "1/256 of the cells of a 4096² frame, width 16, 500 steps",
        "frames/s",
        [ours],
        "a frame in 4 minutes: 0.0042 frames/s",
    )


def cases() -> Iterator[Case]:
    """Three widths in float64, one in float32, a part of a frame."""
    yield _case(16, "float64", "25 % of the float64 matmul rate, 150x two cores, 20x the best peer")
    yield _case(8, "float64", "")
    yield _case(32, "float64", "")
    yield _case(16, "float32", "")
    yield _frame()
