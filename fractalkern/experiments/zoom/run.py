"""Computes a zoom into a run folder."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fractalkern.edges import boundary
from fractalkern.experiments.environment import arithmetic, environment
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.zoom import figures, report
from fractalkern.experiments.zoom.config import ZoomConfig
from fractalkern.experiments.zoom.frames import Frame, FrameStore
from fractalkern.experiments.zoom.measure import Measured
from fractalkern.experiments.zoom.rounding import rates_are_distinct
from fractalkern.experiments.zoom.windows import (
    Window,
    densest_window,
    random_window,
    smaller_side,
)
from fractalkern.sweeps.files import write_atomically
from fractalkern.sweeps.progress import Meter, display
from fractalkern.sweeps.store import Store


@dataclass(frozen=True)
class Level:
    """One frame's place and what was measured there.

    Attributes:
        flipped: share of the labels beside the boundary that change one unit in the last place on;
            None without a boundary.
        trusted: whether that share is within the limit.
    """

    path: int
    level: int
    window: Window
    converged_fraction: float
    measured: Measured
    flipped: float | None
    trusted: bool


@dataclass(frozen=True)
class Zoom:
    """All levels of all paths, and for each path that ended early why it did."""

    config: ZoomConfig
    levels: tuple[Level, ...]
    ends: dict[int, str]
    compute_seconds: float
    seconds: float

    def at(self, level: int) -> list[Level]:
        """The frames of a level, one a path; the first frame is listed once."""
        return [entry for entry in self.levels if entry.level == level]


def run(config: ZoomConfig, out: Path) -> str:
    """Computes what `out` lacks, writes the files below, returns the report's text.

    config.toml       all settings
    environment.json  versions, instruction set, threads, commit of the last sitting
    frames/           pathPP-levelLLL.safetensors: value, converged `[N, N]`, axis0, axis1 `[N]`
    results.json      each frame's window, dimension and test for rounding; the table over levels,
                      and one dimension for all frames, or why there is none
    zoom.png          the first path's frames, and dimension against width
    tiles/, state.sqlite, .lock    see `sweeps.store`

    Killed at any moment, it goes on with the tile it was at.

    Raises:
        InputError: a setting is out of range, or `out` cannot hold this run.
        KeyboardInterrupt: after printing how to go on; finished tiles are kept.
    """
    return report.text(zoom(config, out), out)


def zoom(config: ZoomConfig, out: Path) -> Zoom:
    """The same, but returns what was found."""
    config.checked()
    with Store(out, "zoom", _identity(config)) as store:
        write_atomically(out / "config.toml", to_toml(config).encode())
        write_atomically(out / "environment.json", _json(environment()))
        try:
            found, first_path = _follow(config, store)
        except KeyboardInterrupt:
            _explain_interrupt(store)
            raise
        write_atomically(out / "results.json", _json(report.results(found)))
        write_atomically(out / "zoom.png", figures.overview(found, first_path))
        return found


def _identity(config: ZoomConfig) -> dict[str, object]:
    """Everything that the bits of the results depend on, which a resumed run must share."""
    return {**dataclasses.asdict(config), **arithmetic(config.device)}


def _follow(config: ZoomConfig, store: Store) -> tuple[Zoom, list[Frame]]:
    entries: dict[tuple[int, int], Level] = {}
    ends: dict[int, str] = {}
    cells = config.resolution**2
    meter = Meter(config.frame_count * cells, 0, config.steps, at_most=True)
    first_path = []
    with display(f"zoom {config.condition}", meter) as shown:
        for damage in store.damaged:
            shown.note(f"{damage}; computing it again")
        frames = FrameStore(config, store, shown)
        for path in range(config.path_count):
            for frame, entry, end in _follow_path(config, frames, path):
                entries.setdefault((0 if frame.level == 0 else path, frame.level), entry)
                if path == 0:
                    first_path.append(figures.thumbnail(frame))
                if end:
                    ends[path] = end
                    shown.note(f"path {path}: {end}")
    seconds = store.compute_seconds(), store.seconds()
    return Zoom(config, tuple(entries.values()), ends, *seconds), first_path


def _follow_path(
    config: ZoomConfig, frames: FrameStore, path: int
) -> Iterator[tuple[Frame, Level, str | None]]:
    """Frames of one path with what was measured, and at its last one why it ends early."""
    window = config.first_window
    for level in range(config.depth + 1):
        frame = frames.frame(path, level, window)
        edges = boundary(frame.converged)
        share = frames.flipped_share(frame, edges) if edges.any() else None
        trusted = share is None or share <= config.flips
        entry = Level(
            0 if level == 0 else path,
            level,
            window,
            frame.converged.double().mean().item(),
            frames.measured(frame),
            share,
            trusted,
        )
        end, following = None, None
        if level < config.depth:
            following = _next_window(config, window, edges, path, level)
            end = _end(config, window, following, share)
        elif not trusted:
            end = _end(config, window, window, share)
        yield frame, entry, end
        if end or following is None:
            return
        window = following


def _next_window(
    config: ZoomConfig, window: Window, edges: Tensor, path: int, level: int
) -> Window | None:
    """None where the rule needs a boundary and there is none."""
    if config.path == "window":
        return config.window_path()[level + 1]
    if not edges.any():
        return None
    if config.path == "densest":
        return densest_window(window, edges, config.factor)
    return random_window(window, edges, config.factor, seed=config.seed, path=path, level=level)


def _end(
    config: ZoomConfig, window: Window, following: Window | None, share: float | None
) -> str | None:
    """Why a path ends at this window, or None."""
    width = smaller_side(window)
    if following is None:
        return f"ends at a width of {width:.3g} decades: there is no boundary"
    if share is not None and share > config.flips:
        return (
            f"ends at a width of {width:.3g} decades: {share:.1%} of the labels beside the "
            f"boundary change when the rates move by one unit in the last place of {config.dtype}"
        )
    if not rates_are_distinct(config.view(following)):
        return (
            f"ends at a width of {width:.3g} decades: at {smaller_side(following):.3g} the rates "
            f"of neighbouring cells are no longer distinct in {config.dtype}"
        )
    return None


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _explain_interrupt(store: Store) -> None:
    command = ["fractalkern", "zoom", "--config", str(store.folder / "config.toml")]
    command += ["--out", str(store.folder)]
    print(
        f"Interrupted: {len(store.finished())} tiles are finished and kept. "
        f"To go on: {shlex.join(command)}",
        file=sys.stderr,
    )
