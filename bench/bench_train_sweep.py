"""`train_sweep` beside JAX and PyTorch: P = 4096 networks, the first view of the original paper.

Peers run fewer steps where 100 would take long; rates and ratios are per network-step.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bench import jax_peers
from bench.harness import Contender, Race
from bench.problem import Problem

KERNEL = "train_sweep"
MATMUL = 3072
# Networks whose activations one core keeps in cache, by width: the best of those tried.
JAX_BATCH = {8: 32, 16: 4, 32: 1}
TORCH_CHUNK = {8: 64, 16: 16, 32: 4}


def ours(problem: Problem, early_exit: bool) -> Callable[[], np.ndarray]:
    import torch

    import fractalkern  # noqa: F401  # registers the op

    tensors = [torch.from_numpy(array) for array in problem.arrays()]
    options = (problem.steps, problem.activation, None, None, False, None, False, True, early_exit)

    def train() -> np.ndarray:
        _, _, final_loss, *_ = torch.ops.fractalkern.train_sweep(*tensors, *options)
        return final_loss.numpy()

    return train


def torch_chunked(problem: Problem, chunk: int) -> Callable[[], np.ndarray]:
    """Batched products and a gradient written by hand, on cache-sized chunks of networks."""
    import torch

    x, y, w0, w1, lr0, lr1 = (torch.from_numpy(array) for array in problem.arrays())
    (points, n), h = x.shape, w0.shape[1]
    scale = math.sqrt(2 / n)

    def train_chunk(lr0: torch.Tensor, lr1: torch.Tensor) -> torch.Tensor:
        u, v = (w.expand(len(lr0), -1, -1).clone() for w in (w0, w1))
        for _ in range(problem.steps):
            hidden = torch.tanh(scale * (x @ u))
            error = hidden @ v / h - y
            loss = error.square().mean((1, 2))
            gradient = error * (2 / (points * h))
            back = (gradient * v.mT) * (1 - hidden * hidden)
            v -= lr1[:, None, None] * (hidden.mT @ gradient)
            u -= lr0[:, None, None] * (scale * (x.T @ back))
        return loss

    chunks = list(zip(lr0.split(chunk), lr1.split(chunk), strict=True))
    return lambda: torch.cat([train_chunk(*rates) for rates in chunks]).numpy()


def matmul(dtype: str) -> Callable[[], None]:
    """The machine's measured peak: one large product."""
    import torch

    a, b, out = torch.rand(3, MATMUL, MATMUL, dtype=getattr(torch, dtype))

    def multiply() -> None:
        torch.mm(a, b, out=out)

    return multiply


def races(threads: int) -> Iterator[Race]:
    yield _race(Problem(16, "float64", 100), threads)
    yield _race(Problem(8, "float64", 100), threads)
    yield _race(Problem(32, "float64", 20), threads)
    yield _race(Problem(16, "float32", 100), threads)


def _race(problem: Problem, threads: int) -> Race:
    width = problem.width

    def contender(name: str, build: Callable, *rest, run: Problem, **options) -> Contender:
        return Contender(f"{name}, {run.steps} steps", build, (run, *rest), run.work(), **options)

    identity = replace(problem, activation="identity")
    short = replace(problem, steps=max(problem.steps // 10, 5))
    middle = replace(problem, steps=max(problem.steps // 2, 10))
    devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={threads}"}
    jax = {"package": "jax"}
    batch, chunk = JAX_BATCH[width], TORCH_CHUNK[width]
    return Race(
        KERNEL,
        f"n = h = {width}, D = {width * (width + 1)}, 64x64 first view",
        problem.dtype,
        [
            contender("train_sweep, no early exit", ours, False, run=problem, role="ours"),
            contender("train_sweep, early exit", ours, True, run=problem, role="ours"),
            contender("no early exit, identity", ours, False, run=identity, role="ours"),
            contender("jit(vmap(step)) in a loop", jax_peers.stepwise, run=short, **jax),
            contender("scan of vmap", jax_peers.scanned, run=short, **jax),
            contender(
                f"pmap, map in batches of {batch}, scan",
                *(jax_peers.parallel, threads, batch),
                run=middle,
                environment=devices,
                **jax,
            ),
            contender(f"chunks of {chunk}", torch_chunked, chunk, run=short, package="torch"),
            Contender(
                f"matmul {MATMUL}^3",
                matmul,
                (problem.dtype,),
                {"flops": 2 * MATMUL**3},
                package="torch",
                role="floor",
            ),
        ],
        per="network_steps",
        share="flops",
        check=_check,
        derive=_split,
    )


def _check(contender: Contender, answer: np.ndarray | None) -> None:
    """The losses before the last step against the reference, in the calm cells."""
    if contender.role == "floor":
        return
    problem: Problem = contender.arguments[0]
    tolerance = 1e-9 if problem.dtype == "float64" else 1e-3
    expected = _expected(replace(problem, dtype="float64"))
    np.testing.assert_allclose(
        answer[problem.calm()], expected, rtol=tolerance, err_msg=contender.name
    )


@functools.cache
def _expected(problem: Problem) -> np.ndarray:
    import fractalkern as fk

    calm = problem.calm()
    *data, lr0, lr1 = problem.arrays()
    result = fk.train_sweep(
        *data,
        lr0[calm],
        lr1[calm],
        steps=problem.steps,
        activation=problem.activation,
        backend="reference",
    )
    return result.final_loss.numpy()


def _split(rows: list[dict]) -> dict[str, float]:
    """Where the time goes: the identity activation does everything but the tanh."""
    full, _, plain, *_ = rows
    tanh_seconds = full["median"] - plain["median"]
    return {
        "tanh_share_of_time": tanh_seconds / full["median"],
        "tanhs_per_second": full["work"]["tanhs"] / tanh_seconds,
    }
