"""`fractalkern animate`: the movie of a finished zoom."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fractalkern.commands.arguments import parsed
from fractalkern.experiments.zoom.animation import Movie, animate
from fractalkern.experiments.zoom.frames import load_path


@dataclass(frozen=True)
class Options:
    """Draws the movie of one path of a zoom: log-linear about the fixed point, colours by rank."""

    zoom: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
    """Folder of the zoom."""
    movie: tyro.conf.OmitArgPrefixes[Movie] = field(default_factory=Movie)
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("zoom.gif")
    """.gif, or .mp4 with the extra `video`."""
    path: int = 0
    """Which of the zoom's paths."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    options = parsed("animate", Options, arguments)
    frames = load_path(options.zoom, options.path)
    count = animate(frames, options.movie, options.out)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {count} pictures of {len(frames)} frames, {size:.2f} MB")
    return 0
