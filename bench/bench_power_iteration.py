"""`power_iteration` beside PyTorch and JAX: Gaussian matrices N(0, 1/n), float32.

At equal iterations a pass of ours stands against one W and one W^T product of a peer. Their answers
are checked to be at least ours from below: all are lower bounds of the exact value.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.harness import Contender, Race

KERNEL = "power_iteration"
ITERATIONS = 10
# Shapes by case. "gpt2" is GPT-2 small's 48 matrices, 324 MiB.
CASES: dict[str, list[tuple[int, int]]] = {
    "MLP 64x2, 2 of 64x64, 1x64": [(64, 2), (64, 64), (64, 64), (1, 64)],
    "1024 of 64x64": [(64, 64)] * 1024,
    "4096x4096": [(4096, 4096)],
    "GPT-2 small, 48 matrices": [(768, 2304), (768, 768), (768, 3072), (3072, 768)] * 12,
}
TARGET = 1e-3  # relative error of every matrix in the races to an accuracy
# The fewest Lanczos passes (even numbers) and power iterations (multiples of 10 or 20) that do.
PASSES = {"4096x4096": (14, 180), "GPT-2 small, 48 matrices": (36, 520)}


@functools.cache
def matrices(case: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        (random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[1])))
        for shape in CASES[case]
    ]


def _tensors(case: str) -> list[Any]:
    import torch

    return [torch.from_numpy(array) for array in matrices(case)]


def ours(case: str, iterations: int, method: str) -> Callable[[], np.ndarray]:
    import fractalkern as fk

    weights = _tensors(case)

    def run() -> np.ndarray:
        return fk.power_iteration(weights, iters=iterations, method=method).sigma.numpy()

    return run


def ours_stacked(case: str, iterations: int, method: str) -> Callable[[], np.ndarray]:
    import torch

    import fractalkern as fk

    weights = torch.stack(_tensors(case))

    def run() -> np.ndarray:
        return fk.power_iteration(weights, iters=iterations, method=method).sigma.numpy()

    return run


def torch_loop(case: str, iterations: int) -> Callable[[], np.ndarray]:
    """The documented iteration, a loop over matrices."""
    import torch

    torch.manual_seed(0)
    weights = _tensors(case)
    starts = [torch.randn(w.shape[1]) for w in weights]

    def run() -> np.ndarray:
        sigmas = []
        for w, b in zip(weights, starts, strict=True):
            for _ in range(iterations):
                y = torch.mv(w, b)
                b = torch.mv(w.T, y)  # noqa: PLW2901
                b = b / b.norm()  # noqa: PLW2901
            sigmas.append(y.norm())
        return torch.stack(sigmas).numpy()

    return run


def torch_bmm(case: str, iterations: int) -> Callable[[], np.ndarray]:
    import torch

    w = torch.stack(_tensors(case))
    start = torch.randn(*w.shape[::2], 1)

    def run() -> np.ndarray:
        b = start
        for _ in range(iterations):
            y = torch.bmm(w, b)
            b = torch.bmm(w.mT, y)
            b = b / b.norm(dim=1, keepdim=True)
        return y.norm(dim=(1, 2)).numpy()

    return run


def jax_vmap(case: str, iterations: int) -> Callable[[], np.ndarray]:
    """Jitted, equal shapes stacked inside and vmapped."""
    import jax
    import jax.numpy as jnp

    weights = [jnp.asarray(array) for array in matrices(case)]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, w in enumerate(weights):
        groups.setdefault(w.shape, []).append(i)
    random = np.random.default_rng(1)
    starts = {s: jnp.asarray(random.standard_normal(s[1], dtype=np.float32)) for s in groups}

    def one(w, b):
        def step(_, state):
            b, _ = state
            y = w @ b
            z = w.T @ y
            return z / jnp.linalg.norm(z), jnp.linalg.norm(y)

        return jax.lax.fori_loop(0, iterations, step, (b, jnp.float32(0)))[1]

    @jax.jit
    def run(weights):
        sigmas = [None] * len(weights)
        for shape, places in groups.items():
            stack = jnp.stack([weights[i] for i in places])
            for i, sigma in zip(
                places, jax.vmap(one, (0, None))(stack, starts[shape]), strict=True
            ):
                sigmas[i] = sigma
        return jnp.stack(sigmas)

    return lambda: np.asarray(run(weights))


def penalty_ours(case: str) -> Callable[[], np.ndarray]:
    import fractalkern as fk

    weights = [w.requires_grad_() for w in _tensors(case)]

    def run() -> np.ndarray:
        for w in weights:
            w.grad = None
        sigma = fk.power_iteration(weights, iters=ITERATIONS, method="power").sigma
        (sigma - 1).square().sum().backward()
        return sigma.detach().numpy()

    return run


def penalty_fused(case: str) -> Callable[[], np.ndarray]:
    import torch

    from fractalkern.regularizers import spectral_penalty

    weights = [w.requires_grad_() for w in _tensors(case)]
    targets, scale = torch.ones(len(weights)), torch.ones(())

    def run() -> np.ndarray:
        for w in weights:
            w.grad = None
        penalty, sigma, _ = spectral_penalty(
            weights, targets, scale, iters=ITERATIONS, method="power"
        )
        penalty.backward()
        return sigma.numpy()

    return run


def penalty_direct(case: str) -> Callable[[], np.ndarray]:
    import torch

    from fractalkern.regularizers import spectral_penalty_and_gradients

    weights = [w.requires_grad_() for w in _tensors(case)]
    targets, scale = torch.ones(len(weights)), torch.ones(())

    def run() -> np.ndarray:
        _, sigma, _, gradients = spectral_penalty_and_gradients(
            weights, targets, scale, iters=ITERATIONS, method="power"
        )
        for w, gradient in zip(weights, gradients, strict=True):
            w.grad = gradient
        return sigma.numpy()

    return run


def penalty_loop(case: str) -> Callable[[], np.ndarray]:
    """The loop with detached u and v, sigma = u . W v."""
    import torch

    weights = [w.requires_grad_() for w in _tensors(case)]
    starts = [torch.randn(w.shape[1]) for w in weights]

    def run() -> np.ndarray:
        sigmas = []
        for w, b in zip(weights, starts, strict=True):
            w.grad = None
            with torch.no_grad():
                for i in range(ITERATIONS):
                    y = torch.mv(w, b)
                    if i + 1 < ITERATIONS:
                        b = torch.mv(w.T, y)  # noqa: PLW2901
                        b = b / b.norm()  # noqa: PLW2901
                u = y / y.norm()
            sigmas.append(torch.dot(u, torch.mv(w, b)))
        sigma = torch.stack(sigmas)
        (sigma - 1).square().sum().backward()
        return sigma.detach().numpy()

    return run


def empty_function(case: str, public: bool) -> Callable[[], None]:
    """What autograd takes for such a penalty where forward and backward compute nothing."""
    import torch

    weights = [w.requires_grad_() for w in _tensors(case)]
    result = torch.zeros(len(weights) if public else ())
    gradients = [torch.zeros_like(w) for w in weights]

    class Empty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *weights):
            return result.clone()

        @staticmethod
        def backward(ctx, grad):
            return tuple(torch.empty_like(w) for w in gradients)

    def run() -> None:
        for w in weights:
            w.grad = None
        output = Empty.apply(*weights)
        (((output - 1).square().sum()) if public else output).backward()

    return run


def read_once(case: str) -> Callable[[], None]:
    """One read of all weights: a flat sum."""
    import torch

    flat = torch.cat([w.flatten() for w in _tensors(case)])
    return flat.sum


def smallest_call(count: int) -> Callable[[], None]:
    """The op as the public function calls it, with next to nothing to do."""
    import torch

    import fractalkern as fk  # noqa: F401  # registers the op

    weights = [torch.ones(1, 1) for _ in range(count)]
    op = torch.ops.fractalkern.power_iteration_eager.default
    return lambda: op(weights, None, 1, -1.0, False, 1e-6, 0)


def _smallest(case: str) -> list[Contender]:
    count = len(CASES[case])
    if count > 4:
        return []
    name, work = f"op on {count} of 1x1, 1 pass", {"matrices": count, "bytes": 4 * count}
    return [Contender(name, smallest_call, (count,), work, role="floor")]


def _empty_functions(case: str) -> list[Contender]:
    count = len(CASES[case])
    if count > 4:
        return []
    names = {"an empty autograd function": False, "an empty one, (sigma - 1).square().sum()": True}
    return [
        Contender(name, empty_function, (case, public), {"matrices": count}, "torch", role="floor")
        for name, public in names.items()
    ]


def races(threads: int) -> Iterator[Race]:
    for case in CASES:
        yield _forward(case)
    for case in list(CASES)[:2]:
        yield _penalty(case)
    for case in PASSES:
        yield _accuracy(case)


def _work(case: str, passes: int) -> dict[str, float]:
    """`matrices` are what the answer is worth, `bytes` what one read a pass has to move."""
    entries = sum(m * n for m, n in CASES[case])
    return {"matrices": len(CASES[case]), "bytes": 4 * entries * passes}


def _floor(case: str) -> Contender:
    return Contender(
        "one read of all weights", read_once, (case,), _work(case, 1), package="torch", role="floor"
    )


def _forward(case: str) -> Race:
    work = _work(case, ITERATIONS)
    uniform = len(set(CASES[case])) == 1 and len(CASES[case]) > 1

    def peer(name: str, build: Callable, package: str) -> Contender:
        return Contender(name, build, (case, ITERATIONS), work, package=package)

    contenders = [
        Contender("power", ours, (case, ITERATIONS, "power"), work, role="ours"),
        Contender("lanczos", ours, (case, ITERATIONS, "lanczos"), work, role="ours"),
        peer("loop", torch_loop, "torch"),
        peer("jit(vmap)", jax_vmap, "jax"),
    ]
    if uniform:
        stacked = (case, ITERATIONS, "power")
        contenders.insert(0, Contender("power, stacked", ours_stacked, stacked, work, role="ours"))
        contenders.append(peer("bmm, already stacked", torch_bmm, "torch"))
    contenders += [_floor(case), *_smallest(case)]
    return _race(f"{case}, {ITERATIONS} iterations", case, contenders)


def _penalty(case: str) -> Race:
    work = _work(case, ITERATIONS)
    return _race(
        f"{case}, penalty forward and backward",
        case,
        [
            Contender("fused, gradients made with it", penalty_direct, (case,), work, role="ours"),
            Contender("fused penalty and autograd", penalty_fused, (case,), work, role="ours"),
            Contender("power_iteration and autograd", penalty_ours, (case,), work, role="ours"),
            Contender("loop, u and v detached", penalty_loop, (case,), work, package="torch"),
            _floor(case),
            *_smallest(case),
            *_empty_functions(case),
        ],
    )


def _accuracy(case: str) -> Race:
    lanczos, power = PASSES[case]
    return _race(
        f"{case}, relative error {TARGET:g} on every matrix",
        case,
        [
            Contender(
                f"lanczos, {lanczos} passes",
                ours,
                (case, lanczos, "lanczos"),
                _work(case, lanczos),
                role="ours",
            ),
            Contender(
                f"loop, {power} iterations",
                torch_loop,
                (case, power),
                _work(case, power),
                package="torch",
                rounds=3,
            ),
            _floor(case),
        ],
        TARGET,
    )


def _race(name: str, case: str, contenders: list[Contender], error: float = 0.35) -> Race:
    def check(contender: Contender, answer: np.ndarray | None) -> None:
        """Below the exact value, and no further below than `error`."""
        if contender.role == "floor":
            return
        exact = _exact(case)
        assert (answer <= exact * (1 + 1e-5)).all(), f"{contender.name} is above the exact value"
        worst = (1 - answer / exact).max()
        assert worst <= error, f"{contender.name} is {worst:.3g} below the exact value"

    return Race(KERNEL, name, "float32", contenders, per="matrices", share="bytes", check=check)


@functools.cache
def _exact(case: str) -> np.ndarray:
    """By our bounds rather than by an SVD of minutes: converged to 1e-6, so to 1e-9 in sigma."""
    import fractalkern as fk

    norms = fk.power_iteration(_tensors(case), iters=2000, tol=1e-5)
    assert set(norms.status) == {"converged"}
    return norms.sigma.numpy()
