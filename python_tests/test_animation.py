import gc
import importlib.util
import io
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fractalkern.cli import main
from fractalkern.errors import BackendError, InputError
from fractalkern.experiments.trainability.figures import rank_stretch, restretch
from fractalkern.experiments.zoom import animation
from fractalkern.experiments.zoom.animation import Movie, animate, picture_count, pictures
from fractalkern.experiments.zoom.config import ZoomConfig
from fractalkern.experiments.zoom.frames import Frame
from fractalkern.experiments.zoom.run import run

QUICK = Movie(size=64, frames_per_doubling=4, fps=10, hold=0.5)


def sine(window, n=64):
    """A field that is a function of place, so that its zoom is known without a zoom."""
    low0, high0, low1, high1 = window
    x = torch.linspace(low0, high0, n, dtype=torch.float64)
    y = torch.linspace(low1, high1, n, dtype=torch.float64)
    return torch.sin(3 * x) + torch.cos(2 * y)[:, None] + 0.3 * torch.sin(9 * x) * y[:, None]


def frame(window, level=0, n=64, value=sine):
    values = value(window, n)
    return Frame(0, level, window, values, values < 0)


OUTER = (-3.0, 6.0, -3.0, 6.0)
INNER = (0.0, 4.5, -2.5, 2.0)
PATH = [frame(OUTER), frame(INNER, 1), frame((1.0, 3.25, -1.0, 1.25), 2)]


def test_ranks_by_another_frame():
    value = np.array([[-5.0, -1.0], [2.0, 8.0]])
    reference = np.array([[-4.0, -2.0, -0.5], [1.0, 3.0, np.inf]])
    stretched = rank_stretch(value, reference)
    # -5 is below all three negative ranks 0, 1, 2; -1 lies between the last two; 2 between 0 and 1.
    assert stretched[0].tolist() == [-1.0, -1.0 + 0.75 * 1.5 / 2]
    assert stretched[1].tolist() == [0.25 + 0.75 * 0.5 / 2, 0.25 + 0.75 * 1.5 / 2]
    assert np.array_equal(rank_stretch(reference, reference), restretch(reference))
    one_sign = rank_stretch(value, np.array([[1.0, 2.0]]))
    assert (one_sign[0] <= -0.25).all()
    assert (one_sign[1] >= 0.25).all()


def test_first_and_last_picture_are_the_first_and_last_frame():
    made = list(pictures(PATH, QUICK))
    assert len(made) == picture_count(PATH, QUICK) == 4 + 4 + 1
    for picture, shown in ((made[0], PATH[0]), (made[4], PATH[1]), (made[-1], PATH[2])):
        # One cell a pixel.
        expected = animation._coloured(restretch(shown.value.numpy()))[::-1]
        assert abs(picture - expected).max() <= 0.5


def test_between_frames_the_width_shrinks_exponentially_about_the_fixed_point(monkeypatch):
    places = []

    def spy(cells, columns, rows):
        places.append((columns, rows))
        return np.full((len(rows), len(columns)), 0.5)

    monkeypatch.setattr(animation, "_sampled", spy)
    pair = animation._Pair(PATH[0], PATH[1], QUICK)
    ends = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0 - 1e-12):
        places.clear()
        pair.at(t)
        columns, rows = places[0]
        sides = [(axis[1] - axis[0]) * len(axis) for axis in (columns, rows)]
        assert sides == pytest.approx([2.0**-t] * 2)
        # Of x = -3..6 and 0..4.5 the point 3 stays, of y = -3..6 and -2.5..2 the point -2. The
        # picture shows whole cells, so half of one more than the window at each end.
        for axis, point in ((columns, 3), (rows, -2)):
            fixed = (point + 3 + 9 / 126) / (9 * 64 / 63)
            start = axis[0] - (axis[1] - axis[0]) / 2
            assert start == pytest.approx(fixed * (1 - 2.0**-t), abs=1e-12)
        ends.append(columns[-1])
    assert ends == sorted(ends, reverse=True)


def test_a_zoom_of_a_smooth_field_shows_that_field():
    """Halfway the picture is the field on the window in between, to the colours of both ranks."""
    movie = Movie(size=128)
    outer, inner = frame(OUTER, n=256), frame(INNER, 1, n=256)
    picture = animation._Pair(outer, inner, movie).at(0.5).astype(float)
    half = 9 / 255 / 2
    side = (9 + 2 * half) * 2**-0.5
    left, bottom = (point + (-3 - half - point) * 2**-0.5 for point in (3, -2))
    offset = side / 256
    truth = sine(
        (left + offset, left + side - offset, bottom + offset, bottom + side - offset), 128
    ).numpy()
    mixed = (
        rank_stretch(truth, outer.value.numpy()) + rank_stretch(truth, inner.value.numpy())
    ) / 2
    expected = animation._coloured(mixed)[::-1]
    wrong = abs(picture - expected).max(axis=-1) > 30
    # Only pixels that a change of sign crosses may differ.
    assert wrong.mean() < 0.05


def test_colours_are_cross_faded_from_one_frames_ranks_to_the_others():
    constant = Frame(0, 0, OUTER, torch.full((32, 32), 5.0), torch.zeros(32, 32, dtype=torch.bool))
    ramp = torch.linspace(5.0, 90.0, 32 * 32).reshape(32, 32)
    pair = animation._Pair(constant, Frame(0, 1, INNER, ramp, ramp < 0), Movie(size=32))
    # The value 5 is of the only rank in the outer frame and of the lowest in the inner one.
    for t in (0.0, 0.3, 0.6):
        fade = math.sin(math.pi * t / 2) ** 2
        ranks = [rank_stretch(np.array([[5.0]]), f) for f in (np.full((9, 9), 5.0), ramp.numpy())]
        expected = animation._coloured((1 - fade) * ranks[0] + fade * ranks[1])[0, 0]
        assert pair.at(t)[0, -1].tolist() == pytest.approx(expected.tolist(), abs=1)


def test_seam_of_the_inner_frame_cannot_be_seen_in_a_smooth_field():
    outer, inner = frame(OUTER, n=200), frame(INNER, 1, n=200)
    positive = [Frame(0, f.level, f.window, f.value + 10, f.value + 10 < 0) for f in (outer, inner)]
    picture = animation._Pair(*positive, Movie(size=128)).at(0.4).astype(float)
    jumps = abs(np.diff(picture, axis=1)).max(axis=-1)
    assert jumps.max() < 60
    # No column has more contrast to its neighbour than the picture has elsewhere.
    columns = jumps.mean(axis=0)
    assert columns.max() < 3 * np.median(columns) + 3


def test_gif_has_every_picture_and_holds_both_ends(tmp_path):
    out = tmp_path / "zoom.gif"
    assert animate(PATH, QUICK, out) == 9
    with Image.open(out) as image:
        assert image.size == (64, 64)
        assert image.n_frames == 9
        assert image.info["loop"] == 0
        durations = []
        for number in range(9):
            image.seek(number)
            durations.append(image.info["duration"])
            shown = np.asarray(image.convert("RGB"), dtype=float)
            assert shown.std() > 20
        assert durations == [600, *[100] * 7, 600]
    assert [path.name for path in tmp_path.iterdir()] == ["zoom.gif"]


def test_gif_colours_are_near_the_true_ones(tmp_path):
    out = tmp_path / "zoom.gif"
    animate(PATH[:1], QUICK, out)
    (true,) = pictures(PATH[:1], QUICK)
    with Image.open(out) as image:
        shown = np.asarray(image.convert("RGB"), dtype=float)
    assert abs(shown - true).mean() < 5


def test_progress_counts_pictures(tmp_path, capsys):
    animate(PATH, QUICK, tmp_path / "zoom.gif")
    said = capsys.readouterr().err
    assert "animate: 0 of 9 pictures" in said
    assert "animate: 9 of 9 pictures" in said


def test_mp4_without_ffmpeg_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(BackendError, match=r"pip install 'fractalkern\[video\]'") as error:
        animate(PATH, QUICK, tmp_path / "zoom.mp4")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


class _Ffmpeg:
    """Takes what imageio_ffmpeg.write_frames takes and keeps it."""

    def __init__(self):
        self.sent, self.options, self.closed = [], None, False

    def write_frames(self, path, size, **options):
        self.options = options | {"path": path, "size": size}
        try:
            while True:
                picture = yield
                self.sent.append(picture.copy())
        finally:
            self.closed = True


def test_mp4_holds_both_ends_by_repeating_them(tmp_path, monkeypatch):
    ffmpeg = _Ffmpeg()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", ffmpeg)
    animate(PATH, QUICK, tmp_path / "zoom.mp4")
    assert len(ffmpeg.sent) == 9 + 2 * 5
    assert ffmpeg.closed
    assert ffmpeg.options["fps"] == 10
    for repeated in range(1, 6):
        assert np.array_equal(ffmpeg.sent[repeated], ffmpeg.sent[0])
        assert np.array_equal(ffmpeg.sent[-1 - repeated], ffmpeg.sent[-1])
    assert not np.array_equal(ffmpeg.sent[6], ffmpeg.sent[0])
    assert [path.name for path in tmp_path.iterdir()] == ["zoom.mp4"]


@pytest.mark.needs("video")
def test_mp4_is_a_film_of_that_size_and_length(tmp_path):
    import imageio_ffmpeg

    out = tmp_path / "zoom.mp4"
    animate(PATH, QUICK, out)
    with warnings.catch_warnings():  # the reader leaves its pipes to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        reader = imageio_ffmpeg.read_frames(str(out))
        about = next(reader)
        shown = [np.frombuffer(data, dtype=np.uint8).reshape(64, 64, 3) for data in reader]
        del reader
        gc.collect()
    assert about["size"] == (64, 64)
    assert about["fps"] == 10
    assert len(shown) == 9 + 2 * 5
    true = list(pictures(PATH, QUICK))
    assert abs(shown[0].astype(float) - true[0]).mean() < 20
    assert abs(shown[-1].astype(float) - true[-1]).mean() < 20


def test_video_is_the_name_of_an_optional_part():
    """The marker above must know whether it is there."""
    from conftest import OPTIONAL

    assert OPTIONAL["video"]() == (importlib.util.find_spec("imageio_ffmpeg") is not None)


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({}, "zoom.avi", "out must end in .gif or .mp4, got "),
        ({"size": 15}, "zoom.gif", "size must be from 16 to 4096, got 15"),
        ({"size": 65}, "zoom.mp4", "size must be even for .mp4, got 65"),
        ({"frames_per_doubling": 0}, "zoom.gif", "frames_per_doubling must be from 1 to 1000"),
        ({"fps": 60}, "zoom.gif", "fps must be from 1 to 50, got 60"),
        ({"colours": 300}, "zoom.gif", "colours must be from 4 to 256, got 300"),
        ({"hold": -1.0}, "zoom.gif", "hold must be from 0 to 600 seconds, got -1.0"),
        ({"hold": math.inf}, "zoom.gif", "hold must be from 0 to 600 seconds, got inf"),
        ({"hold": 1e12}, "zoom.gif", "hold must be from 0 to 600 seconds, got 1000000000000.0"),
        ({}, "absent/zoom.gif", "out must be a place to write to, but "),
    ],
)
def test_bad_input_is_one_sentence(change, name, said, tmp_path):
    movie = Movie(**({"size": 32, "frames_per_doubling": 1} | change))
    with pytest.raises(InputError, match=f"^{said}") as error:
        animate(PATH, movie, tmp_path / name)
    assert "\n" not in str(error.value)


def test_command_makes_the_movie_of_a_zoom(tmp_path, capsys):
    config = ZoomConfig(width=4, steps=10, resolution=20, paths=2, levels=1, factor=2.0)
    run(config, tmp_path / "zoom")
    out = tmp_path / "movie.gif"
    options = ["--size", "32", "--frames-per-doubling", "3", "--path", "1", "--out", str(out)]
    assert main(["animate", str(tmp_path / "zoom"), *options]) == 0
    assert "4 pictures of 2 frames" in capsys.readouterr().out
    with Image.open(io.BytesIO(out.read_bytes())) as image:
        assert (image.n_frames, image.size) == (4, (32, 32))
    assert main(["animate", str(tmp_path / "zoom"), "--path", "2"]) == 2
    assert "path must be from 0 to 1, got 2" in capsys.readouterr().err
    assert main(["animate", str(tmp_path)]) == 2
    assert "zoom must be the folder of a zoom with frames, got" in capsys.readouterr().err
