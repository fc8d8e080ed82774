"""`fractal_noise` beside the plain torch, NumPy and SciPy methods and two packages; beta = 1.

The floor is a bare inverse FFT of a half spectrum. All fields are normalised to variance 1; the
peers rebuild their filter in each call, as a user's function does.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Contender, Race

KERNEL = "fractal_noise"
BETA = 1.0
# Below this the memory of libraries and thread pools is not small beside the field's.
LEAST_POINTS_OF_MEMORY = 1 << 21
SIZES = [(4096, 4096), (1024, 1024), (128, 128, 128), (32, 32, 32, 32), (1 << 20,)]


def ours(size: tuple[int, ...]) -> Callable[[], np.ndarray]:
    import torch

    import fractalkern as fk

    return lambda: fk.fractal_noise(size, BETA, seed=0, dtype=torch.float32).numpy()


def torch_irfftn(size: tuple[int, ...]) -> Callable[[], None]:
    """The inverse transform alone."""
    import torch

    half = torch.randn(*size[:-1], size[-1] // 2 + 1, dtype=torch.complex64)

    def transform() -> None:
        torch.fft.irfftn(half, s=size)

    return transform


def scipy_irfftn(size: tuple[int, ...], threads: int) -> Callable[[], None]:
    import scipy.fft

    half = np.ones((*size[:-1], size[-1] // 2 + 1), dtype=np.complex64)

    def transform() -> None:
        scipy.fft.irfftn(half, s=size, workers=threads)

    return transform


def torch_half(size: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Normal half spectrum, filter, irfftn, standardise."""
    import torch

    def draw() -> np.ndarray:
        square = torch.fft.rfftfreq(size[-1]).square()
        for axis, n in enumerate(size[:-1]):
            f = torch.fft.fftfreq(n).square()
            square = square + f.view(-1, *[1] * (len(size) - 1 - axis))
        square.view(-1)[0] = 1
        half = torch.randn(square.shape, dtype=torch.complex64) * square.pow_(-BETA / 4)
        half.view(-1)[0] = 0
        field = torch.fft.irfftn(half, s=size)
        return field.sub_(field.mean()).div_(field.std()).numpy()

    return draw


def scipy_half(size: tuple[int, ...], threads: int) -> Callable[[], np.ndarray]:
    import scipy.fft

    random = np.random.default_rng(0)

    def draw() -> np.ndarray:
        square = np.fft.rfftfreq(size[-1]).astype(np.float32) ** 2
        for axis, n in enumerate(size[:-1]):
            f = np.fft.fftfreq(n).astype(np.float32) ** 2
            square = square + f.reshape(-1, *[1] * (len(size) - 1 - axis))
        square.flat[0] = 1
        parts = random.standard_normal((*square.shape, 2), dtype=np.float32)
        half = parts.view(np.complex64)[..., 0]
        half *= square ** np.float32(-BETA / 4)
        half.flat[0] = 0
        field = scipy.fft.irfftn(half, s=size, workers=threads, overwrite_x=True)
        field -= field.mean()
        field /= field.std()
        return field

    return draw


def numpy_full_complex(size: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """The method of the Genesis trainer: random phases on the full spectrum, real part, float64."""
    random = np.random.default_rng(0)

    def draw() -> np.ndarray:
        grids = np.meshgrid(*(np.fft.fftfreq(n) for n in size), indexing="ij")
        k = np.sqrt(sum(grid**2 for grid in grids))
        k[k == 0] = 1e-10
        phases = random.uniform(0, 2 * np.pi, size)
        field = np.real(np.fft.ifftn(k ** (-BETA / 2) * np.exp(1j * phases)))
        return ((field - field.mean()) / (field.std() + 1e-8)).astype(np.float32)

    return draw


def powerbox(size: tuple[int, ...]) -> Callable[[], np.ndarray]:
    import powerbox as pbox

    def draw() -> np.ndarray:
        box = pbox.PowerBox(N=size[0], dim=len(size), pk=lambda k: k**-BETA, boxlength=1.0)
        field = np.asarray(box.delta_x())
        return (field - field.mean()) / field.std()

    return draw


def colorednoise(size: tuple[int, ...]) -> Callable[[], np.ndarray]:
    import colorednoise

    def draw() -> np.ndarray:
        field = colorednoise.powerlaw_psd_gaussian(BETA, size)
        return (field - field.mean()) / field.std()

    return draw


def gpt2_shapes() -> list[tuple[int, ...]]:
    """The 76 tensors of Genesis's GPT-2 (E1 in the rows): 17,670,400 parameters."""
    n = 256
    layer = [(n,), (n,), (n, 3 * n), (3 * n,), (n, n), (n,)]
    layer += [(n,), (n,), (n, 4 * n), (4 * n,), (4 * n, n), (n,)]
    return [(50257, n), (n, n), *layer * 6, (n,), (n,)]


def ours_genesis(shapes: list[tuple[int, ...]]) -> Callable[[], list[np.ndarray]]:
    import torch

    from fractalkern.init import genesis_

    model = torch.nn.ParameterList([torch.empty(shape) for shape in shapes])

    def fill() -> list[np.ndarray]:
        genesis_(model, BETA, protocol="published", seed=0)
        return [parameter.detach().numpy() for parameter in model]

    return fill


def numpy_genesis(shapes: list[tuple[int, ...]]) -> Callable[[], list[np.ndarray]]:
    """Each tensor by the trainer's own method."""
    fills = [numpy_full_complex(shape) for shape in shapes]

    def fill() -> list[np.ndarray]:
        return [draw() * _genesis_scale(shape) for draw, shape in zip(fills, shapes, strict=True)]

    return fill


def _genesis_scale(shape: tuple[int, ...]) -> float:
    """Of a matrix; an entry of a parameter list has no name that makes it a bias."""
    return math.sqrt(1 / shape[1]) if len(shape) > 1 else 0.05


def races(threads: int) -> Iterator[Race]:
    for size in SIZES:
        yield _race(size, threads)
    yield _genesis_race()


def _genesis_race() -> Race:
    shapes = gpt2_shapes()
    points = sum(math.prod(shape) for shape in shapes)
    work = {"bytes": 4.0 * points, "points": float(points)}

    def check(_: Contender, answer: list[np.ndarray]) -> None:
        assert [tensor.shape for tensor in answer] == shapes
        expected = [_genesis_scale(shape) for shape in shapes]
        deviations = [tensor.std(dtype=np.float64) for tensor in answer]
        np.testing.assert_allclose(deviations, expected, rtol=1e-4)

    return Race(
        KERNEL,
        "GPT-2 of E1, 76 tensors",
        "float32",
        [
            Contender("genesis_, published", ours_genesis, (shapes,), work, role="ours"),
            Contender("full spectrum of Genesis, float64", numpy_genesis, (shapes,), work, "numpy"),
        ],
        per="points",
        share="points",
        check=check,
    )


def _race(size: tuple[int, ...], threads: int) -> Race:
    points = math.prod(size)
    work = {"bytes": 4.0 * points, "points": float(points)}

    def contender(name: str, build: Callable, *rest: Any, **options: Any) -> Contender:
        return Contender(name, build, (size, *rest), work, **options)

    package = (
        contender("powerlaw_psd_gaussian, float64", colorednoise, package="colorednoise", rounds=3)
        if len(size) == 1
        else contender("PowerBox, float64", powerbox, package="powerbox", rounds=3)
    )
    return Race(
        KERNEL,
        " x ".join(map(str, size)),
        "float32",
        [
            contender("fractal_noise", ours, role="ours"),
            contender("half spectrum", torch_half, package="torch"),
            contender("half spectrum, float32", scipy_half, threads, package="scipy"),
            contender(
                "full spectrum of Genesis, float64", numpy_full_complex, package="numpy", rounds=3
            ),
            package,
            contender("bare irfftn", torch_irfftn, package="torch", role="floor"),
            contender("bare irfftn", scipy_irfftn, threads, package="scipy", role="floor"),
        ],
        per="points",
        share="points",
        check=_check,
        derive=(lambda _: _memory(size)) if points >= LEAST_POINTS_OF_MEMORY else None,
    )


def _memory(size: tuple[int, ...]) -> dict[str, float]:
    """Peak resident memory of a call over what the process had before it, in fields."""
    field_bytes = 4 * math.prod(size)
    ours_peak, bare_peak = (_peak(build, size) / field_bytes for build in (ours, torch_irfftn))
    return {
        "peak_memory_in_fields": ours_peak,
        "peak_memory_of_a_bare_irfftn_in_fields": bare_peak,
        "peak_memory_beside_a_bare_irfftn": ours_peak / bare_peak,
    }


def _peak(build: Callable[[tuple[int, ...]], Callable[[], Any]], size: tuple[int, ...]) -> int:
    """Bytes, in a process of its own; those of a bare transform include its half spectrum."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_send_peak, args=(sender, build, size)
    )
    process.start()
    sender.close()  # so that a process that fails ends the wait
    peak = receiver.recv()
    process.join()
    return int(peak)


def _send_peak(pipe: Any, build: Callable[[tuple[int, ...]], Callable[[], Any]], size: Any) -> None:
    build((8,) * len(size))()  # loads the libraries and starts the threads
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _status_bytes("VmRSS")
    call = build(size)
    answer = call()
    pipe.send(_status_bytes("VmHWM") - before)
    del answer


def _status_bytes(name: str) -> int:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


def _check(contender: Contender, answer: np.ndarray | None) -> None:
    """Variance 1 and a spectrum of slope -beta; ours is also the reference's field."""
    if contender.role == "floor":
        return
    (size, *_) = contender.arguments
    assert answer is not None
    assert answer.shape == size, contender.name
    assert abs(answer.var(dtype=np.float64) - 1) < 1e-4, contender.name
    slope, error = _slope(answer)
    assert abs(slope + BETA) < 4 * error, contender.name
    if contender.role == "ours" and answer.size <= 1 << 20:
        import fractalkern as fk

        expected = fk.fractal_noise(size, BETA, seed=0, backend="reference")
        np.testing.assert_allclose(answer, expected.numpy(), atol=2e-5)


def _slope(field: np.ndarray) -> tuple[float, float]:
    """Of ln power against ln |k| below the Nyquist frequency, and its standard error at most.

    ln of an exponential power deviates by pi / sqrt(6), of the squared cosine of Genesis by
    pi / sqrt(3).
    """
    power = np.abs(np.fft.rfftn(field)) ** 2
    square = np.fft.rfftfreq(field.shape[-1]) ** 2
    for axis, n in enumerate(field.shape[:-1]):
        square = square + np.fft.fftfreq(n).reshape(-1, *[1] * (field.ndim - 1 - axis)) ** 2
    inside = (square > 0) & (square < 0.25)
    # A half spectrum without Hermitian planes, as the plain methods draw it, lacks power there.
    inside[..., 0] = inside[..., -1] = field.ndim == 1
    inside.flat[0] = False
    log_k = 0.5 * np.log(square[inside])
    centred = log_k - log_k.mean()
    spread = float(np.sum(centred**2))
    slope = float(np.sum(centred * np.log(power[inside]))) / spread
    return slope, math.pi / math.sqrt(3) / math.sqrt(spread)
