"""`box_count` on the GPU beside one read of the mask and pyramids of PyTorch and CuPy."""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fractalkern as fk
from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender

_READ = "at least 70 % of copy bandwidth"


def _mask(shape: tuple[int, ...]) -> Tensor:
    """5 % of cells set, in clumps along the last axis."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    coarse = (*shape[:-1], shape[-1] // 8)
    rare = torch.rand(coarse, generator=generator, device="cuda", dtype=torch.float16) < 0.05
    return rare.repeat_interleave(8, -1)


def _levels(shape: tuple[int, ...], dims: int) -> int:
    return min(shape[len(shape) - dims :]).bit_length()


def torch_pyramid(mask: Tensor, dims: int) -> Tensor:
    """Counts of powers of two by halving the mask along each axis with `any`."""
    counts = [mask.flatten(-dims).count_nonzero(-1)]
    for _ in range(_levels(tuple(mask.shape), dims) - 1):
        for axis in range(mask.ndim - dims, mask.ndim):
            mask = mask.unflatten(axis, (mask.shape[axis] // 2, 2)).any(axis + 1)
        counts.append(mask.flatten(-dims).count_nonzero(-1))
    return torch.stack(counts, -1)


def _in_triton(mask: Tensor, dims: int) -> Callable[[], Tensor]:
    import triton  # noqa: F401  # where it is missing there is no row

    return lambda: fk.box_count(mask, spatial_dims=dims, backend="triton").counts


def _cupy_pyramid(mask: Tensor, dims: int) -> Callable[[], Tensor]:
    import cupy

    array = cupy.from_dlpack(mask.view(torch.uint8))
    axes = tuple(range(mask.ndim - dims, mask.ndim))

    def count() -> Tensor:
        level, counts = array, [cupy.count_nonzero(array, axis=axes)]
        for _ in range(_levels(tuple(mask.shape), dims) - 1):
            for axis in axes:
                shape = (*level.shape[:axis], level.shape[axis] // 2, 2, *level.shape[axis + 1 :])
                level = level.reshape(shape).max(axis + 1)
            counts.append(cupy.count_nonzero(level, axis=axes))
        return torch.from_dlpack(cupy.stack(counts, -1))

    return count


def _case(shape: tuple[int, ...], dims: int, target: str) -> Case:
    mask = functools.cache(lambda: _mask(shape))
    expected = functools.cache(lambda: fk.box_count(mask().cpu(), spatial_dims=dims).counts)
    cells = float(math.prod(shape))

    def check(answer: Tensor) -> None:
        assert torch.equal(answer.cpu(), expected()), "the counts are wrong"

    name = "x".join(map(str, shape))
    return Case(
        "box_count",
        f"{name}, powers of two",
        "B/s",
        [
            Contender(
                "box_count, CUDA",
                lambda: lambda: fk.box_count(mask(), spatial_dims=dims).counts,
                cells,
                check,
                "ours",
            ),
            Contender("box_count, Triton", lambda: _in_triton(mask(), dims), cells, check, "ours"),
            Contender("count_nonzero", lambda: lambda: mask().count_nonzero(), cells, role="floor"),
            Contender("PyTorch pyramid", lambda: lambda: torch_pyramid(mask(), dims), cells, check),
            Contender(
                "PyTorch pyramid, compiled",
                lambda: functools.partial(
                    torch.compile(torch_pyramid, dynamic=False), mask(), dims
                ),
                cells,
                check,
            ),
            Contender("CuPy pyramid", lambda: _cupy_pyramid(mask(), dims), cells, check),
        ],
        target,
        ceiling=COPY,
    )


def _many_grids(shape: tuple[int, int], options: dict) -> Case:
    mask = functools.cache(lambda: _mask(shape))
    cells = float(shape[0] * shape[1])

    def check(answer: Tensor) -> None:
        expected = fk.box_count(mask().cpu(), **options).per_grid
        assert torch.equal(answer.cpu(), expected), "the counts are wrong"

    ours = Contender(
        "box_count, CUDA",
        lambda: lambda: fk.box_count(mask(), **options).per_grid,
        cells,
        check,
        "ours",
    )
    floor = Contender("count_nonzero", lambda: lambda: mask().count_nonzero(), cells, role="floor")
    return Case(
        "box_count", f"{shape[0]}x{shape[1]}, {options}", "B/s", [ours, floor], ceiling=COPY
    )


def cases() -> Iterator[Case]:
    """Large masks, many small ones, several origins, sizes of any kind."""
    yield _case((32768, 32768), 2, _READ)
    yield _case((1024, 1024, 1024), 3, _READ)
    yield _case((4096, 64, 64), 2, "one launch")
    yield _many_grids((8192, 8192), {"offsets": 4})
    yield _many_grids((8192, 8192), {"sizes": [3, 10, 77, 600], "rule": "mixed"})
