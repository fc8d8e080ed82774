"""All settings of a trainability grid, checked."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fractalkern.backends import no_native_kernel_reason
from fractalkern.errors import BackendError, InputError
from fractalkern.experiments.environment import require_device
from fractalkern.experiments.trainability.card import Card
from fractalkern.memory import require_memory
from fractalkern.sweeps.grid import log_axis, tile_count

Condition = Literal[
    "tanh",
    "relu",
    "linear",
    "tanh-single",
    "tanh-minibatch",
    "init-offset",
    "init-offset-published",
]

# The boundary image has one cell less, and a fit needs box sizes 1, 2 and 4 of at most a quarter.
MINIMUM_RESOLUTION = 17
_MOST_STEPS = 10**9
# Beyond these powers of ten a rate is not a normal number of its type.
_EXPONENT_LIMIT = {"float64": 300.0, "float32": 37.0}
# Result arrays, their serialised copy, and the ranks and colours of the picture.
_BYTES_PER_CELL = 120


@dataclass(frozen=True)
class TrainabilityConfig:
    """What is trained; the defaults are the original's first view at a smaller resolution."""

    condition: Condition = "tanh"
    """Activation, data, and what the axes are: two rates, or for init-offset an offset of the
    initial input-layer weights (as published: added at every step) and one rate."""
    width: int = 16
    """Inputs and hidden units."""
    steps: int = 500
    """Gradient-descent steps of each network."""
    resolution: int = 512
    """Cells along each axis."""
    window: tuple[float, float, float, float] = (-3.0, 6.0, -3.0, 6.0)
    """Powers of ten: LO0 HI0 of the first axis (input-layer rate or offset), LO1 HI1 of the second
    (output-layer rate, or the rate of both layers)."""
    dtype: Literal["float64", "float32"] = "float64"
    """Number type of the training."""
    seed: int = 0
    """Key of the random numbers: weights, data, minibatch rows."""
    minibatch: int = 16
    """Rows a step in the tanh-minibatch condition."""
    tile_rows: int = 4
    """Rows of the grid that are computed and stored at once; on CUDA at least as many as keep a
    card busy."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What trains the networks; cuda is torch's current device."""
    protocol: Literal["fixed", "published"] = "fixed"
    """published judges convergence as the original: by the mean loss alone, whatever the first."""

    @property
    def data_rows(self) -> int:
        """D: one row for each parameter in the paper, with its two exceptions."""
        if self.condition == "tanh-single":
            return 1
        if self.condition == "linear":
            return self.width
        return self.width * self.width + self.width

    @property
    def cells(self) -> int:
        """Networks in the grid."""
        return self.resolution**2

    @property
    def rows_per_tile(self) -> int:
        """Rows of a tile; on CUDA those that suit torch's current device."""
        if self.device == "cuda":
            return max(self.tile_rows, -(-Card.current().networks_of_a_tile // self.resolution))
        return self.tile_rows

    @property
    def tile_count(self) -> int:
        """Tiles in the grid."""
        return tile_count(self.resolution, self.rows_per_tile)

    def checked(self) -> "TrainabilityConfig":
        """Itself.

        Raises:
            InputError: a value is out of range, or the run would not fit in memory.
            BackendError: the device cannot train here.
        """
        for name in ("width", "steps", "minibatch", "tile_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps > _MOST_STEPS:
            raise InputError(f"steps must be at most {_MOST_STEPS:,}, got {self.steps}")
        if self.resolution < MINIMUM_RESOLUTION:
            raise InputError(
                f"resolution must be at least {MINIMUM_RESOLUTION} cells an axis for a dimension "
                f"to be fitted, got {self.resolution}"
            )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be an integer from 0 to 2^64 - 1, got {self.seed}")
        _check_device(self.device)
        _check_memory(self)
        _check_axis(self, 0)
        _check_axis(self, 1)
        return self


def quick(config: TrainabilityConfig) -> TrainabilityConfig:
    """The same at a size that takes seconds."""
    return dataclasses.replace(config, steps=100, resolution=64)


def distinct_rates(low: float, high: float, resolution: int, dtype: str) -> bool:
    """Whether the rates 10^low to 10^high of a grid's cells differ from their neighbours'."""
    rates = log_axis(low, high, resolution).numpy().astype(dtype)
    return bool((rates[1:] > rates[:-1]).all())


def _check_axis(config: TrainabilityConfig, axis: int) -> None:
    low, high = config.window[2 * axis : 2 * axis + 2]
    limit = _EXPONENT_LIMIT[config.dtype]
    if not low < high:
        raise InputError(f"window must have LO{axis} < HI{axis}, got {low} and {high}")
    if not (-limit <= low and high <= limit):
        raise InputError(
            f"window must lie within the powers -{limit:g} to {limit:g} of ten for "
            f"{config.dtype}, got {low} and {high}"
        )
    if not distinct_rates(low, high, config.resolution, config.dtype):
        raise InputError(
            f"window must be wide enough for {config.resolution} different {config.dtype} rates "
            f"along axis {axis}, got {low} to {high}"
        )


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    if reason := no_native_kernel_reason("train_sweep", device):
        raise BackendError(f"device must be cpu here, got {device}: {reason}")
    require_device(device)


def _check_memory(config: TrainabilityConfig) -> None:
    data = config.data_rows * (config.width + 1) + config.width * (config.width + 1)
    rows = config.steps * config.minibatch if config.condition == "tanh-minibatch" else 0
    # Drawing a number takes a counter, four words and their temporaries.
    needed = config.cells * _BYTES_PER_CELL + max(data, rows) * 160
    settings = "resolution, width, steps and minibatch" if rows else "resolution and width"
    require_memory(settings, needed)
