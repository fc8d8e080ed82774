"""Two-moons networks trained at once beside one after another in PyTorch, float32.

50 networks 2-64-64-1 with ReLU on 1,500 points, full batch, Adam 1e-2, binary cross entropy. With
metrics: after every epoch both accuracies, the dead rate, the sensitivity in 10 directions at 128
points, the largest singular values of the hidden layers, and the box counts of the steepest
percentile of the 200 x 200 probability map. Both sides' metrics are vectorised over points; ours
over networks, too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.bench_train_sweep import MATMUL, matmul
from bench.harness import Contender, Race

KERNEL = "ensemble"
RUNS, POINTS, TEST, GRID, PROBES, DIRECTIONS = 50, 1500, 500, 200, 128, 10
LR = 1e-2
SIZES = [1, 2, 4, 8, 16, 32, 64]

# Multiply-adds of a point: forward; and those of the weights' and the inputs' gradients.
FORWARD = 2 * 64 + 64 * 64 + 64
BACKWARD = FORWARD + 64 * 64 + 64


def _work(epochs: int, metrics: bool, runs: int = RUNS) -> dict[str, float]:
    points = POINTS * (FORWARD + BACKWARD)
    if metrics:
        points += (POINTS + TEST + GRID**2 + PROBES * (1 + DIRECTIONS)) * FORWARD
        points += POINTS * (2 * 64)  # the first layer again, for the dead rate
    return {"run_steps": runs * epochs, "flops": 2.0 * runs * epochs * points}


def _moons() -> tuple[Any, ...]:
    """Training and test points and labels, the map's points, probes and moved probes."""
    import torch

    random = np.random.default_rng(0)
    total = POINTS + TEST
    angle, label = np.pi * random.random(total), random.integers(0, 2, total)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[label == 1] = [1.0, 0.5] - x[label == 1]
    x += 0.15 * random.standard_normal(x.shape)
    points = torch.from_numpy(x.astype(np.float32))
    labels = torch.from_numpy(label.astype(np.float32))
    axes = torch.linspace(-1.5, 2.5, GRID), torch.linspace(-1.0, 1.5, GRID)
    grid = torch.cartesian_prod(*axes)
    probes = points[:PROBES]
    turns = torch.from_numpy(random.standard_normal((DIRECTIONS, 1, 2)).astype(np.float32))
    moved = probes + 1e-3 * turns / turns.norm(dim=2, keepdim=True)
    moved = moved.reshape(-1, 2)
    return points[:POINTS], labels[:POINTS], points[POINTS:], labels[POINTS:], grid, probes, moved


def _network() -> Any:
    from torch import nn

    layers = nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    return nn.Sequential(*layers)


def _steepest(maps: Any) -> Any:
    """The one per cent steepest pixels of probability maps [..., GRID, GRID]."""
    import torch

    slopes = torch.gradient(maps, dim=(-2, -1))
    steepness = slopes[0].square() + slopes[1].square()
    flat = steepness.flatten(-2)
    limit = flat.topk(GRID**2 // 100, dim=-1, sorted=False).values.amin(-1)
    return steepness >= limit[..., None, None]


def ours(epochs: int, metrics: bool, kernel: str) -> Callable[[], np.ndarray]:
    import torch

    import fractalkern as fk
    from fractalkern.ensemble import Adam, BinaryCrossEntropy, Data, Ensemble, View

    x, y, x_test, y_test, grid, probes, moved = _moons()
    # One call for all points: rows are networks.
    everything = torch.cat([x, x_test, probes, moved, grid])
    parts = [POINTS, TEST, PROBES, PROBES * DIRECTIONS, GRID**2]

    def measure(view: View) -> dict[str, Any]:
        outputs = view(everything)[..., 0]
        train, test, still, shaken, plane = outputs.split(parts, dim=1)
        w = view.parameters
        hidden = torch.baddbmm(
            w["0.bias"][:, None], x.expand(len(w["0.bias"]), -1, -1), w["0.weight"].mT
        )
        first = w["0.weight"] @ x.mean(0) + w["0.bias"]
        second = (w["2.weight"] @ hidden.relu_().mean(1)[..., None])[..., 0] + w["2.bias"]
        dead = [(mean.abs() < 1e-5).float().mean(1) for mean in (first, second)]
        change = shaken.view(-1, DIRECTIONS, PROBES) - still[:, None]
        maps = plane.sigmoid().view(-1, GRID, GRID)
        return {
            "train": ((train > 0) == (y > 0)).float().mean(1),
            "test": ((test > 0) == (y_test > 0)).float().mean(1),
            "dead": (dead[0] + dead[1]) / 2,
            "sensitivity": change.abs().mean((1, 2)) / 1e-3,
            "sigma0": fk.power_iteration(w["0.weight"]).sigma,
            "sigma2": fk.power_iteration(w["2.weight"]).sigma,
            "boxes": fk.box_count(_steepest(maps), SIZES, spatial_dims=2).counts.flatten(1),
        }

    made = Ensemble(
        lambda run: _network(), BinaryCrossEntropy(), Adam(lr=LR), runs=RUNS, kernel=kernel
    )
    data = Data(x, y)

    def run() -> np.ndarray:
        result = made.fit(data, epochs, metrics=measure if metrics else None)
        assert not metrics or bool(result.metrics["test"][:, -1].mean() > 0.7)
        return result.losses.numpy()

    return run


def one_by_one(epochs: int, metrics: bool, runs: int) -> Callable[[], np.ndarray]:
    import torch
    import torch.nn.functional as F

    x, y, x_test, y_test, grid, probes, moved = _moons()

    def sigma(weight: Any) -> Any:
        b = torch.randn(weight.shape[1])
        for _ in range(10):
            v = weight @ b
            b = weight.T @ v
            b = b / (b.norm() + 1e-9)
        return (weight @ b).norm()

    def boxes(mask: Any) -> list[Any]:
        levels = mask.float()[None, None]
        return [F.max_pool2d(levels, size, ceil_mode=True).sum() for size in SIZES]

    @torch.no_grad()
    def measure(model: Any) -> tuple[Any, ...]:
        first = model[0](x)
        second = model[2](first.relu())
        train = model[4](second.relu())[:, 0]
        test = model(x_test)[:, 0]
        change = model(moved)[:, 0].view(DIRECTIONS, PROBES) - model(probes)[:, 0]
        mask = _steepest(model(grid)[:, 0].sigmoid().view(GRID, GRID))
        return (
            ((train > 0) == (y > 0)).float().mean(),
            ((test > 0) == (y_test > 0)).float().mean(),
            (first.mean(0).abs() < 1e-5).float().mean(),
            (second.mean(0).abs() < 1e-5).float().mean(),
            change.abs().mean() / 1e-3,
            sigma(model[0].weight),
            sigma(model[2].weight),
            *boxes(mask),
        )

    def run() -> np.ndarray:
        losses = np.full((RUNS, epochs), np.nan, np.float32)
        for number in range(runs):
            torch.manual_seed(number)
            model = _network()
            optimizer = torch.optim.Adam(model.parameters(), lr=LR)
            for epoch in range(epochs):
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(model(x)[:, 0], y)
                loss.backward()
                optimizer.step()
                losses[number, epoch] = loss.detach()
                if metrics:
                    [float(value) for value in measure(model)]
        return losses

    return run


GPT = {"vocabulary": 128, "length": 48, "width": 64, "layers": 2, "heads": 4, "dropout": 0.1}
GPT_RUNS, GPT_BATCH = 16, 4


def _gpt_work(runs: int, steps: int) -> dict[str, float]:
    """Three products for each of the forward ones: of weights and of attention."""
    width, tokens = GPT["width"], GPT_BATCH * (GPT["length"] - 1)
    weights = GPT["layers"] * 12 * width**2 + GPT["vocabulary"] * width
    attention = GPT["layers"] * 2 * width * (GPT["length"] - 1)
    flops = 2.0 * 3 * tokens * (weights + attention)
    return {"run_steps": runs * steps, "flops": runs * steps * flops}


def gpt_ours(steps: int) -> Callable[[], np.ndarray]:
    import torch

    from bench.small_gpt import SmallGPT, next_token_loss
    from fractalkern.ensemble import AdamW, Data, Ensemble

    ids = torch.from_numpy(np.random.default_rng(0).integers(0, GPT["vocabulary"], (400, 48)))
    made = Ensemble(
        lambda run: SmallGPT(**GPT), next_token_loss, AdamW(lr=1e-3), runs=GPT_RUNS, clip_norm=1.0
    )
    data = Data(ids, batch_size=GPT_BATCH)

    def run() -> np.ndarray:
        return made.fit(data, steps).losses.numpy()

    return run


def gpt_one_by_one(steps: int, runs: int) -> Callable[[], np.ndarray]:
    import torch

    from bench.small_gpt import SmallGPT, next_token_loss

    ids = torch.from_numpy(np.random.default_rng(0).integers(0, GPT["vocabulary"], (400, 48)))

    def run() -> np.ndarray:
        losses = np.full((GPT_RUNS, steps), np.nan, np.float32)
        for number in range(runs):
            torch.manual_seed(number)
            model = SmallGPT(**GPT)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            order = torch.randperm(len(ids))
            for step in range(steps):
                batch = ids[order[step * GPT_BATCH : (step + 1) * GPT_BATCH]]
                optimizer.zero_grad()
                loss = next_token_loss(model, batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses[number, step] = loss.detach()
        return losses

    return run


def _gpt_check(contender: Contender, answer: np.ndarray | None) -> None:
    """Other dropout and another order of noise: the losses start and stay at log(vocabulary)."""
    if answer is not None:
        np.testing.assert_allclose(answer[:2].mean(axis=1), np.log(GPT["vocabulary"]), atol=0.15)


def _gpt_race(steps: int, loop_runs: int) -> Race:
    contenders = [
        Contender("ensemble by vmap", gpt_ours, (steps,), _gpt_work(GPT_RUNS, steps), role="ours"),
        Contender(
            "one by one",
            gpt_one_by_one,
            (steps, loop_runs),
            _gpt_work(loop_runs, steps),
            package="torch",
        ),
        _floor(),
    ]
    name = f"GPT-2, width {GPT['width']}, {GPT['layers']} layers, {GPT_RUNS} runs, dropout"
    return Race(
        KERNEL, name, "float32", contenders, per="run_steps", share="flops", check=_gpt_check
    )


def _floor() -> Contender:
    return Contender(
        f"matmul {MATMUL}^3",
        matmul,
        ("float32",),
        {"flops": 2 * MATMUL**3},
        package="torch",
        role="floor",
    )


def _race(name: str, epochs: int, metrics: bool, loop_runs: int, vmap: bool) -> Race:
    work = _work(epochs, metrics)
    contenders = [
        Contender("ensemble", ours, (epochs, metrics, "dense"), work, role="ours"),
        Contender(
            "one by one",
            one_by_one,
            (epochs, metrics, loop_runs),
            _work(epochs, metrics, loop_runs),
            package="torch",
        ),
        _floor(),
    ]
    if vmap:
        few = epochs // 10
        contenders.insert(
            1,
            Contender(
                "ensemble by vmap", ours, (few, metrics, "vmap"), _work(few, metrics), role="ours"
            ),
        )
    return Race(KERNEL, name, "float32", contenders, per="run_steps", share="flops", check=_check)


def _check(contender: Contender, answer: np.ndarray | None) -> None:
    """The losses of the first epochs, before rounding has grown, against torch's."""
    if contender.role == "floor":
        return
    epochs = contender.arguments[0]
    expected = one_by_one(min(epochs, 10), False, 4)()
    np.testing.assert_allclose(answer[:4, :10], expected[:4, : answer.shape[1]], rtol=2e-3)
    assert np.nanmax(answer[:, -1]) < np.nanmin(answer[:, 0])


def races(threads: int) -> list[Race]:
    """The slower ones do a part of the work; a ratio is of run-steps."""
    return [
        _race(f"two moons, {RUNS} runs, 100 epochs", 100, False, 4, True),
        _race(f"two moons, {RUNS} runs, 10 epochs with metrics", 10, True, 4, False),
        _gpt_race(5, 4),
    ]
