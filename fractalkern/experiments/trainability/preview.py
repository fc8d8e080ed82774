"""A trainability grid from a part of its networks, by refinement, into a run folder."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from fractalkern.experiments.environment import environment
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.trainability import figures, report
from fractalkern.experiments.trainability.config import TrainabilityConfig
from fractalkern.experiments.trainability.findings import find
from fractalkern.experiments.trainability.run import explain_interrupt, identity
from fractalkern.experiments.trainability.training import axes, cell_trainer
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.progress import Display, Meter, display
from fractalkern.sweeps.refinement import CONFIDENCE, Cells, Evaluate, Mask, Refinement, refine
from fractalkern.sweeps.store import Store

# Cells that are stored at once, as many as a tile of a grid of 1,024 columns.
_CELLS_PER_BATCH = 4096


def run_preview(config: TrainabilityConfig, out: Path) -> str:
    """Trains only the networks near a change of label, and a sample of the others.

    Writes what `run` writes into `out` and returns the report's text. In grid.safetensors the value
    of a skipped cell is NaN, `converged` there is the label of its block, and `computed` says which
    cells were trained. Dimension and picture come from the labels. A killed preview goes on where
    it was, to the same bytes.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold this run.
    """
    config.checked()
    with Store(out, "trainability-preview", identity(config)) as store:
        write_atomically(out / "config.toml", to_toml(config).encode())
        write_atomically(out / "environment.json", _json(environment()))
        try:
            return _report(config, store, _refined(config, store))
        except KeyboardInterrupt:
            explain_interrupt(config, store, f"{len(store.finished())} batches", "--preview")
            raise


def _refined(config: TrainabilityConfig, store: Store) -> Refinement:
    n = config.resolution
    meter = Meter(config.cells, 0, config.steps, at_most=True)
    with display(f"preview {config.condition}", meter) as shown:
        for damage in store.damaged:
            shown.note(f"{damage}; computing it again")
        return refine(_stored(config, store, shown), (n, n), seed=config.seed)


def _stored(config: TrainabilityConfig, store: Store, shown: Display) -> Evaluate:
    """Trains cells batch by batch, or takes from the store what an earlier sitting trained.

    Which cells a batch holds follows from the batches before it, so a number identifies it.
    """
    train = cell_trainer(config)
    axis0, axis1 = (axis.to(getattr(torch, config.dtype)) for axis in axes(config))
    finished, number = store.finished(), 0

    def evaluate(cells: Cells) -> tuple[np.ndarray, Mask]:  # type: ignore[type-arg]
        nonlocal number
        values, labels = [], []
        for start in range(0, len(cells), _CELLS_PER_BATCH):
            batch = torch.from_numpy(cells[start : start + _CELLS_PER_BATCH])
            if number in finished:
                arrays = store.load(number)
            else:
                started = time.perf_counter()
                results = train(axis0[batch % len(axis0)], axis1[batch // len(axis0)])
                arrays = {name: results[name] for name in ("value", "converged")}
                store.commit(number, arrays, time.perf_counter() - started)
            values.append(arrays["value"])
            labels.append(arrays["converged"])
            number += 1
            shown.advance(len(batch))
        return np.concatenate(values), np.concatenate(labels)

    return evaluate


def _report(config: TrainabilityConfig, store: Store, found: Refinement) -> str:
    out = store.folder
    axis0, axis1 = axes(config)
    label = torch.from_numpy(found.label)
    grid = {
        "value": torch.from_numpy(found.value).to(getattr(torch, config.dtype)),
        "converged": label,
        "computed": torch.from_numpy(found.computed),
        "axis0": axis0,
        "axis1": axis1,
    }
    data = safetensors.torch.save(grid, {"config": to_toml(config)})
    write_atomically(out / "grid.safetensors", data)
    findings = find(torch.where(label, -1.0, 1.0), label, config.seed)
    note = f", preview: {found.computed_fraction:.1%} of them trained"
    picture = torch.from_numpy(found.shown())
    write_atomically(out / "fractal.png", figures.fractal(config, picture, findings, note))
    write_atomically(out / "dimension.png", figures.dimension(config, findings))
    numbers = report.summary(config, findings, store.compute_seconds(), store.seconds())
    rate = int(found.computed.sum()) * config.steps / store.compute_seconds()
    numbers |= {"network_steps_per_second": rate, "preview": _numbers(found)}
    write_atomically(out / "summary.json", _json(numbers))
    return f"{_text(found)}\n{report.text(config, findings, numbers, out)}"


def _numbers(found: Refinement) -> dict[str, object]:
    arrays = {"value", "label", "computed", "source"}
    return {
        "computed_fraction": found.computed_fraction,
        **{
            field.name: getattr(found, field.name)
            for field in dataclasses.fields(found)
            if field.name not in arrays
        },
        "missed_bound_confidence": CONFIDENCE,
        "missed_bound_of_grid": found.missed_bound_of_grid,
    }


def _text(found: Refinement) -> str:
    repaired = f", repaired with {found.repaired:,} cells more" if found.missed else ""
    return (
        f"preview     {int(found.computed.sum()):,} networks trained, {found.computed_fraction:.1%}"
        f" of the grid; of {found.sampled:,} skipped ones drawn at random {found.missed} had the "
        f"other label{repaired}; so at most {found.missed_bound:.3%} of the skipped "
        f"({found.missed_bound_of_grid:.3%} of the grid) have, with {CONFIDENCE:.0%} confidence"
    )


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
