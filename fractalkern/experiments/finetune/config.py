"""All settings of the grid, checked."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from fractalkern.errors import InputError
from fractalkern.experiments.environment import require_device
from fractalkern.experiments.settings import require_within
from fractalkern.sweeps.grid import log_axis

Protocol = Literal["fixed", "published"]

# Of the original: its seed, its soft cap, the axes of its parent grid (matrices, head).
PUBLISHED_SEED, PUBLISHED_CAP = 999, 15.0
PARENT_WINDOW = (-6.0, math.log10(0.3), -6.0, -1.0)
# The optimisers of the matrices as people write them.
OPTIMIZERS = {"muon": "Muon", "adamw": "AdamW", "sgd": "SGD"}

# Where the fixed criterion turns, beyond the parent's axes.
_WINDOW = (-5.0, 3.0, -5.0, 3.0)
# The original multiplies its head's rate by (width / 768)^-0.5.
REFERENCE_WIDTH = 768

# The boundary image has one cell less, and a fit needs box sizes 1, 2 and 4 of at most a quarter.
_LEAST_RESOLUTION = 17
_MOST = {"resolution": 512, "width": 10**4, "layers": 100, "steps": 10**6, "pretraining": 10**6,
         "texts": 10**7, "seeds": 10**3}  # fmt: skip
_EXPONENT_LIMIT = 30.0
# Far beyond both, z / c or c itself leaves float32 and every logit is NaN.
_LEAST_CAP, _LARGEST_CAP = 1e-6, 1e6


@dataclass(frozen=True)
class FinetuneConfig:
    """What is trained; the defaults are the fixed protocol at as many cells as the original."""

    protocol: Protocol = "fixed"
    """fixed: judged by texts that are not trained on, before and after, and over several seeds.
    published: judged as the original, by the first batch and the last twenty."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The rates after the warm-up of 6 % of the steps: down to 0, or as they are."""
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """Of the matrices of the blocks; the head has AdamW."""
    resolution: int = 64
    """Cells along each axis."""
    window: tuple[float, float, float, float] = _WINDOW
    """Powers of ten: LO0 HI0 of the rate of the matrices, LO1 HI1 of that of the head."""
    seeds: int = 2
    """Orders of the data; each is a grid of its own. published: 1, and the order is that of the
    texts."""
    seed: int = 0
    """The first seed; also that of the generated texts and of the model's first weights."""
    steps: int = 50
    """Steps of a run."""
    batch: int = 8
    """Texts a step."""
    texts: int = 2000
    """Generated texts to train on, before as well as in the grid."""
    text: str = ""
    """A text file instead: its first half is learnt first, on its second half the runs train, but
    for 64 windows that judge."""
    width: int = 32
    """Of the model."""
    layers: int = 2
    """Blocks."""
    heads: int = 2
    """Heads of each block."""
    soft_cap: float = 0.0
    """Logits z become c tanh(z / c), which bounds losses while weights are finite; 0: they do not.
    published: 15."""
    pretraining: int = 1000
    """Steps that the model is trained for before the grid."""
    group: int = 64
    """Runs that are trained together and kept together."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda is torch's current device."""

    @property
    def warmup(self) -> int:
        """Steps of rising rates."""
        return max(1, self.steps * 6 // 100)

    @property
    def head_factor(self) -> float:
        """What the head's rate on the axis is multiplied by."""
        if self.protocol == "published":
            return math.sqrt(REFERENCE_WIDTH / self.width)
        return 1.0

    def axis(self, number: int) -> list[float]:
        """The rates along an axis; as published to six digits, which its command line had."""
        low, high = self.window[2 * number : 2 * number + 2]
        rates: list[float] = log_axis(low, high, self.resolution).tolist()
        if self.protocol == "published":
            return [float(f"{rate:.6g}") for rate in rates]
        return rates

    def checked(self) -> "FinetuneConfig":
        """Itself.

        Raises:
            InputError: a value is out of range.
            BackendError: the device is not there.
        """
        require_device(self.device)
        least = {"resolution": _LEAST_RESOLUTION, "seeds": 1, "steps": 1, "batch": 1, "texts": 1,
                 "width": 1, "layers": 1, "heads": 1, "pretraining": 0, "group": 1}  # fmt: skip
        require_within(self, least, _MOST)
        if self.protocol == "published" and self.seeds != 1:
            raise InputError(f"seeds must be 1 in the published protocol, got {self.seeds}")
        if not self.text and self.batch > self.texts:  # the file's own are counted when it is read
            raise InputError(f"batch must be at most texts = {self.texts}, got {self.batch}")
        if self.width % (2 * self.heads):
            raise InputError(
                f"width must be a multiple of 2 x heads = {2 * self.heads}, got {self.width}"
            )
        if not 0 <= self.seed < 2**60:
            raise InputError(f"seed must be an integer from 0 to 2^60 - 1, got {self.seed}")
        if self.soft_cap and not _LEAST_CAP <= self.soft_cap <= _LARGEST_CAP:
            raise InputError(
                f"soft_cap must be 0 or from {_LEAST_CAP:g} to {_LARGEST_CAP:g}, "
                f"got {self.soft_cap}"
            )
        for number in (0, 1):
            low, high = self.window[2 * number : 2 * number + 2]
            if not -_EXPONENT_LIMIT <= low < high <= _EXPONENT_LIMIT:
                raise InputError(
                    f"window must have -{_EXPONENT_LIMIT:g} <= LO{number} < HI{number} <= "
                    f"{_EXPONENT_LIMIT:g}, got {low} and {high}"
                )
            if len(set(self.axis(number))) < self.resolution:
                raise InputError(
                    f"window must be wide enough for {self.resolution} different rates along "
                    f"axis {number}, got {low} to {high}"
                )
        return self


def preset(protocol: Protocol, quick: bool) -> FinetuneConfig:
    """The settings that other options start from."""
    config = FinetuneConfig()
    if protocol == "published":
        config = dataclasses.replace(
            config,
            protocol="published",
            window=PARENT_WINDOW,
            seeds=1,
            seed=PUBLISHED_SEED,
            soft_cap=PUBLISHED_CAP,
        )
    if quick:
        config = dataclasses.replace(config, resolution=24, width=16, pretraining=500)
    return config
