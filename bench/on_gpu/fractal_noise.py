"""`fractal_noise` on the GPU beside its inverse transform, plain PyTorch and CuPy; beta = 1."""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fractalkern as fk
from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender

_BETA = 1.0
_SIZES = [(4096, 4096), (256, 256, 256), (64, 64, 64, 64)]


def _half_shape(size: tuple[int, ...]) -> tuple[int, ...]:
    return (*size[:-1], size[-1] // 2 + 1)


def _field(size: tuple[int, ...], backend: str) -> Callable[[], Tensor]:
    if backend == "triton":
        import triton  # noqa: F401  # where it is missing there is no row

    options = {"device": "cuda", "dtype": torch.float32, "backend": backend}
    return lambda: fk.fractal_noise(size, _BETA, seed=0, **options)


def _spectrum(size: tuple[int, ...], normalize: str, device: str = "cuda") -> Tensor:
    beta = torch.full((1,), _BETA, dtype=torch.float64, device=device)
    step, band = [1 / n for n in size], (0.0, math.inf)
    return torch.ops.fractalkern.fractal_noise_spectrum(
        beta, list(size), step, 0, False, *band, "gaussian", normalize, False
    )


def _transform(size: tuple[int, ...]) -> Callable[[], Tensor]:
    half = torch.randn(_half_shape(size), dtype=torch.complex64, device="cuda")
    return lambda: torch.fft.irfftn(half, s=size, norm="forward")


def _amplitude(size: tuple[int, ...], device: str = "cuda") -> Tensor:
    """|f|^(-beta / 2) of every mode of the half spectrum, 0 at f = 0."""
    square = torch.fft.rfftfreq(size[-1], device=device).square()
    for axis, n in enumerate(size[:-1]):
        f = torch.fft.fftfreq(n, device=device).square()
        square = square + f.view(-1, *[1] * (len(size) - 1 - axis))
    square.view(-1)[0] = math.inf
    return square.pow_(-_BETA / 4)


def _torch_half(size: tuple[int, ...]) -> Tensor:
    """Normal half spectrum, filter, irfftn, standardise."""
    amplitude = _amplitude(size)
    half = torch.randn(amplitude.shape, dtype=torch.complex64, device="cuda") * amplitude
    field = torch.fft.irfftn(half, s=size)
    return field.sub_(field.mean()).div_(field.std())


def _cupy_half(size: tuple[int, ...]) -> Callable[[], Tensor]:
    import cupy

    random = cupy.random.default_rng(0)

    def draw() -> Tensor:
        square = cupy.fft.rfftfreq(size[-1]).astype(cupy.float32) ** 2
        for axis, n in enumerate(size[:-1]):
            f = cupy.fft.fftfreq(n).astype(cupy.float32) ** 2
            square = square + f.reshape(-1, *[1] * (len(size) - 1 - axis))
        square.ravel()[0] = 1
        parts = random.standard_normal((*square.shape, 2), dtype=cupy.float32)
        half = parts.view(cupy.complex64)[..., 0] * square ** cupy.float32(-_BETA / 4)
        half.ravel()[0] = 0
        field = cupy.fft.irfftn(half, s=size)
        field -= field.mean()
        field /= field.std()
        return torch.from_dlpack(field)

    return draw


def _is_standard(answer: Tensor) -> None:
    assert abs(float(answer.double().mean())) < 1e-4, "the mean is not 0"
    assert abs(float(answer.double().var()) - 1) < 1e-3, "the variance is not 1"


def _field_case(size: tuple[int, ...]) -> Case:
    points = float(math.prod(size))

    @functools.cache
    def expected() -> Tensor:
        return fk.fractal_noise(size, _BETA, seed=0, dtype=torch.float32)

    def check(answer: Tensor) -> None:
        error = float((answer.cpu() - expected()).abs().max())
        assert error < 1e-5, f"differs from the field of the CPU by {error}"

    return Case(
        "fractal_noise",
        f"{'x'.join(map(str, size))}, float32",
        "points/s",
        [
            Contender("fractal_noise, CUDA", lambda: _field(size, "native"), points, check, "ours"),
            Contender(
                "fractal_noise, Triton", lambda: _field(size, "triton"), points, check, "ours"
            ),
            Contender("irfftn alone", lambda: _transform(size), points, role="floor"),
            Contender(
                "PyTorch, half spectrum", lambda: lambda: _torch_half(size), points, _is_standard
            ),
            Contender("CuPy, half spectrum", lambda: _cupy_half(size), points, _is_standard),
        ],
        "1.2 times irfftn and the spectrum's passes, 3 times PyTorch and CuPy",
    )


def _check_spectrum(size: tuple[int, ...], normalize: str) -> Callable[[Tensor], None]:
    @functools.cache
    def expected() -> tuple[Tensor, Tensor]:
        """The modes of the CPU, and what an error of each is measured by."""
        modes = torch.view_as_complex(_spectrum(size, normalize, "cpu")[0])
        amplitude = _amplitude(size, "cpu")
        unit = amplitude * (modes.norm() / amplitude.norm()) + modes.abs()
        return modes, unit.clamp(min=torch.finfo(unit.dtype).tiny)

    def check(answer: Tensor) -> None:
        modes, unit = expected()
        error = (torch.view_as_complex(answer[0].cpu()) - modes).abs() / unit
        assert error.max() < 1e-5, f"differs from the modes of the CPU by {float(error.max())}"

    return check


def _spectrum_case(size: tuple[int, ...]) -> Case:
    shape = _half_shape(size)
    modes = float(math.prod(shape))

    def normals() -> Callable[[], Tensor]:
        both = torch.empty(*shape, 2, device="cuda")
        return both.normal_

    def ours(name: str, normalize: str) -> Contender:
        check = _check_spectrum(size, normalize)
        return Contender(name, lambda: lambda: _spectrum(size, normalize), modes, check, "ours")

    return Case(
        "fractal_noise",
        f"{'x'.join(map(str, size))}, the half spectrum",
        "modes/s",
        [
            ours("drawn and written", "none"),
            ours("and scaled before", "sample"),
            Contender("as many normals by PyTorch", normals, modes, role="floor"),
        ],
        "75 % of copy bandwidth or of the rate of normals",
        ceiling=COPY,
        per_unit=8.0,
    )


def cases() -> Iterator[Case]:
    """Fields, and their half spectra alone."""
    for size in _SIZES:
        yield _field_case(size)
        yield _spectrum_case(size)
