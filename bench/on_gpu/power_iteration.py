"""`power_iteration` on the GPU beside loops, stacked products and one read of the weights."""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fractalkern as fk
from bench.bench_power_iteration import CASES, ITERATIONS, PASSES, TARGET
from bench.on_gpu.ceilings import COPY
from bench.on_gpu.rows import Case, Contender
from fractalkern.regularizers import spectral_penalty

_MLP, _, _, _GPT2 = CASES
_LARGE = [(4096, 4096)] * 64


def _drawn(shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Gaussian matrices N(0, 1/n)."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    return [
        torch.randn(shape, generator=generator, device="cuda") / math.sqrt(shape[1])
        for shape in shapes
    ]


def _bytes(shapes: list[tuple[int, int]], passes: int) -> float:
    """What one read of every float32 weight a pass has to move."""
    return 4.0 * passes * sum(m * n for m, n in shapes)


def _ours(weights: list[Tensor], passes: int, method: str) -> Callable[[], Tensor]:
    return lambda: fk.power_iteration(weights, iters=passes, method=method).sigma


def _in_triton(weights: list[Tensor]) -> Callable[[], Tensor]:
    import triton  # noqa: F401  # where it is missing there is no row

    options = {"iters": ITERATIONS, "method": "power", "backend": "triton"}
    return lambda: fk.power_iteration(weights, **options).sigma


def _captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same call as one launch of a graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _loop(weights: list[Tensor], iterations: int) -> Callable[[], Tensor]:
    """The documented iteration, a loop over matrices."""
    starts = [torch.randn(w.shape[1], device="cuda") for w in weights]

    def run() -> Tensor:
        sigmas = []
        for w, b in zip(weights, starts, strict=True):
            for _ in range(iterations):
                y = torch.mv(w, b)
                b = torch.mv(w.T, y)  # noqa: PLW2901
                b = b / b.norm()  # noqa: PLW2901
            sigmas.append(y.norm())
        return torch.stack(sigmas)

    return run


def _stacked(weights: list[Tensor], iterations: int) -> Callable[[], Tensor]:
    """`bmm` over the matrices of one shape, stacked beforehand."""
    groups: dict[torch.Size, list[int]] = {}
    for i, w in enumerate(weights):
        groups.setdefault(w.shape, []).append(i)
    places = torch.tensor([i for group in groups.values() for i in group], device="cuda").argsort()
    stacks = [torch.stack([weights[i] for i in group]) for group in groups.values()]
    starts = [torch.randn(len(w), w.shape[2], 1, device="cuda") for w in stacks]

    def run() -> Tensor:
        sigmas = []
        for w, b in zip(stacks, starts, strict=True):
            for _ in range(iterations):
                y = torch.bmm(w, b)
                b = torch.bmm(w.mT, y)  # noqa: PLW2901
                b = b / b.norm(dim=1, keepdim=True)  # noqa: PLW2901
            sigmas.append(y.norm(dim=(1, 2)))
        return torch.cat(sigmas)[places]

    return run


def _read_once(weights: list[Tensor]) -> Callable[[], Tensor]:
    flat = torch.cat([w.flatten() for w in weights])
    return flat.sum


def _exact(weights: list[Tensor]) -> Tensor:
    """Largest singular values, by the CPU to within 1e-4."""
    norms = fk.power_iteration([w.cpu() for w in weights], iters=2000, tol=1e-4)
    assert set(norms.status) == {"converged"}
    return norms.sigma.double()


def _require_lower_bounds(answer: Tensor, exact: Tensor, error: float) -> None:
    ratio = answer / exact
    assert ratio.max() <= 1 + 1e-5, "above the exact value"
    assert ratio.min() >= 1 - error, f"{1 - float(ratio.min()):.3g} below the exact value"


def _check(weights: Callable[[], list[Tensor]], error: float) -> Callable[[Tensor], None]:
    """Below the exact value, and no further below than `error`."""
    exact = functools.cache(lambda: _exact(weights()))

    def check(answer: Tensor) -> None:
        _require_lower_bounds(answer.cpu().double(), exact(), error)

    return check


def _check_alike(weights: Callable[[], list[Tensor]], error: float) -> Callable[[Tensor], None]:
    """The same for every sixteenth of many large matrices drawn alike, whose exact values differ by
    less than 2 %: the others must lie where that allows."""
    exact = functools.cache(lambda: _exact(weights()[::16]))

    def check(answer: Tensor) -> None:
        sigma = answer.cpu().double()
        _require_lower_bounds(sigma[::16], exact(), error)
        _require_lower_bounds(sigma, exact().mean().mul(1.02).expand(len(sigma)), error)

    return check


def _iterations(
    name: str, shapes: list[tuple[int, int]], target: str, checking: Callable = _check
) -> Case:
    weights = functools.cache(lambda: _drawn(shapes))
    work = _bytes(shapes, ITERATIONS)
    check = checking(weights, 0.35)

    def ours(method: str) -> Contender:
        build = lambda: _ours(weights(), ITERATIONS, method)  # noqa: E731
        return Contender(f"{method}, CUDA", build, work, check, "ours")

    return Case(
        "power_iteration",
        f"{name}, {ITERATIONS} iterations",
        "B/s",
        [
            ours("power"),
            ours("lanczos"),
            Contender("power, Triton", lambda: _in_triton(weights()), work, check, "ours"),
            Contender("bmm, already stacked", lambda: _stacked(weights(), ITERATIONS), work, check),
            Contender("loop", lambda: _loop(weights(), ITERATIONS), work, check),
            Contender(
                "one read of all weights",
                lambda: _read_once(weights()),
                work / ITERATIONS,
                role="floor",
            ),
        ],
        target,
        ceiling=COPY,
    )


def _to_an_accuracy(name: str) -> Case:
    shapes = CASES[name]
    passes, iterations = PASSES[name]
    weights = functools.cache(lambda: _drawn(shapes))
    check = _check(weights, TARGET)
    return Case(
        "power_iteration",
        f"{name}, relative error {TARGET:g} on every matrix",
        "matrices/s",
        [
            Contender(
                f"lanczos, CUDA, {passes} passes",
                lambda: _ours(weights(), passes, "lanczos"),
                len(shapes),
                check,
                "ours",
            ),
            Contender(
                f"loop, {iterations} iterations",
                lambda: _loop(weights(), iterations),
                len(shapes),
                check,
            ),
        ],
    )


def _penalty() -> Case:
    """Forward and backward of sum (sigma - 1)^2, replayed from a graph."""
    shapes = CASES[_MLP]
    weights = functools.cache(lambda: [w.requires_grad_() for w in _drawn(shapes)])
    exact = functools.cache(
        lambda: torch.stack([torch.linalg.matrix_norm(w.detach().double(), 2) for w in weights()])
    )

    def check(sigma: Tensor) -> None:
        assert ((sigma.double() / exact() - 1).abs() < 0.35).all()

    def fused() -> Tensor:
        goal, scale = torch.ones(len(shapes), device="cuda"), torch.ones((), device="cuda")

        def run() -> Tensor:
            penalty, sigma, _ = spectral_penalty(
                weights(), goal, scale, iters=ITERATIONS, method="power"
            )
            torch.autograd.grad(penalty, weights())
            return sigma

        return _captured(run)

    def loop() -> Callable[[], Tensor]:
        starts = [torch.randn(w.shape[1], device="cuda") for w in weights()]

        def run() -> Tensor:
            sigmas = []
            for w, b in zip(weights(), starts, strict=True):
                with torch.no_grad():
                    for i in range(ITERATIONS):
                        y = torch.mv(w, b)
                        if i + 1 < ITERATIONS:
                            b = torch.mv(w.T, y)  # noqa: PLW2901
                            b = b / b.norm()  # noqa: PLW2901
                    u = y / y.norm()
                sigmas.append(torch.dot(u, torch.mv(w, b)))
            sigma = torch.stack(sigmas)
            torch.autograd.grad((sigma - 1).square().sum(), weights())
            return sigma.detach()

        return _captured(run)

    calls = 1.0
    return Case(
        "power_iteration",
        f"{_MLP}, penalty forward and backward, captured",
        "calls/s",
        [
            Contender("fused penalty, CUDA", fused, calls, check, "ours"),
            Contender("loop, u and v detached", loop, calls, check),
        ],
        "40 µs: 25,000 calls/s",
    )


def cases() -> Iterator[Case]:
    """A language model's weights, large ones, a small network's penalty, Lanczos."""
    yield _iterations(_GPT2, CASES[_GPT2], "6x the loop, 1.7x bmm")
    yield _iterations("64 of 4096x4096", _LARGE, "at least 65 % of copy bandwidth", _check_alike)
    yield _penalty()
    yield from (_to_an_accuracy(name) for name in PASSES)
