"""`estimate_dimension` of a 512² boundary with its nulls, beside draws of them in NumPy and SciPy.

No package has an interval or a null, so the peer is what one would write: fields one by one by FFT,
their level sets, edges, box counts by the best NumPy method, a line.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_box_count import numpy_counts
from bench.harness import Contender, Race

KERNEL = "dimension"
SIDE = 512
DRAWS = 199
PEER_DRAWS = 20  # its time is that of a draw
SIZES = tuple(2**k for k in range(7))  # up to a quarter of the 511 edges a side
JITTER = 0.2  # of the logarithm of the correlation length, as in ours
WIDTH = 0.5  # of the noise, in cells


def ours(path: Path, null: str | None) -> Callable[[], np.ndarray]:
    """The slopes of the null's draws; without a null the slope alone."""
    import fractalkern as fk

    mask = np.load(path)

    def slopes() -> np.ndarray:
        result = fk.estimate_dimension(mask, null=null, null_draws=DRAWS)
        return (result.slope if result.null is None else result.null.slopes).numpy()

    return slopes


def numpy_draws(path: Path, null: str) -> Callable[[], np.ndarray]:
    from scipy.special import ndtr

    import fractalkern as fk

    matched = fk.estimate_dimension(np.load(path), null="smooth", null_draws=19).null.parameters
    length, inside = float(matched["length"]), float(matched["inside"])
    wave = np.fft.fftfreq(2 * SIDE)[:, None], np.fft.rfftfreq(2 * SIDE)
    square = (2 * np.pi) ** 2 * (wave[0] ** 2 + wave[1] ** 2)
    random = np.random.default_rng(1)

    def slope() -> float:
        scale = length * np.exp(JITTER * random.standard_normal())
        noise = np.fft.rfft2(random.standard_normal((2 * SIDE, 2 * SIDE)))
        field = np.fft.irfft2(noise * np.exp(-square * scale**2 / 4))[:SIDE, :SIDE]
        field -= np.quantile(field, inside)
        within = field < 0
        if null == "smooth+noise":
            distance = np.abs(field) / np.hypot(*np.gradient(field))
            within ^= random.random(within.shape) < ndtr(-distance / WIDTH)
        rows = within[1:] ^ within[:-1]
        columns = within[:, 1:] ^ within[:, :-1]
        edges = rows[:, 1:] | rows[:, :-1] | columns[1:] | columns[:-1]
        counts = numpy_counts(edges, 2)[: len(SIZES)]
        return -np.polyfit(np.log(SIZES), np.log(counts), 1)[0]

    return lambda: np.array([slope() for _ in range(PEER_DRAWS)])


def races(threads: int) -> Iterator[Race]:
    del threads  # every contender here takes what its process has
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "boundary.npy"
        np.save(path, _rough_boundary())
        for null in ("smooth", "smooth+noise"):
            yield _null(path, null)


def _rough_boundary() -> np.ndarray:
    """The level set of a fractional Brownian field, of dimension 1.5."""
    import torch

    from fractalkern.synthetic import brownian_level_sets

    return (brownian_level_sets(1, SIDE, 1.5, torch.Generator().manual_seed(0))[0] < 0).numpy()


def _null(path: Path, null: str) -> Race:
    work, peer_work = ({"bytes": float(draws * SIDE**2)} for draws in (DRAWS, PEER_DRAWS))

    @functools.cache
    def expected() -> tuple[float, float]:
        slopes = ours(path, null)()
        return float(slopes.mean()), float(slopes.std())

    def check(contender: Contender, answer: Any) -> None:
        if contender.arguments[-1] is None:
            return
        mean, spread = expected()
        # Four standard errors of the difference of the means.
        error = 4 * spread * (1 / DRAWS + 1 / len(answer)) ** 0.5
        np.testing.assert_allclose(answer.mean(), mean, rtol=0, atol=error, err_msg=contender.name)

    return Race(
        KERNEL,
        f"{SIDE} x {SIDE} boundary, null {null!r} of {DRAWS} draws",
        "bool",
        [
            Contender("estimate_dimension", ours, (path, null), work, role="ours"),
            Contender("draws one by one", numpy_draws, (path, null), peer_work, "scipy"),
            Contender("estimate_dimension, null None", ours, (path, None), {}, role="ours"),
        ],
        "bytes",
        "bytes",
        check,
    )
