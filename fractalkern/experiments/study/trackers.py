"""Where else the scalars of a study go, besides runs.jsonl: TensorBoard, or the wandb API."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fractalkern.errors import InputError

Row = tuple[int, Mapping[str, float | None]]  # step, scalars


class Tracker(Protocol):
    """Is given each run when it is finished."""

    name: str

    def add(self, name: str, label: Mapping[str, object], rows: Iterable[Row]) -> None:
        """All scalars of one run."""


class _TensorBoard:
    """Event files in the run folder, a subfolder a run."""

    name = "tensorboard"

    def __init__(self, kind: str, out: Path) -> None:
        self._module = _module("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self._folder = out / "tensorboard"

    def add(self, name: str, label: Mapping[str, object], rows: Iterable[Row]) -> None:
        """All scalars of one run."""
        with self._module.SummaryWriter(str(self._folder / name)) as writer:
            for step, scalars in rows:
                for scalar, value in scalars.items():
                    if value is not None:
                        writer.add_scalar(scalar, value, step)


class _Wandb:
    """The wandb API, of wandb itself or of trackio: the study is the project, a run a run."""

    def __init__(self, kind: str, out: Path, package: str) -> None:
        self.name, self._project = package, f"fractalkern-{kind}"
        self._module = _module(package, package, package)

    def add(self, name: str, label: Mapping[str, object], rows: Iterable[Row]) -> None:
        """All scalars of one run."""
        self._module.init(project=self._project, name=name, config=dict(label))
        for step, scalars in rows:
            self._module.log({k: v for k, v in scalars.items() if v is not None}, step=step)
        self._module.finish()


_MAKERS: dict[str, Callable[[str, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": lambda kind, out: _Wandb(kind, out, "wandb"),
    "trackio": lambda kind, out: _Wandb(kind, out, "trackio"),
}
TRACKERS = ("none", *_MAKERS)


def tracker(name: str, kind: str, out: Path) -> Tracker | None:
    """The tracker of that name for a study of that kind in the folder `out`; None for "none".

    Raises:
        InputError: there is no such tracker, or its package is not installed.
    """
    if name not in TRACKERS:
        raise InputError(f"tracker must be one of {', '.join(TRACKERS)}, got {name!r}")
    return None if name == "none" else _MAKERS[name](kind, out)


def _module(module: str, tracker: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"tracker must be one whose package is installed, got {tracker!r}: "
            f"pip install {package} ({error})"
        ) from error
