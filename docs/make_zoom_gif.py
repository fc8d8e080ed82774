"""Draws docs/figures/zoom.gif: `python docs/make_zoom_gif.py`, about a minute on two cores."""

from pathlib import Path

from fractalkern.experiments.zoom.animation import Movie, animate
from fractalkern.experiments.zoom.config import ZoomConfig
from fractalkern.experiments.zoom.frames import load_path
from fractalkern.experiments.zoom.run import zoom

OUT = Path(__file__).parent / "figures" / "zoom.gif"
RUN = Path(__file__).parents[1] / "runs" / "zoom-gif"

CONFIG = ZoomConfig(
    width=8,
    steps=100,
    resolution=256,
    path="window",
    final_window=(0.1658, 0.1702, 1.8155, 1.8199),
    factor=2.0,
)
MOVIE = Movie(size=280, frames_per_doubling=7, fps=12, hold=1.5, colours=96)


def main() -> None:
    """Computes the zoom, or takes what is there, and draws it."""
    zoom(CONFIG, RUN)
    animate(load_path(RUN, 0), MOVIE, OUT)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
