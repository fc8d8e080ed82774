"""The movie of a zoom: from frame to frame at constant speed, colours by rank, cross-faded.

Between two frames the width shrinks exponentially about the point that stays in place, and the
ranks that a value is coloured by go from those of the outer frame to those of the inner one as
sin^2(pi t / 2), both as in the original. Where the inner frame is known its finer cells fade in
over the outer frame's, softly at its edge.
"""

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fractalkern.errors import BackendError, InputError
from fractalkern.experiments.trainability.figures import rank_stretch
from fractalkern.experiments.zoom.frames import Frame
from fractalkern.experiments.zoom.windows import smaller_side
from fractalkern.sweeps.files import write_atomically, writing
from fractalkern.sweeps.progress import Meter, display

Picture = NDArray[np.uint8]  # [size, size, 3]
Floats = NDArray[np.float64]
Write = Callable[[Iterable[Picture], int, "Movie", Path], None]

_MOST_SAMPLES = 4  # an axis of a pixel
_SOFT_EDGE = 0.08  # of the inner frame's side
_COLOURS = 1024
_LONGEST_HOLD = 600  # seconds: a GIF counts hundredths in 16 bits


@dataclass(frozen=True)
class Movie:
    """How a zoom is shown."""

    size: int = 480
    """Pixels along each side."""
    frames_per_doubling: int = 45
    """Pictures while the width halves; the original has 45."""
    fps: int = 30
    """Pictures a second; in a GIF rounded to whole hundredths of a second a picture."""
    hold: float = 1.0
    """Seconds that the first and the last picture stay."""
    colours: int = 64
    """Colours of a GIF, which decide its size."""

    def checked(self, suffix: str) -> "Movie":
        """Itself.

        Raises:
            InputError: a value is out of range for a file of that kind.
        """
        for name, least, most in (
            ("size", 16, 4096),
            ("frames_per_doubling", 1, 1000),
            ("fps", 1, 50 if suffix == ".gif" else 240),
            ("colours", 4, 256),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    f"{name} must be from {least} to {most}, got {getattr(self, name)}"
                )
        if not 0 <= self.hold <= _LONGEST_HOLD:
            raise InputError(f"hold must be from 0 to {_LONGEST_HOLD} seconds, got {self.hold}")
        if suffix == ".mp4" and self.size % 2:
            raise InputError(f"size must be even for .mp4, got {self.size}")
        return self


def animate(frames: list[Frame], movie: Movie, out: Path) -> int:
    """Writes a .gif or .mp4 of a path's frames; returns how many pictures it has, holds left out.

    Raises:
        InputError: no frames, another suffix, a setting out of range, or a path that cannot be
            written.
        BackendError: .mp4 without imageio-ffmpeg.
    """
    if not frames:
        raise InputError("frames must hold at least one frame, got none")
    if out.suffix not in (".gif", ".mp4"):
        raise InputError(f"out must end in .gif or .mp4, got {str(out)!r}")
    movie.checked(out.suffix)
    write = _write_gif if out.suffix == ".gif" else _mp4_writer()
    total = picture_count(frames, movie)
    meter = _PictureMeter(total, 0, 1)
    with display("animate", meter) as shown:

        def counted() -> Iterator[Picture]:
            for picture in pictures(frames, movie):
                yield picture
                shown.advance(1)

        write(counted(), total, movie, out)
    return total


class _PictureMeter(Meter):
    def text(self) -> str:
        return f"{self.done:,} of {self.total:,} pictures"


def picture_count(frames: list[Frame], movie: Movie) -> int:
    """Pictures that `pictures` yields."""
    return 1 + sum(_between(outer, inner, movie) for outer, inner in itertools.pairwise(frames))


def _between(outer: Frame, inner: Frame, movie: Movie) -> int:
    doublings = math.log2(smaller_side(outer.window) / smaller_side(inner.window))
    return max(1, round(doublings * movie.frames_per_doubling))


def pictures(frames: list[Frame], movie: Movie) -> Iterator[Picture]:
    """All pictures from the first frame to the last, each of which is shown whole once."""
    for outer, inner in itertools.pairwise(frames):
        pair = _Pair(outer, inner, movie)
        steps = _between(outer, inner, movie)
        for step in range(steps):
            yield pair.at(step / steps)
    last = frames[-1]
    yield _Pair(last, last, movie).at(0.0)


class _Pair:
    """Two frames that follow each other, with the colours of both by the ranks of each."""

    def __init__(self, outer: Frame, inner: Frame, movie: Movie) -> None:
        values = [frame.value.double().numpy() for frame in (outer, inner)]
        # [frame shown][frame whose ranks colour it]
        self._stretched = [[rank_stretch(value, by) for by in values] for value in values]
        self._size = movie.size
        self._zooms = outer is not inner
        self._start, self._ratio = _place(outer, inner)
        n = len(values[0])
        samples = math.ceil(n / self._ratio[0] / movie.size)
        self._samples = min(max(samples, 1), _MOST_SAMPLES)

    def at(self, t: float) -> Picture:
        """The picture at a share t of the way, in [0, 1)."""
        fade = math.sin(math.pi * t / 2) ** 2
        outer, inner = ((1 - fade) * by[0] + fade * by[1] for by in self._stretched)
        # Pixel centres along each axis as shares of the outer and of the inner frame.
        pixels = (np.arange(self._size * self._samples) + 0.5) / (self._size * self._samples)
        outside, inside = [], []
        for start, ratio in zip(self._start, self._ratio, strict=True):
            if self._zooms:
                fixed = start / (1 - ratio)
                place = fixed + (pixels - fixed) * ratio**t
            else:
                place = pixels
            outside.append(place)
            inside.append((place - start) / ratio)
        picture = _coloured(_sampled(outer, *outside))
        if self._zooms and t > 0:
            edge = [np.clip(np.minimum(u, 1 - u) / _SOFT_EDGE, 0, 1) for u in inside]
            weight = edge[1][:, None] * edge[0] * min(1.0, 2 * fade)
            finer = _coloured(_sampled(inner, *inside))
            picture += weight[..., None] * (finer - picture)
        shape = (self._size, self._samples) * 2
        mean = picture.reshape(*shape, 3).mean(axis=(1, 3))
        upright: Picture = np.rint(mean[::-1]).astype(np.uint8)  # the origin is below
        return upright


def _place(outer: Frame, inner: Frame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the inner frame begins along each axis, and its side, as shares of the outer's."""
    start, ratio = [], []
    for axis in (0, 2):
        (low, high), (inner_low, inner_high) = (_extent(frame, axis) for frame in (outer, inner))
        start.append((inner_low - low) / (high - low))
        ratio.append((inner_high - inner_low) / (high - low))
    return (start[0], start[1]), (ratio[0], ratio[1])


def _extent(frame: Frame, axis: int) -> tuple[float, float]:
    """The outer edges of the cells, whose centres the window begins and ends with."""
    low, high = frame.window[axis : axis + 2]
    half = (high - low) / (len(frame.value) - 1) / 2
    return low - half, high + half


def _sampled(cells: Floats, columns: Floats, rows: Floats) -> Floats:
    """The cell at each place; 0 and 1 are the outer edges of the outermost cells."""
    n = len(cells)
    r, c = (np.clip(np.floor(place * n), 0, n - 1).astype(np.int64) for place in (rows, columns))
    sampled: Floats = cells[np.ix_(r, c)]
    return sampled


_MAP: Floats = (
    matplotlib.colormaps["Spectral"](np.linspace(0, 1, _COLOURS))[:, :3].astype(np.float64) * 255
)


def _coloured(stretched: Floats) -> Floats:
    # Negated as in the original, so that converged is the blue end of the map.
    index = np.rint((1 - stretched) / 2 * (_COLOURS - 1)).astype(np.int64)
    coloured: Floats = _MAP[index]
    return coloured


def _write_gif(made: Iterable[Picture], total: int, movie: Movie, out: Path) -> None:
    palette = _palette(movie.colours)

    def indexed() -> Iterator[Image.Image]:
        for picture in made:
            image = Image.fromarray(picture)
            yield image.quantize(palette=palette, dither=Image.Dither.NONE)

    images = indexed()
    first = next(images)
    hundredths = max(2, round(100 / movie.fps))
    durations = [10 * hundredths] * total
    for end in {0, total - 1}:
        durations[end] += round(movie.hold * 1000)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"duration": durations if total > 1 else durations[0], "loop": 0}
    first.save(buffer, format="GIF", save_all=True, append_images=images, optimize=False, **options)
    write_atomically(out, buffer.getvalue())


def _palette(colours: int) -> Image.Image:
    """Colours of the two used parts of the map, and some between them for soft pixels."""
    ranks = np.concatenate([np.linspace(-1, -0.25, 2 * colours), np.linspace(0.25, 1, 2 * colours)])
    ramp = _coloured(ranks)
    # Where cells of both signs share a pixel: a quarter as many mixtures of any two.
    left, right = ramp[:: colours // 2], ramp[colours // 4 :: colours // 2]
    mixtures = ((left[:, None] + right) / 2).reshape(-1, 3)
    sheet = np.concatenate([np.repeat(ramp, 4, axis=0), mixtures])
    image = Image.fromarray(np.rint(sheet[None]).astype(np.uint8))
    return image.quantize(colours, method=Image.Quantize.MEDIANCUT)


def _mp4_writer() -> Write:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise BackendError(
            "writing .mp4 needs imageio-ffmpeg, which is not installed: "
            "pip install 'fractalkern[video]', or write a .gif"
        ) from error

    def write(made: Iterable[Picture], total: int, movie: Movie, out: Path) -> None:
        beside = out.with_name(f".{out.stem}.tmp.mp4")
        held = round(movie.hold * movie.fps)
        writer = imageio_ffmpeg.write_frames(
            str(beside),
            (movie.size, movie.size),
            fps=movie.fps,
            codec="libx264",
            quality=8,
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        with writing(out):
            beside.touch()  # a folder that cannot be written in is named before ffmpeg starts
            writer.send(None)
            try:
                for number, picture in enumerate(made):
                    ends = (number == 0) + (number == total - 1)
                    for _ in range(1 + held * ends):
                        writer.send(np.ascontiguousarray(picture))
            finally:
                writer.close()
            beside.replace(out)

    return write
