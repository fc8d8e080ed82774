"""`box_count` beside one read of the mask, NumPy, a numba package and porespy; 5 % filled masks."""

import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Contender, Race

KERNEL = "box_count"
# porespy's default: ten sizes from 10 to the side, log-spaced.
PORESPY_SIZES = 10


def ours(path: Path, spatial_dims: int, options: dict) -> Callable[[], np.ndarray]:
    import torch

    import fractalkern as fk

    mask = torch.from_numpy(np.load(path))

    def count() -> np.ndarray:
        return fk.box_count(mask, spatial_dims=spatial_dims, **options).counts.numpy()

    return count


def count_nonzero(path: Path) -> Callable[[], None]:
    """One read of the mask by torch's own reduction."""
    import torch

    mask = torch.from_numpy(np.load(path))

    def read() -> None:
        torch.count_nonzero(mask)

    return read


def copy(path: Path) -> Callable[[], None]:
    mask = np.load(path)
    target = np.zeros_like(mask)
    return lambda: np.copyto(target, mask)


def numpy_words(path: Path, spatial_dims: int) -> Callable[[], np.ndarray]:
    """The best NumPy method: an OR pyramid whose cells are packed eight to a uint64 word."""
    mask = np.load(path)
    return lambda: numpy_counts(mask, spatial_dims)


def numpy_counts(mask: np.ndarray, spatial_dims: int) -> np.ndarray:
    axes = tuple(range(mask.ndim - spatial_dims, mask.ndim))
    levels = int(np.log2(min(mask.shape[axis] for axis in axes)))
    counts = []
    while True:
        words = _as_words(mask)
        for shift, cells in ((0, ~0), (8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 1)):
            if shift:
                for axis in axes[:-1]:
                    words = _or_pairs(words, axis)
                words = words | (words >> np.uint64(shift))
                words &= np.uint64(cells & 0x0101010101010101)
            counts.append(_boxes(words, axes))
            if len(counts) > levels:
                return np.stack(counts, -1)
        mask = words.astype(bool)
        counts.pop()  # the next pass counts this size again


def _boxes(words: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Set bytes, each 0 or 1, over the spatial axes; NumPy has a fast path where those are all."""
    if len(axes) == words.ndim:
        return np.asarray(np.count_nonzero(words.view(bool)))
    return np.bitwise_count(words).sum(axes, dtype=np.int64)


def _as_words(mask: np.ndarray) -> np.ndarray:
    """`[..., n]` bool as `[..., ceil(n / 8)]` uint64, one byte a cell."""
    missing = -mask.shape[-1] % 8
    if missing:
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(mask).view(np.uint64)


def _or_pairs(words: np.ndarray, axis: int) -> np.ndarray:
    """ORs neighbours along an axis; a last one without a neighbour stays."""
    words = np.moveaxis(words, axis, 0)
    paired = words[::2].copy()
    paired[: len(words) // 2] |= words[1::2]
    return np.moveaxis(paired, 0, axis)


def numba_package(path: Path, spatial_dims: int) -> Callable[[], np.ndarray]:
    """`boxcounting`; it has no batches, pads to the next power of two and counts that size too."""
    from boxcounting import boxCount

    mask = np.load(path)
    shape = mask.shape[mask.ndim - spatial_dims :]
    levels = int(np.log2(min(shape))) + 1

    def count() -> np.ndarray:
        each = mask.reshape(-1, *shape)
        counts = [boxCount(one).calculateBoxCount()[0][:levels] for one in each]
        return np.stack(counts).reshape(*mask.shape[: mask.ndim - spatial_dims], levels)

    return count


def porespy(path: Path) -> Callable[[], np.ndarray]:
    """`porespy.metrics.boxcount` at its default sizes: boxes that hold both values."""
    import porespy as ps

    ps.settings.tqdm["disable"] = True
    mask = np.load(path)
    return lambda: np.array(ps.metrics.boxcount(mask, bins=PORESPY_SIZES).count)


def races(threads: int) -> Iterator[Race]:
    del threads  # every contender here takes what its process has
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape in ((4096, 4096), (16384, 16384), (512, 512, 512)):
            path = _noise_mask(folder, shape, len(shape))
            yield _powers_of_two(path, shape, len(shape))
            yield _porespy_sizes(path, shape)
        yield _sizes_and_offsets(folder / "4096x4096.npy", (4096, 4096))
        batch = (4096, 200, 200)
        yield _powers_of_two(_noise_mask(folder, batch, 2), batch, 2)


def _noise_mask(folder: Path, shape: tuple[int, ...], spatial_dims: int) -> Path:
    """The 5 % of cells where noise with amplitude ~ |k|^-1.5 is nearest to zero."""
    batch, spatial = shape[: len(shape) - spatial_dims], shape[len(shape) - spatial_dims :]
    half = (*spatial[:-1], spatial[-1] // 2 + 1)
    random = np.random.default_rng(0)
    spectrum = np.empty((*batch, *half), np.complex64)
    spectrum.real = random.standard_normal(spectrum.shape, np.float32)
    spectrum.imag = random.standard_normal(spectrum.shape, np.float32)
    squares = [np.fft.fftfreq(side)[:size] ** 2 for side, size in zip(spatial, half, strict=True)]
    radius = sum(np.ix_(*squares))
    radius.flat[0] = np.inf  # no constant part
    spectrum *= (radius**-0.75).astype(np.float32)
    axes = tuple(range(len(batch), len(shape)))
    values = np.abs(np.fft.irfftn(spectrum, spatial, axes))
    level = np.quantile(values.reshape(-1)[:: max(1, values.size // 1_000_000)], 0.05)
    path = folder / ("x".join(map(str, shape)) + ".npy")
    np.save(path, values < level)
    return path


def _race(path: Path, case: str, cells: int, contenders: list[Contender], expected: Any) -> Race:
    """`expected(contender)` is what the reference says."""
    floors = [
        Contender("count_nonzero", count_nonzero, (path,), {"bytes": cells}, "torch", "floor"),
        Contender("copyto", copy, (path,), {"bytes": cells}, "numpy", "floor"),
    ]

    def check(contender: Contender, answer: Any) -> None:
        if contender.role != "floor":
            np.testing.assert_array_equal(answer, expected(contender), contender.name)

    return Race(KERNEL, case, "bool", [*contenders, *floors], "bytes", "bytes", check)


def _powers_of_two(path: Path, shape: tuple[int, ...], spatial_dims: int) -> Race:
    cells = math.prod(shape)
    work = {"bytes": cells}
    return _race(
        path,
        f"{_text(shape)}, powers of two",
        cells,
        [
            Contender("box_count", ours, (path, spatial_dims, {}), work, role="ours"),
            Contender("OR pyramid on words", numpy_words, (path, spatial_dims), work, "numpy"),
            Contender("numba pyramid", numba_package, (path, spatial_dims), work, "boxcounting"),
        ],
        _reference(path, spatial_dims, {}),
    )


def _porespy_sizes(path: Path, shape: tuple[int, ...]) -> Race:
    cells = math.prod(shape)
    sizes = np.unique(np.logspace(1, np.log10(min(shape)), PORESPY_SIZES).astype(int)).tolist()
    options = {"sizes": sizes, "rule": "mixed"}
    work = {"bytes": cells}
    return _race(
        path,
        f"{_text(shape)}, porespy's default sizes and rule",
        cells,
        [
            Contender("box_count", ours, (path, len(shape), options), work, role="ours"),
            Contender("boxcount", porespy, (path,), work, "porespy", rounds=1),
        ],
        _reference(path, len(shape), options),
    )


def _sizes_and_offsets(path: Path, shape: tuple[int, ...]) -> Race:
    """What other sizes and origins cost beside the powers of two."""
    side = min(shape)
    many = np.unique(np.logspace(0, np.log10(side), 40).astype(int)).tolist()
    asked: dict[str, dict[str, Any]] = {
        "powers of two": {},
        f"{len(many)} log-spaced sizes": {"sizes": many},
        "powers of two, rule mixed": {"rule": "mixed"},
        "powers of two, offsets=2": {"offsets": 2},
        "powers of two, offsets=4": {"offsets": 4},
        "powers of two up to 8, all offsets": {"sizes": [1, 2, 4, 8], "offsets": "all"},
    }
    contenders = [
        Contender(name, ours, (path, len(shape), options), {"bytes": math.prod(shape)}, role="ours")
        for name, options in asked.items()
    ]

    def expected(contender: Contender) -> np.ndarray:
        return _reference(path, *contender.arguments[1:])(contender)

    return _race(path, f"{_text(shape)}, sizes and offsets", math.prod(shape), contenders, expected)


def _reference(
    path: Path, spatial_dims: int, options: dict[str, Any]
) -> Callable[[Contender], np.ndarray]:
    import fractalkern as fk

    @functools.cache
    def counts() -> np.ndarray:
        mask = np.load(path)
        result = fk.box_count(mask, spatial_dims=spatial_dims, backend="reference", **options)
        return result.counts.numpy()

    return lambda contender: counts()


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
