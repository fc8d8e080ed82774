"""All settings of a zoom, checked."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from fractalkern.errors import InputError
from fractalkern.experiments.trainability.config import Condition, TrainabilityConfig
from fractalkern.experiments.zoom.windows import ORIGINAL_WIDTH, Window, about_final

_MOST_LEVELS = 1000


@dataclass(frozen=True)
class ZoomConfig:
    """What is trained at each level, and the rule by which the next window is chosen."""

    condition: Condition = "tanh"
    """Activation, data, and what the axes are; as for `trainability`."""
    width: int = 16
    """Inputs and hidden units."""
    steps: int = 500
    """Gradient-descent steps of each network, the same at every level: with other steps the
    boundary is another one."""
    resolution: int = 256
    """Cells along each axis of each frame."""
    path: Literal["random", "window", "densest"] = "random"
    """random: about a boundary cell of the frame before, each equally likely. window: about the
    centre of --final-window, as in the original. densest: where the frame before has most boundary
    cells, which biases the dimension upwards."""
    paths: int = 8
    """Independent random paths; the other rules have just one."""
    levels: int = 8
    """Levels below the first view, which all paths share; a window path has as many as it takes."""
    factor: float = 4.0
    """How many times narrower each level is than the one before."""
    window: tuple[float, float, float, float] = (-3.0, 6.0, -3.0, 6.0)
    """First view in powers of ten: LO0 HI0 of the first axis, LO1 HI1 of the second."""
    final_window: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Last view of a window path; it is widened by the factor about its centre until its smaller
    side reaches 6 decades, which is the first frame."""
    flips: float = 0.25
    """A path ends at the frame where more than this share of the labels beside the boundary change
    when both rates move by one unit in the last place; coin flips would give about a half."""
    flips_sample: int = 256
    """Cells beside the boundary that are drawn at random for that test in each frame."""
    dtype: Literal["float64", "float32"] = "float64"
    """Number type of the training."""
    seed: int = 0
    """Key of the random numbers: weights, data, minibatch rows, paths."""
    minibatch: int = 16
    """Rows a step in the tanh-minibatch condition."""
    tile_rows: int = 64
    """Rows of a frame that are computed and stored at once; on CUDA at least as many as keep a
    card busy."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What trains the networks; cuda is torch's current device."""
    protocol: Literal["fixed", "published"] = "fixed"
    """published judges convergence as the original: by the mean loss alone, whatever the first."""

    @property
    def path_count(self) -> int:
        """Paths that are followed."""
        return self.paths if self.path == "random" else 1

    @property
    def first_window(self) -> Window:
        """What the first frame shows."""
        return self.window_path()[0] if self.path == "window" else self.window

    @property
    def depth(self) -> int:
        """Levels below the first frame."""
        return len(self.window_path()) - 1 if self.path == "window" else self.levels

    @property
    def frame_count(self) -> int:
        """Frames if no path ends early: the first is shared."""
        return 1 + self.path_count * self.depth

    def window_path(self) -> list[Window]:
        """The windows of a window path, widest first."""
        return about_final(self.final_window, self.factor)

    def view(self, window: Window) -> TrainabilityConfig:
        """The grid that is trained for a frame."""
        return TrainabilityConfig(
            condition=self.condition,
            width=self.width,
            steps=self.steps,
            resolution=self.resolution,
            window=window,
            dtype=self.dtype,
            seed=self.seed,
            minibatch=self.minibatch,
            tile_rows=self.tile_rows,
            device=self.device,
            protocol=self.protocol,
        )

    def checked(self) -> "ZoomConfig":
        """Itself.

        Raises:
            InputError: a value is out of range, or a frame would not fit in memory.
        """
        if not (self.factor > 1 and math.isfinite(self.factor)):
            raise InputError(f"factor must be a number above 1, got {self.factor}")
        if self.factor > self.resolution / 2:
            raise InputError(
                f"factor must be at most half the resolution, {self.resolution / 2:g}, so that a "
                f"window holds cells of the frame before, got {self.factor:g}"
            )
        if not 0 <= self.levels <= _MOST_LEVELS:
            raise InputError(f"levels must be from 0 to {_MOST_LEVELS}, got {self.levels}")
        for name in ("paths", "flips_sample"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.flips <= 1:
            raise InputError(f"flips must lie in [0, 1], got {self.flips}")
        if self.path == "window":
            self._check_final_window()
        self.view(self.first_window).checked()
        return self

    def _check_final_window(self) -> None:
        for axis in (0, 1):
            low, high = self.final_window[2 * axis : 2 * axis + 2]
            if not low < high:
                raise InputError(
                    f"final_window must have LO{axis} < HI{axis} for a window path, "
                    f"got {low} and {high}"
                )
            least, most = self.window[2 * axis : 2 * axis + 2]
            if not least <= low < high <= most:
                raise InputError(
                    f"final_window must lie inside window, {least:g} to {most:g} along axis "
                    f"{axis}, got {low} to {high}"
                )
            if high - low > ORIGINAL_WIDTH:
                raise InputError(
                    f"final_window must be at most {ORIGINAL_WIDTH:g} decades wide, "
                    f"got {high - low:g}"
                )


def quick(config: ZoomConfig) -> ZoomConfig:
    """The same at a size that takes seconds."""
    return dataclasses.replace(config, width=8, steps=100, resolution=64, paths=3, levels=4)
