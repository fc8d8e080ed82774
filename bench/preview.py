"""How much a preview computes and what it misses, against full grids: `python -m bench.preview`.

Every condition's first view is trained in full, the preview is made from those cells, and both are
compared. Full grids go through run folders, so that a stopped study goes on where it was.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import safetensors.torch

from fractalkern.experiments.environment import environment
from fractalkern.experiments.trainability import run as experiment
from fractalkern.experiments.trainability.config import Condition, TrainabilityConfig
from fractalkern.sweeps.refinement import Cells, refine

RESULT = Path(__file__).parent / "results" / "preview.json"


def row(config: TrainabilityConfig, out: Path) -> dict[str, object]:
    """One condition: shares computed and missed, and the bound that the preview stated."""
    print(f"{config.condition}, width {config.width}", flush=True)
    experiment.run(config, out)
    grid = safetensors.torch.load_file(out / "grid.safetensors")
    value, label = grid["value"].numpy().ravel(), grid["converged"].numpy().ravel()
    n = config.resolution

    def evaluate(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        return value[cells], label[cells]

    found = refine(evaluate, (n, n), seed=config.seed)
    wrong = int((found.label.ravel() != label).sum())
    # A sample of a single cell finds nothing to repair.
    bare = refine(evaluate, (n, n), seed=config.seed, sample=1e-9)
    assert not bare.repaired
    missed = int((bare.label.ravel() != label).sum())
    assert (found.label.ravel() == label)[found.computed.ravel()].all()
    return {
        "condition": config.condition,
        "width": config.width,
        "steps": config.steps,
        "resolution": n,
        "computed_fraction": found.computed_fraction,
        "sampled": found.sampled,
        "missed_in_sample": found.missed,
        "repaired": found.repaired,
        "missed_bound_of_skipped": found.missed_bound,
        "missed_before_repair": missed,
        "missed_fraction_of_skipped": missed / found.skipped_before_repair,
        "wrong_cells": wrong,
        "wrong_fraction_of_skipped": wrong / int((~found.computed).sum()),
        "wrong_fraction_of_grid": wrong / found.label.size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--conditions", nargs="*", default=Condition.__args__)
    parser.add_argument("--runs", type=Path, default=Path("runs", "preview-study"))
    parser.add_argument("--out", type=Path, default=RESULT, help="rows are added or replaced here")
    options = parser.parse_args()
    base = TrainabilityConfig(width=options.width, steps=100, resolution=options.resolution)
    study = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    for condition in options.conditions:
        config = dataclasses.replace(base, condition=condition)
        new = row(config, options.runs / f"{condition}-{config.width}-{config.resolution}")
        key = ("condition", "width", "steps", "resolution")
        others = [old for old in study["rows"] if any(old[k] != new[k] for k in key)]
        study = {"environment": environment(), "rows": [*others, new]}
        options.out.write_text(json.dumps(study, indent=2) + "\n")


if __name__ == "__main__":
    main()
