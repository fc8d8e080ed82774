"""The run folder of a study: parts of runs that are computed together and finished together.

    config.toml        all settings
    environment.json   versions, instruction set, threads, commit of the last sitting
    runs.jsonl         a JSON object for each run and step of the finished parts
    summary.json, report.md, figures    when all parts are finished
    tiles/, state.sqlite, .lock         see `sweeps.store`; a part is a tile
    checkpoints/       of parts that are not finished

What is finished is in the store. runs.jsonl is made from it: at the start, and with each part.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from fractalkern import build_info
from fractalkern.errors import InputError
from fractalkern.experiments.environment import environment
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.study.scalars import Label, Series, from_arrays, lines, rows, to_arrays
from fractalkern.experiments.study.trackers import Tracker
from fractalkern.sweeps.files import sync_folder, write_atomically, writing
from fractalkern.sweeps.store import Store


@dataclasses.dataclass(frozen=True)
class Part:
    """Runs that are trained together.

    Attributes:
        name: for people.
        runs: the label of each: its number in the study as "run", and whatever tells it from
            others, as JSON values.
    """

    name: str
    runs: tuple[Label, ...]


class Study:
    """An open run folder; a context manager.

    Args:
        out: made if absent; must be empty or hold a study of the same kind, settings, parts and
            inputs.
        kind: the name of the experiment and of its verb.
        config: a frozen dataclass that `settings.to_toml` can write.
        parts: what there is to compute.
        inputs: what else the results depend on, such as the digest of a file, as JSON values.
        tracker: where the scalars go besides.

    Finished parts that are found altered are named on stderr and computed again.

    Raises:
        InputError: as `sweeps.store.Store`.

    >>> import dataclasses, tempfile, torch
    >>> from pathlib import Path
    >>> from fractalkern.experiments.study import Part, Series, Study
    >>> Config = dataclasses.make_dataclass("Config", [("steps", int, 2)], frozen=True)
    >>> parts = [Part("both", ({"run": 0, "arm": "none"}, {"run": 1, "arm": "fixed"}))]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Study(Path(folder), "example", Config(), parts) as study:
    ...         for number in study.missing():
    ...             series = {"train": Series([1, 2], {"loss": torch.rand(2, 2)})}
    ...             study.commit(number, series, {}, seconds=1.0)
    ...     (Path(folder) / "runs.jsonl").read_text().count("loss")
    4
    """

    def __init__(
        self,
        out: Path,
        kind: str,
        config: Any,
        parts: Sequence[Part],
        *,
        inputs: Mapping[str, object] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.out, self.kind, self.parts = out, kind, list(parts)
        self._tracker = tracker
        self._store = Store(out, kind, _identity(config, self.parts, inputs or {}))
        for damage in self._store.damaged:
            print(f"{damage}; computing it again", file=sys.stderr)
        try:
            write_atomically(out / "config.toml", to_toml(config).encode())
            write_json(out / "environment.json", environment())
            self._write_rows()
        except BaseException:
            self.close()
            raise

    def missing(self) -> list[int]:
        """The numbers of the parts that are still to be computed."""
        finished = self._store.finished()
        return [number for number in range(len(self.parts)) if number not in finished]

    def checkpoint(self, number: int) -> Path:
        """Where an unfinished part may keep its state; removed when the part is finished."""
        folder = self.out / "checkpoints"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        return folder / f"{number:05d}.safetensors"

    def commit(
        self,
        number: int,
        series: Mapping[str, Series],
        arrays: Mapping[str, Tensor],
        seconds: float,
        files: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Makes part `number` durable and adds its scalars to runs.jsonl.

        Args:
            number: of the part.
            series: scalars by the name of what they were taken of, such as "train".
            arrays: anything else that the report needs, by names without "/".
            seconds: what computing the part took.
            files: what else it leaves, (NAME or FOLDER/NAME, content) one after the other. All are
                complete before the part counts as finished.
        """
        part = self.parts[number]
        for name, one in series.items():
            one.check(name, len(part.runs))
        for name, content in files:
            self._write(name, content)
        own = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
        self._store.commit(number, {**to_arrays(series), **own}, seconds)
        path = self.out / "runs.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.writelines(lines(part.runs, series))
        self.checkpoint(number).unlink(missing_ok=True)
        if self._tracker is not None:
            _track(self._tracker, part, series)

    def load(self, number: int) -> tuple[dict[str, Series], dict[str, Tensor]]:
        """The series and the other arrays of a finished part."""
        return from_arrays(self._store.load(number))

    def seconds(self) -> float:
        """Time spent on the folder in all sittings."""
        return self._store.seconds()

    def compute_seconds(self) -> float:
        """Time spent computing the finished parts."""
        return self._store.compute_seconds()

    def finish(
        self, summary: Mapping[str, object], report: str, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Writes summary.json, report.md and further files by name, such as figures."""
        for name, data in (files or {}).items():
            write_atomically(self.out / name, data)
        write_json(self.out / "summary.json", summary)
        write_atomically(self.out / "report.md", report.encode())

    def close(self) -> None:
        """Releases the folder."""
        self._store.close()

    def __enter__(self) -> "Study":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt or (kind is not None and issubclass(kind, InputError)):
            self._say_how_to_go_on("Interrupted" if kind is KeyboardInterrupt else "Stopped")
        self.close()

    def _write(self, name: str, content: bytes) -> None:
        path = self.out / name
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
            sync_folder(self.out)
        write_atomically(path, content)

    def _write_rows(self) -> None:
        """All rows anew: a killed process may have left half a line, or a part without lines."""
        done = [number for number in range(len(self.parts)) if number in self._store.finished()]
        text = "".join(line for n in done for line in lines(self.parts[n].runs, self.load(n)[0]))
        write_atomically(self.out / "runs.jsonl", text.encode())

    def _say_how_to_go_on(self, what: str) -> None:
        done = len(self.parts) - len(self.missing())
        words = ["fractalkern", self.kind, "--config", str(self.out / "config.toml")]
        words += ["--out", str(self.out)]
        if self._tracker is not None:
            words += ["--tracker", self._tracker.name]
        print(
            f"{what}: {done} of {len(self.parts)} parts are finished and kept. "
            f"To go on: {shlex.join(words)}",
            file=sys.stderr,
        )


def _track(tracker: Tracker, part: Part, series: Mapping[str, Series]) -> None:
    for place, label in enumerate(part.runs):
        name = "-".join(str(value) for value in label.values())
        try:
            tracker.add(name, label, rows(place, series))
        except Exception as error:  # whatever another package and its service raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"tracker must be one that takes the scalars, but {tracker.name} failed with run "
                f"{name}: {reason[0]}; the run is kept, and in runs.jsonl"
            ) from error


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """An indented JSON object; what it holds must be finite."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _identity(
    config: Any, parts: Sequence[Part], inputs: Mapping[str, object]
) -> dict[str, object]:
    """Everything that the results depend on, which a resumed study must share."""
    info = build_info()
    return {
        **dataclasses.asdict(config),
        **inputs,
        "parts": [part.name for part in parts],
        "fractalkern": info["version"],
        "instruction_set": info["instruction_set"],
    }
