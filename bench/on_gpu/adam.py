"""`adam_step` on the GPU beside its reference and torch's own fused step, one setting for all.

Rates are of the bytes that cannot be spared: four arrays read and three of them written.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender
from fractalkern.ops.adam import adam_step
from fractalkern.reference import adam as reference

_TARGET = "80 % of copy bandwidth"
# Of the reference a multiply-add of the kernel is two roundings.
_TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def _numbers(runs: int) -> Tensor:
    """A step of AdamW number 100, a learning rate a run."""
    lr = torch.logspace(-4, -2, runs, dtype=torch.float64)
    one = torch.ones_like(lr)
    size, root = lr / (1 - 0.9**100), one / (1 - 0.999**100) ** 0.5
    columns = (one, 0 * one, 1 - 0.01 * lr, 0.1 * one, 0.999 * one, 0.001 * one, size, root)
    return torch.stack([*columns, 1e-8 * one], 1)


def _problem(runs: int, parameters: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, runs, parameters, generator=generator, dtype=dtype)
    arrays = (drawn[0], drawn[1], drawn[2], drawn[3].square())
    return tuple(array.to(device) for array in (*arrays, _numbers(runs)))


def _case(runs: int, parameters: int, dtype: torch.dtype, target: str) -> Case:
    work = 7.0 * runs * parameters * dtype.itemsize

    @functools.cache
    def expected() -> tuple[Tensor, ...]:
        tensors = _problem(runs, parameters, dtype, "cpu")
        adam_step(*tensors)
        return tensors

    def check(answer: tuple[Tensor, ...]) -> None:
        for found, wanted in zip(answer, expected(), strict=True):
            tolerance = _TOLERANCE[dtype]
            torch.testing.assert_close(found.cpu(), wanted, rtol=tolerance, atol=tolerance)

    def stepping(step: Callable[..., None]) -> Callable[[], tuple[Tensor, ...]]:
        tensors = _problem(runs, parameters, dtype, "cuda")

        def call() -> tuple[Tensor, ...]:
            step(*tensors)
            return tensors

        return call

    def fused() -> Callable[[], None]:
        weight = torch.randn(runs, parameters, dtype=dtype, device="cuda", requires_grad=True)
        weight.grad = torch.randn_like(weight)
        return torch.optim.AdamW([weight], fused=True).step

    return Case(
        "adam_step",
        f"{runs} runs of {parameters:,} parameters, {dtype}".replace("torch.", ""),
        "B/s",
        [
            Contender("adam_step, CUDA", lambda: stepping(adam_step), work, check, "ours"),
            Contender("torch.optim, fused, one run", fused, work, role="floor"),
            Contender("reference", lambda: stepping(reference.adam_step), work, check),
            Contender(
                "reference, compiled",
                lambda: stepping(torch.compile(reference.adam_step, dynamic=False)),
                work,
                check,
            ),
        ],
        target,
        ceiling=COPY,
    )


def cases() -> Iterator[Case]:
    """Two large models, many small ones, many tiny ones."""
    yield _case(2, 17_670_144, torch.float32, _TARGET)
    yield _case(2, 17_670_144, torch.float64, _TARGET)
    yield _case(64, 262_144, torch.float32, _TARGET)
    yield _case(50, 4_432, torch.float32, "one launch")
