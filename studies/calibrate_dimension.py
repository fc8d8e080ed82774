"""Makes `fractalkern/dimension_calibration.safetensors`, from which intervals are read.

    python studies/calibrate_dimension.py            about 15 minutes on two cores

Simulates boundaries of both families at five sides and fits what `fractalkern.calibration`
describes. Every boundary has a seed of its own, so a second run makes the same table.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from simulate import simulate
from torch import Tensor

from fractalkern.boundary_statistics import BoundaryStatistics
from fractalkern.calibration import (
    CORRELATION_KNOTS,
    CRITICAL_KNOTS,
    LEVELS,
    Knot,
    features,
    hat_weights,
    likelihood,
    lone_excess,
    polynomials,
    smooth_slope,
)

SIDES = (64, 128, 256, 512, 1024)
SMOOTH = ("line", "circle", "contour")
TABLE = Path(__file__).parents[1] / "fractalkern" / "dimension_calibration.safetensors"
_MEAN_DEGREE, _SCALE_DEGREE = 9, 5
_BATCH = 10
_MARGIN = 1.15  # of a limit above the largest value that the family showed
_FREEDOM = 5.0  # of the Student distribution that the errors of smooth slopes are fitted with

Bank = dict[str, tuple[BoundaryStatistics, Tensor]]


def main() -> None:
    """Simulates, fits, writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=Path, help="folder that keeps the simulated statistics")
    arguments = parser.parse_args()
    table = {}
    for side in SIDES:
        knot = fitted(side, _bank(side, arguments.bank))
        for name in Knot.__annotations__:
            if name != "side":
                table[f"{side}.{name}"] = getattr(knot, name).float().contiguous()
    save_file(table, TABLE)


def _bank(side: int, folder: Path | None) -> Bank:
    path = None if folder is None else folder / f"bank_{side}.pt"
    if path is not None and path.exists():
        loaded = torch.load(path)
        return {kind: (BoundaryStatistics(**st), true) for kind, (st, true) in loaded.items()}
    counts = (3000, 5000) if side < SIDES[-1] else (1500, 3000)
    bank = {}
    for number, kind in enumerate((*SMOOTH, "brownian")):
        count = counts[kind == "brownian"]
        seed = (11 + number) * 10**9 + side
        bank[kind] = simulate(kind, side, count, seed=seed, batch=_BATCH)
    if path is not None:
        torch.save({kind: (st.__dict__, true) for kind, (st, true) in bank.items()}, path)
    return bank


def fitted(side: int, bank: Bank) -> Knot:
    """Both families at one side."""
    statistics, true = bank["brownian"]
    y = features(statistics, len(statistics.sizes))
    boxes = statistics.counts[:, -1]
    smooth = _fitted_smooth({kind: bank[kind][0] for kind in SMOOTH})
    knot = _fitted_brownian(side, y, boxes, true, smooth)
    # The critical values come from boundaries that the family was not fitted to.
    half = torch.arange(len(y)) // _BATCH % 2 == 0
    excess, misfit, found = (torch.empty_like(true) for _ in range(3))
    for part in (half, ~half):
        other = _fitted_brownian(side, y[~part], boxes[~part], true[~part], smooth)
        excess[part], misfit[part], found[part] = _excess(other, y[part], boxes[part], true[part])
    usual = (true > 1.08) & (true < 1.9)
    largest = _MARGIN * misfit[usual].max()
    critical = torch.stack([_local_quantiles(excess, true, at) for at in CRITICAL_KNOTS])
    lone_share, lone_limit = _fitted_lone(statistics, found)
    print(f"{side}: largest misfit {float(largest):.2f}, critical values at 95 %:")
    print(
        "   ", [round(value, 1) for value in critical[:, LEVELS.index(0.95)].tolist()], flush=True
    )
    print("    shares of lone cells:", [round(share, 4) for share in lone_share.tolist()])
    print("    limits of their excess:", [round(z, 1) for z in lone_limit.tolist()], flush=True)
    return replace(
        knot, critical=critical, largest=largest, lone_share=lone_share, lone_limit=lone_limit
    )


def _fitted_brownian(
    side: int, y: Tensor, boxes: Tensor, true: Tensor, smooth: dict[str, Tensor]
) -> Knot:
    mean = torch.linalg.lstsq(polynomials(true, _MEAN_DEGREE), y).solution
    residual = (y - polynomials(true, _MEAN_DEGREE) @ mean) * boxes.sqrt()[:, None]
    basis = polynomials(true, _SCALE_DEGREE)
    log_scale = torch.linalg.lstsq(basis, 0.5 * (residual**2 + 1e-12).log()).solution
    standard = residual / (basis @ log_scale).exp()
    log_scale[0] += 0.5 * standard.square().mean(0).log()
    standard = residual / (basis @ log_scale).exp()
    weights = hat_weights(true, CORRELATION_KNOTS)
    products = torch.einsum("nk,ni,nj->kij", weights, standard, standard)
    return Knot(
        side=side,
        mean=mean,
        log_scale=log_scale,
        correlation=products / weights.sum(0)[:, None, None],
        critical=torch.zeros(len(CRITICAL_KNOTS), len(LEVELS)),
        largest=torch.zeros(()),
        lone_share=torch.zeros(len(CRITICAL_KNOTS)),
        lone_limit=torch.zeros(len(CRITICAL_KNOTS)),
        **smooth,
    )


def _excess(knot: Knot, y: Tensor, boxes: Tensor, true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q(true D) - min Q, the misfit at the least, and where that is, `[N]`."""
    grid = torch.arange(1, 2.0025, 0.005, dtype=torch.float64)
    least, misfit, found = [], [], []
    for part, count in zip(y.split(500), boxes.split(500), strict=True):
        q, form = likelihood(knot, part, count, grid)
        best = q.min(1)
        least.append(best.values)
        misfit.append(form.gather(1, best.indices[:, None])[:, 0] / y.shape[1])
        found.append(grid[best.indices])
    at_truth = torch.empty_like(true)
    for dimension in true.unique():
        same = true == dimension
        at_truth[same] = likelihood(knot, y[same], boxes[same], dimension[None])[0][:, 0]
    return (at_truth - torch.cat(least)).clamp(min=0), torch.cat(misfit), torch.cat(found)


def _local_quantiles(excess: Tensor, true: Tensor, at: Tensor) -> Tensor:
    """Quantiles at `LEVELS` of the boundaries nearest in dimension."""
    near = _near(excess, true, at)
    return torch.quantile(near, torch.tensor(LEVELS, dtype=torch.float64))


def _near(values: Tensor, dimensions: Tensor, at: Tensor) -> Tensor:
    """Values of the tenth of the boundaries whose dimensions are nearest."""
    return values[(dimensions - at).abs().argsort()[: len(values) // 10]]


def _fitted_lone(statistics: BoundaryStatistics, found: Tensor) -> tuple[Tensor, Tensor]:
    """The share of lone cells at each estimated dimension, and limits of their excess."""
    near = hat_weights(found, CRITICAL_KNOTS)
    edges = statistics.counts[:, :1].sqrt()
    targets = statistics.lone[:, None] / edges
    share = torch.linalg.lstsq(near * edges, targets).solution[:, 0].clamp(min=0)
    excess = lone_excess(statistics, near @ share).abs()
    largest = torch.stack([_near(excess, found, at).max() for at in CRITICAL_KNOTS])
    return share, _MARGIN * largest


def _fitted_smooth(statistics: dict[str, BoundaryStatistics]) -> dict[str, Tensor]:
    """Coefficients of m and log s by maximum likelihood of Student errors, and quantiles of z."""
    slope, for_mean, for_scale = (
        torch.cat(parts) for parts in zip(*map(smooth_slope, statistics.values()), strict=True)
    )
    mean = torch.zeros(for_mean.shape[1], dtype=torch.float64, requires_grad=True)
    log_scale = torch.zeros(for_scale.shape[1], dtype=torch.float64)
    log_scale[0] = -4
    log_scale.requires_grad_()
    optimizer = torch.optim.LBFGS([mean, log_scale], max_iter=1000, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        width = for_scale @ log_scale
        z = (slope - 1 - for_mean @ mean) / width.exp()
        value = (width + (_FREEDOM + 1) / 2 * torch.log1p(z**2 / _FREEDOM)).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    mean, log_scale = mean.detach(), log_scale.detach()
    z = (slope - 1 - for_mean @ mean) / (for_scale @ log_scale).exp()
    tails = (1 - torch.tensor(LEVELS, dtype=torch.float64)) / 2
    quantiles = torch.stack([torch.quantile(z, tails), torch.quantile(z, 1 - tails)])
    return {"smooth_mean": mean, "smooth_log_scale": log_scale, "smooth_z": quantiles}


if __name__ == "__main__":
    main()
