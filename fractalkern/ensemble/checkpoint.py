"""The state of a fit in one file that is either absent, old or complete."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fractalkern.ensemble.recorder import Recorder
from fractalkern.ensemble.rows import Rows
from fractalkern.errors import InputError
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.store import differences


class Checkpoint:
    """A file bound to `settings`, JSON values that the results depend on."""

    def __init__(self, path: Path | str, settings: Mapping[str, Any], seconds: float) -> None:
        self.path = Path(path)
        self._settings = json.loads(json.dumps(settings))
        self._seconds, self._last = seconds, time.monotonic()
        self._tensors: dict[str, Tensor] = {}

    def due(self) -> bool:
        """Whether the last writing is long enough ago."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, recorder: Recorder, chunk: int, rows: Rows | None) -> None:
        """Everything recorded, and the rows of chunk number `chunk` if it is under way."""
        tensors = {"frozen_at": recorder.frozen_at}
        for kind, series in recorder.series.items():
            tensors |= {f"{kind}/{name}": tensor for name, tensor in series.values.items()}
        state: dict[str, Any] = {
            "settings": self._settings,
            "record": recorder.record,
            "chunk": chunk,
        }
        if rows is not None:
            state["step"] = rows.step
            tensors |= _rows_tensors(rows)
        # Copies: safetensors refuses tensors that share memory.
        data = safetensors.torch.save(
            {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()},
            {"fractalkern.ensemble": json.dumps(state)},
        )
        write_atomically(self.path, data)
        self._last = time.monotonic()

    def load(self, recorder: Recorder) -> int:
        """Puts what was recorded into `recorder`; the number of the chunk to go on with.

        Raises:
            InputError: the file is not a checkpoint or one of other settings.
        """
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                self._state = json.loads((file.metadata() or {})["fractalkern.ensemble"])
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(
                f"checkpoint must be a file that a fit wrote, but {self.path}: {error}; "
                "remove it or name another file"
            ) from error
        if changes := differences(self._state["settings"], self._settings):
            raise InputError(
                f"checkpoint must be of the same settings, but {self.path} is of others "
                f"({changes}); ask for the same ones or name another file"
            )
        recorder.record = self._state["record"]
        recorder.frozen_at = self._tensors["frozen_at"]
        for kind, series in recorder.series.items():
            series.values = _under(self._tensors, kind)
        return int(self._state["chunk"])

    @property
    def has_rows(self) -> bool:
        """Whether the loaded chunk was under way."""
        return "step" in self._state

    def restore(self, rows: Rows) -> None:
        """Puts the loaded state into rows of the same layout."""
        loaded = self._tensors
        rows.step = int(self._state["step"])
        rows.runs, rows.live = loaded["rows/runs"], loaded["rows/live"]
        device = rows.groups[0].flat.device
        for number, group in enumerate(rows.groups):
            stacks = {n: t.to(device) for n, t in _under(loaded, f"group{number}").items()}
            group.flat = stacks["flat"]
            group.grad = torch.zeros_like(group.flat)
            group.state, group.hyper = _under(stacks, "state"), _under(stacks, "hyper")
        rows.buffers = {n: t.to(device) for n, t in _under(loaded, "row_buffers").items()}
        rows.penalty_state = {n: t.to(device) for n, t in _under(loaded, "penalty").items()}


def _rows_tensors(rows: Rows) -> dict[str, Tensor]:
    tensors = {"rows/runs": rows.runs, "rows/live": rows.live}
    for number, group in enumerate(rows.groups):
        tensors[f"group{number}/flat"] = group.flat
        tensors |= {f"group{number}/state/{name}": t for name, t in group.state.items()}
        tensors |= {f"group{number}/hyper/{name}": t for name, t in group.hyper.items()}
    tensors |= {f"row_buffers/{name}": tensor for name, tensor in rows.buffers.items()}
    return tensors | {f"penalty/{name}": tensor for name, tensor in rows.penalty_state.items()}


def _under(tensors: Mapping[str, Tensor], folder: str) -> dict[str, Tensor]:
    prefix = f"{folder}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
