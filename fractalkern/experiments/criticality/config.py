"""All settings of a study of spectral criticality, checked."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fractalkern.errors import InputError
from fractalkern.experiments.criticality import arms, tasks
from fractalkern.experiments.environment import require_device
from fractalkern.experiments.settings import require_within

StudyName = Literal["baseline", "targets", "layerwise", "schedules", "regularizers", "tasks"]

_MOST = {"samples": 10**6, "depth": 100, "width": 10**4, "epochs": 10**6, "grid": 10**4}
_MOST |= {"seeds": 10**4, "null_draws": 10**6}
_PUBLISHED_SHARES = (0.25, 0.0)
_SHARES = (0.2, 0.2)


@dataclass(frozen=True)
class Setting:
    """What the arms of a study are compared in: a task and the size of the network."""

    task: str
    depth: int
    width: int

    @property
    def name(self) -> str:
        """Such as moons-2x64."""
        return f"{self.task}-{self.depth}x{self.width}"

    @property
    def words(self) -> str:
        """For a figure's title."""
        return f"{self.task}, {self.depth} hidden layer{'s' * (self.depth > 1)} of {self.width}"


@dataclass(frozen=True)
class CriticalityConfig:
    """What is trained; the defaults are the published comparison, fixed."""

    study: StudyName = "baseline"
    """baseline: no regularisation beside target 1. targets: a sweep of targets and weights, output
    layer free and held. layerwise: a target for each of two layers. schedules: targets that move.
    regularizers: BatchNorm, dropout, weight decay, spectral normalisation, orthogonal start.
    tasks: other tasks, depths and widths."""
    protocol: Literal["fixed", "published"] = "fixed"
    """published trains as the original's program: its penalty has no gradient, 75 % of the data
    train, 25 % test."""
    task: str = "moons"
    """moons, circles, spirals, checkerboard, xor-2 to xor-32, digits (needs scikit-learn)."""
    samples: int = 2000
    """Points of a data set."""
    noise: float = 0.15
    """Standard deviation of the noise, in the units of the task."""
    depth: int = 2
    """Hidden layers."""
    width: int = 64
    """Units of each."""
    epochs: int = 100
    """Full-batch steps of Adam."""
    seeds: int = 5
    """How many; each has data, split, start and probes of its own."""
    first_seed: int = 0
    """The first seed; the others follow it."""
    rates: tuple[float, ...] = (1e-2,)
    """Learning rates; the report takes each arm's best by validation loss."""
    weight: float = 0.5
    """lambda of the penalty, where the study does not vary it."""
    arms: tuple[str, ...] = ()
    """Names of the study's arms to train besides none and target-1; by default all."""
    tasks: tuple[str, ...] = ("moons", "circles", "spirals", "checkerboard", "xor-8", "xor-32")
    """Tasks of the study "tasks"."""
    depths: tuple[int, ...] = (2, 4, 8)
    """Depths of the study "tasks", at `width`."""
    widths: tuple[int, ...] = (8, 64, 256)
    """Widths of the study "tasks", at `depth`."""
    every: int = 1
    """Epochs from one measurement to the next."""
    grid: int = 200
    """Points along each axis of the window on which boundaries are looked at."""
    null_draws: int = 199
    """Smooth boundaries drawn for the null of each last boundary; 0 for none."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda is torch's current device."""

    @property
    def shares(self) -> tuple[float, float]:
        """Of the test and of the validation set."""
        return _PUBLISHED_SHARES if self.protocol == "published" else _SHARES

    @property
    def settings(self) -> list[Setting]:
        """What the arms are compared in; one but for the study "tasks"."""
        if self.study != "tasks":
            return [Setting(self.task, self.depth, self.width)]
        sizes = [(d, self.width) for d in self.depths] + [(self.depth, w) for w in self.widths]
        return [Setting(t, d, w) for t in self.tasks for d, w in dict.fromkeys(sizes)]

    @property
    def settings_depths(self) -> set[int]:
        """All depths that occur."""
        return {setting.depth for setting in self.settings}

    @property
    def seed_list(self) -> list[int]:
        """The seeds."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def checked(self) -> "CriticalityConfig":
        """Itself.

        Raises:
            InputError: a value is out of range, or a name is none.
            BackendError: the device is not there.
        """
        require_device(self.device)
        least = {"samples": 20, "depth": 1, "width": 1, "epochs": 1, "every": 1, "grid": 64}
        require_within(self, {**least, "seeds": 2, "first_seed": 0, "null_draws": 0}, _MOST)
        if self.first_seed + self.seeds > 2**32:
            raise InputError(f"first_seed must leave seeds below 2^32, got {self.first_seed}")
        if self.epochs % self.every:
            raise InputError(
                f"every must divide epochs, {self.epochs}, so that the last measurement is of the "
                f"trained networks, got {self.every}"
            )
        for name, value in (("noise", self.noise), ("weight", self.weight)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} must be at least 0 and finite, got {value}")
        if not self.rates or not all(0 < rate < float("inf") for rate in self.rates):
            raise InputError(f"rates must be one or more positive numbers, got {self.rates}")
        if len(set(self.rates)) < len(self.rates):
            raise InputError(f"rates must be different, got {self.rates}")
        if self.protocol == "published" and len(self.rates) > 1:
            raise InputError(
                "rates must be a single one for the published protocol, which has no validation "
                f"set to choose by, got {self.rates}"
            )
        for name in ("tasks", "depths", "widths"):
            if not getattr(self, name):
                raise InputError(f"{name} must have at least one entry, got none")
        for name in ("depths", "widths"):
            if min(getattr(self, name)) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for setting in self.settings:
            tasks.task_named(setting.task)
        arms.arms_of(self)
        return self


def preset(study: StudyName) -> CriticalityConfig:
    """The defaults of a study: baseline as specified, the others with ten seeds and tuned rates."""
    base = CriticalityConfig(study)
    if study == "baseline":
        return base
    base = dataclasses.replace(base, seeds=10, rates=(1e-3, 3e-3, 1e-2), every=10, null_draws=0)
    return dataclasses.replace(base, every=25) if study == "tasks" else base


def quick(config: CriticalityConfig) -> CriticalityConfig:
    """The same at a size that takes seconds to a minute."""
    small = dataclasses.replace(config, seeds=3, rates=(1e-2,), epochs=50, every=10, samples=500)
    small = dataclasses.replace(small, null_draws=min(config.null_draws, 39))
    if config.study == "tasks":
        small = dataclasses.replace(
            small, tasks=("moons", "spirals", "xor-8"), depths=(2, 4), widths=(16, 64), every=50
        )
    return small
