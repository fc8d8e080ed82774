"""`box_masses`, D_q and lacunarity beside NumPy and SciPy; a 5 % mask and a measure of 1,024²."""

import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Contender, Race

KERNEL = "box_mass"
SIDE = 1024
ORDERS = tuple(np.arange(-5, 5.5, 0.5).tolist())
SIZES = tuple(2**k for k in range(9))  # up to a quarter of the side
GLIDING_SIZES = tuple(2**k for k in range(10))


def _tensor(path: Path) -> Any:
    import torch

    return torch.from_numpy(np.load(path))


def our_masses(path: Path, backend: str) -> Callable[[], np.ndarray]:
    import fractalkern as fk

    weights = _tensor(path)

    def masses() -> np.ndarray:
        return fk.box_masses(weights, SIZES, backend=backend).flat.numpy()

    return masses


def numpy_masses(path: Path) -> Callable[[], np.ndarray]:
    """A pyramid: each size from half of it, the first one in a narrow type."""
    weights = np.load(path)
    return lambda: np.concatenate([level.reshape(-1) for level in _pyramid(weights)])


def _pyramid(weights: np.ndarray) -> list[np.ndarray]:
    levels = [weights.astype(np.float64 if weights.dtype.kind == "f" else np.int64)]
    while len(levels) < len(SIZES):
        rows = levels[-1][::2] + levels[-1][1::2]
        levels.append(rows[:, ::2] + rows[:, 1::2])
    return levels


def our_dimensions(path: Path) -> Callable[[], np.ndarray]:
    import fractalkern as fk

    weights = _tensor(path)
    return lambda: np.array(fk.generalized_dimensions(weights, ORDERS).dimension)


def numpy_dimensions(path: Path) -> Callable[[], np.ndarray]:
    """The pyramid, the distinct masses of a mask by a histogram, and their powers."""
    weights = np.load(path)
    orders = np.array(ORDERS)

    def dimensions() -> np.ndarray:
        rows = []
        for level in _pyramid(weights):
            masses = level[level > 0]
            counts = None
            if masses.dtype.kind == "i":
                histogram = np.bincount(masses)
                masses = histogram.nonzero()[0]
                counts = histogram[masses]
            log_p = np.log(masses / weights.sum())
            rows.append([_scaled_sum(q, log_p, counts) for q in orders])
        return np.polyfit(np.log(SIZES), np.array(rows), 1)[0]

    return dimensions


def _scaled_sum(q: float, log_p: np.ndarray, counts: np.ndarray | None) -> float:
    """log Z_q / (q - 1), and the entropy at q = 1."""
    if q == 1:
        terms = np.exp(log_p) * log_p
        return float(terms.sum() if counts is None else terms @ counts)
    powers = np.exp(q * log_p)
    return float(np.log(powers.sum() if counts is None else powers @ counts) / (q - 1))


def our_lacunarity(path: Path, backend: str) -> Callable[[], np.ndarray]:
    import fractalkern as fk

    mask = _tensor(path)

    def lacunarity() -> np.ndarray:
        return fk.lacunarity(mask, GLIDING_SIZES, backend=backend).lacunarity.numpy()

    return lacunarity


def summed_area_lacunarity(path: Path) -> Callable[[], np.ndarray]:
    """The exact NumPy method: one table of sums, four of its corners a box."""
    mask = np.load(path)

    def lacunarity() -> np.ndarray:
        table = np.zeros((SIDE + 1, SIDE + 1), np.int64)
        np.cumsum(np.cumsum(mask, 0, dtype=np.int64), 1, out=table[1:, 1:])
        values = []
        for r in GLIDING_SIZES:
            box = table[r:, r:] - table[:-r, r:] - table[r:, :-r] + table[:-r, :-r]
            values.append(box.size * float(np.vdot(box, box)) / float(box.sum()) ** 2)
        return np.array(values)

    return lacunarity


def filter_lacunarity(path: Path) -> Callable[[], np.ndarray]:
    """SciPy's running mean in float64, cut to the positions inside the array."""
    from scipy.ndimage import uniform_filter

    mask = np.load(path).astype(np.float64)

    def lacunarity() -> np.ndarray:
        values = []
        for r in GLIDING_SIZES:
            inside = slice(r // 2, r // 2 + SIDE - r + 1)
            box = uniform_filter(mask, r, mode="constant")[inside, inside]
            values.append((box**2).mean() / box.mean() ** 2)
        return np.array(values)

    return lacunarity


def count_nonzero(path: Path) -> Callable[[], None]:
    """One read by torch's own reduction."""
    import torch

    weights = _tensor(path)

    def read() -> None:
        torch.count_nonzero(weights)

    return read


def races(threads: int) -> Iterator[Race]:
    del threads  # every contender here takes what its process has
    with tempfile.TemporaryDirectory() as name:
        mask, measure = Path(name) / "mask.npy", Path(name) / "measure.npy"
        random = np.random.default_rng(0)
        np.save(mask, random.random((SIDE, SIDE)) < 0.05)
        np.save(measure, _cascade(random))
        for path in (mask, measure):
            yield _masses(path)
            yield _dimensions(path)
        yield _lacunarity(mask)


def _cascade(random: np.random.Generator) -> np.ndarray:
    """A random multiplicative measure: as many different masses as cells."""
    measure = np.ones((1, 1))
    while measure.shape[0] < SIDE:
        measure = np.kron(measure, np.ones((2, 2)))
        measure *= random.uniform(0.2, 1, measure.shape)
    return measure / measure.sum()


def _race(
    path: Path,
    case: str,
    contenders: list[Contender],
    expected: Callable[[], Any],
    tolerance: float,
) -> Race:
    weights = np.load(path)
    floor = Contender(
        "count_nonzero", count_nonzero, (path,), {"bytes": weights.nbytes}, "torch", "floor"
    )
    answer_of = functools.cache(expected)

    def check(contender: Contender, answer: Any) -> None:
        if contender.role != "floor":
            np.testing.assert_allclose(answer, answer_of(), rtol=tolerance, err_msg=contender.name)

    case = f"{SIDE} x {SIDE} {path.stem}, {case}"
    return Race(KERNEL, case, str(weights.dtype), [*contenders, floor], "bytes", "bytes", check)


def _masses(path: Path) -> Race:
    work = {"bytes": np.load(path).nbytes}
    return _race(
        path,
        f"box masses, {len(SIZES)} powers of two",
        [
            Contender("box_masses", our_masses, (path, "native"), work, role="ours"),
            Contender("pyramid of sums", numpy_masses, (path,), work, "numpy"),
        ],
        our_masses(path, "reference"),
        0 if np.load(path).dtype.kind == "b" else 1e-12,
    )


def _dimensions(path: Path) -> Race:
    import fractalkern as fk

    work = {"bytes": np.load(path).nbytes}

    def expected() -> np.ndarray:
        result = fk.generalized_dimensions(_tensor(path), ORDERS, backend="reference")
        return np.array(result.dimension)

    return _race(
        path,
        f"D_q of {len(ORDERS)} orders",
        [
            Contender("generalized_dimensions", our_dimensions, (path,), work, role="ours"),
            Contender("pyramid and powers", numpy_dimensions, (path,), work, "numpy"),
        ],
        expected,
        1e-9,
    )


def _lacunarity(path: Path) -> Race:
    work = {"bytes": float(math.prod(np.load(path).shape))}
    return _race(
        path,
        f"lacunarity, {len(GLIDING_SIZES)} powers of two",
        [
            Contender("lacunarity", our_lacunarity, (path, "native"), work, role="ours"),
            Contender("summed-area table", summed_area_lacunarity, (path,), work, "numpy"),
            Contender("uniform_filter", filter_lacunarity, (path,), work, "scipy", rounds=3),
        ],
        our_lacunarity(path, "reference"),
        1e-9,
    )
