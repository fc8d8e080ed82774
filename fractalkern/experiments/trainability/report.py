"""The numbers of a run, as JSON and as text."""

import json
from pathlib import Path

from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.findings import CONTROL_LINES, Findings


def summary(
    config: TrainabilityConfig, findings: Findings, compute_seconds: float, seconds: float
) -> dict[str, object]:
    """The content of summary.json.

    `network_steps_per_second` is cells times steps over the time spent training the tiles; a
    network that stops early, its remaining steps proven, counts all its steps. `seconds` is the
    time of all sittings, with everything else they did.
    """
    fit = findings.dimension
    return {
        "condition": config.condition,
        "cells": config.cells,
        "steps": config.steps,
        "converged_fraction": findings.converged_fraction,
        "boundary_cells": findings.boundary_cells,
        "dimension": fit and float(fit),
        "dimension_estimate": fit and json.loads(fit.to_json()),
        "dimension_missing_because": findings.reason,
        "control_dimension": findings.control_dimension,
        "control_dimension_range": [
            min(float(line) for line in findings.control),
            max(float(line) for line in findings.control),
        ],
        "control_lines": CONTROL_LINES,
        "network_steps_per_second": config.cells * config.steps / compute_seconds,
        "compute_seconds": compute_seconds,
        "seconds": seconds,
    }


def text(
    config: TrainabilityConfig, findings: Findings, numbers: dict[str, object], out: Path
) -> str:
    """What the command prints at its end."""
    fit = findings.dimension
    boundary = f"none: {findings.reason}"
    if fit is not None:
        (estimate,) = fit.describe()
        boundary = "; ".join(
            [f"{estimate} ({findings.boundary_cells:,} boundary cells)", *fit.warnings]
        )
    lines = [
        f"converged   {findings.converged_fraction:.1%} of {config.cells:,} networks",
        f"dimension   {boundary}",
        f"control     {findings.control_dimension:.3f} (mean of {CONTROL_LINES} straight lines "
        "on the same grid)",
        f"speed       {numbers['network_steps_per_second']:,.0f} network-steps/s "
        f"(steps that an early exit proved count as done); {numbers['seconds']:.1f} s in all "
        "sittings",
        f"files       {out / 'fractal.png'}, dimension.png, summary.json, grid.safetensors",
        _provenance(config),
    ]
    return "\n".join(lines)


def _provenance(config: TrainabilityConfig) -> str:
    changed = deviations(config)
    exception = f" except for {', '.join(changed)}" if changed else " exactly"
    return (
        f"The settings are those of the original (Sohl-Dickstein, 2024){exception}; the random "
        f"numbers are not: they are Philox4x32-10 keyed by --seed {config.seed}."
    )


def deviations(config: TrainabilityConfig) -> list[str]:
    """How a run differs from the original; the original's setting stands in brackets.

    The window is no deviation: the original zooms.
    """
    changed = []
    if config.width != 16:
        changed.append(f"width {config.width} (16)")
    if config.steps not in (500, 1000):
        changed.append(f"steps {config.steps} (500 or 1,000)")
    if config.resolution != 4096:
        changed.append(f"resolution {config.resolution} (4,096)")
    if config.dtype != "float64":
        changed.append(f"dtype {config.dtype} (float64)")
    if config.condition == "tanh-minibatch" and config.minibatch != 16:
        changed.append(f"minibatch {config.minibatch} (16)")
    if config.condition == "init-offset":
        changed.append("the offset is added only once")
    if config.protocol == "fixed":
        changed.append("runs whose last losses are not all finite count as diverged")
    return changed
