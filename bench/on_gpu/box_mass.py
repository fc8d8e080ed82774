"""`box_masses` and `gliding_moments` on the GPU beside pyramids and tables of sums.

Rates are of the bytes that cannot be spared: one read of the array and one write of the result.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fractalkern as fk
from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender
from fractalkern.ops.box_mass import GlidingMoments, gliding_moments

_POWERS = [2**k for k in range(11)]


def _weights(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A mask with 5 % of its cells set, or a measure."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    drawn = torch.rand(shape, generator=generator, device="cuda", dtype=torch.float64)
    return drawn < 0.05 if dtype == torch.bool else drawn.to(dtype)


def torch_pyramid(weights: Tensor, sizes: list[int]) -> Tensor:
    """Masses of every box of the last two axes, each size added up from the one before."""
    level = weights if weights.is_floating_point() else weights.long()
    levels, before = [], 1
    for size in sizes:
        for axis in (-2, -1):
            ratio = size // before
            level = level.unflatten(axis, (level.shape[axis] // ratio, ratio)).sum(axis)
        levels.append(level.flatten(-2))
        before = size
    return torch.cat(levels, -1)


def _cupy_pyramid(weights: Tensor, sizes: list[int]) -> Callable[[], Tensor]:
    import cupy

    is_mask = weights.dtype == torch.bool
    array = cupy.from_dlpack(weights.view(torch.uint8) if is_mask else weights)

    def masses() -> Tensor:
        level = array.astype(cupy.int64) if is_mask else array
        levels, before = [], 1
        for size in sizes:
            *batch, rows, columns = level.shape
            ratio = size // before
            shape = (*batch, rows // ratio, ratio, columns // ratio, ratio)
            level = level.reshape(shape).sum((-3, -1))
            levels.append(level.reshape(*batch, -1))
            before = size
        return torch.from_dlpack(cupy.concatenate(levels, -1))

    return masses


def _masses(shape: tuple[int, ...], dtype: torch.dtype, sizes: list[int], offsets: int = 1) -> Case:
    """Boxes of the last two axes; with several origins there is no pyramid to race."""
    weights = functools.cache(lambda: _weights(shape, dtype))
    options = {"sizes": sizes, "spatial_dims": 2, "offsets": offsets}
    expected = functools.cache(lambda: fk.box_masses(weights().cpu(), **options).flat)
    array = torch.empty(shape, dtype=dtype, device="meta")
    boxes = torch.ops.fractalkern.box_mass(array, 2, sizes, offsets).numel()
    work = float(array.nbytes + 8 * boxes)

    def check(answer: Tensor) -> None:
        tolerance = 0 if dtype == torch.bool else 1e-12
        torch.testing.assert_close(answer.cpu(), expected(), rtol=tolerance, atol=0)

    def contender(name: str, build: Callable[[], Callable[[], Tensor]], role="peer") -> Contender:
        return Contender(name, build, work, check, role)

    contenders = [
        contender(
            "box_masses, CUDA", lambda: lambda: fk.box_masses(weights(), **options).flat, "ours"
        ),
        Contender("count_nonzero", lambda: weights().count_nonzero, array.nbytes, role="floor"),
    ]
    if offsets == 1:
        compiled = torch.compile(torch_pyramid, dynamic=False)
        contenders += [
            contender(
                "PyTorch pyramid", lambda: functools.partial(torch_pyramid, weights(), sizes)
            ),
            contender(
                "PyTorch pyramid, compiled", lambda: functools.partial(compiled, weights(), sizes)
            ),
            contender("CuPy pyramid", lambda: _cupy_pyramid(weights(), sizes)),
        ]
    name = f"{'x'.join(map(str, shape))} {dtype}, sizes {sizes[0]} to {sizes[-1]}"
    name += f", {offsets} origins an axis" if offsets > 1 else ""
    return Case("box_mass", name.replace("torch.", ""), "B/s", contenders, ceiling=COPY)


def torch_table(mask: Tensor, sizes: list[int]) -> Tensor:
    """Sum of the masses and of their squares [S, 2]: a table of sums, four corners a box."""
    table = torch.nn.functional.pad(mask.cumsum(0).cumsum(1), (1, 0, 1, 0))
    moments = []
    for r in sizes:
        box = table[r:, r:] - table[:-r, r:] - table[r:, :-r] + table[:-r, :-r]
        moments.append(torch.stack([box.sum(), box.square().sum()]))
    return torch.stack(moments)


def _cupy_table(mask: Tensor, sizes: list[int]) -> Callable[[], Tensor]:
    import cupy

    array = cupy.from_dlpack(mask.view(torch.uint8))

    def moments() -> Tensor:
        table = cupy.pad(array.cumsum(0, dtype=cupy.int64).cumsum(1), ((1, 0), (1, 0)))
        rows = []
        for r in sizes:
            box = table[r:, r:] - table[:-r, r:] - table[r:, :-r] + table[:-r, :-r]
            rows.append(cupy.stack([box.sum(), (box * box).sum()]))
        return torch.from_dlpack(cupy.stack(rows))

    return moments


def _gliding(side: int, sizes: list[int]) -> Case:
    mask = functools.cache(lambda: _weights((side, side), torch.bool))
    expected = functools.cache(lambda: gliding_moments(mask().cpu(), sizes))
    work = float(side * side)

    def check(answer: GlidingMoments | Tensor) -> None:
        moments = expected()
        if isinstance(answer, GlidingMoments):
            for name in ("positions", "mass", "square"):
                ours, right = (getattr(one, name) for one in (answer, moments))
                assert torch.equal(ours.cpu(), right), f"{name} is wrong"
        else:
            assert not moments.square[:, 0].any(), "squares beyond an int64"
            right = torch.stack([moments.mass, moments.square[:, 1]], -1)
            assert torch.equal(answer.cpu(), right), "the moments are wrong"

    def peer(name: str, build: Callable[[], Callable[[], Tensor]]) -> Contender:
        return Contender(name, build, work, check)

    compiled = torch.compile(torch_table, dynamic=False)
    return Case(
        "box_mass",
        f"{side}x{side} bool, gliding boxes of {sizes[0]} to {sizes[-1]}",
        "B/s",
        [
            Contender(
                "gliding_moments, CUDA",
                lambda: lambda: gliding_moments(mask(), sizes),
                work,
                check,
                "ours",
            ),
            Contender("count_nonzero", lambda: mask().count_nonzero, work, role="floor"),
            peer("PyTorch table", lambda: functools.partial(torch_table, mask(), sizes)),
            peer("PyTorch table, compiled", lambda: functools.partial(compiled, mask(), sizes)),
            peer("CuPy table", lambda: _cupy_table(mask(), sizes)),
        ],
        ceiling=COPY,
    )


def cases() -> Iterator[Case]:
    """A mask and a measure, large boxes alone, several origins, many small masks, gliding boxes."""
    yield _masses((8192, 8192), torch.bool, _POWERS)
    yield _masses((8192, 8192), torch.float64, _POWERS)
    yield _masses((8192, 8192), torch.bool, _POWERS[4:])
    yield _masses((4096, 4096), torch.bool, _POWERS[2:], offsets=4)
    yield _masses((4096, 64, 64), torch.bool, _POWERS[:7])
    yield _gliding(8192, _POWERS)
