"""All settings of the experiment, checked, and its sizes."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from fractalkern.errors import InputError
from fractalkern.experiments.environment import require_device
from fractalkern.experiments.genesis.arms import require_arms
from fractalkern.experiments.settings import require_within

Protocol = Literal["fixed", "published"]
Size = Literal["quick", "default", "full"]

# What the original trains, and its learning rates.
PUBLISHED_ARMS, PUBLISHED_RATES = ("standard-all", "genesis-all"), (5e-4, 1e-4)
PUBLISHED_VOCABULARY, PUBLISHED_LENGTH = 50_257, 128
_MOST_STEPS = 10**7
_MOST_TOKENS = 10**6
_MOST = {"seeds": 10**4, "texts": 10**7, "width": 10**5, "layers": 1000, "positions": 10**6}


@dataclass(frozen=True)
class GenesisConfig:
    """What is trained; the defaults are the fixed protocol at a size for a night on a few cores."""

    protocol: Protocol = "fixed"
    """fixed: a controlled study. published: the trainer as it was, flaws included."""
    arms: tuple[str, ...] = (
        "default",
        "xavier",
        "standard-all",
        "genesis-all",
        "genesis",
        "white",
        "shuffled",
        "fractal",
        "beta-0",
        "beta-0.25",
        "beta-0.5",
        "beta-1",
        "beta-1.5",
        "beta-2",
    )
    """How the weights start; beta-NUMBER is genesis with that beta."""
    learning_rates: tuple[float, ...] = (1e-4, 2e-4, 5e-4, 1e-3)
    """fixed: every arm is trained with each. published: one for each arm."""
    seeds: int = 5
    """Runs of an arm and rate; a seed's runs share data, order of the data and dropout."""
    seed: int = 0
    """The first seed."""
    beta: float = 0.75
    """Exponent of the noise, power ~ |k|^-beta, but for arms of the sweep."""
    steps: int = 4000
    """Steps of a run. published: 50,000, 100 epochs."""
    batch: int = 16
    """Texts a step. published: 4."""
    texts: int = 2000
    """Training texts, a quarter of each kind."""
    every: int = 200
    """Steps from one evaluation to the next. published: 50."""
    width: int = 128
    """Of the model; GPT-2's inner layer is 4 times as wide."""
    layers: int = 4
    """Blocks of the model."""
    heads: int = 8
    """Heads of each block."""
    positions: int = 256
    """Rows of the position embedding."""
    dropout: float = 0.1
    """On embedding, attention and what a block adds."""
    vocabulary: int = 0
    """Rows of the token embedding; 0: only tokens that occur, so the softmax is over those alone.
    published: 50,257."""
    weight_decay: float = 0.01
    """AdamW's, on every parameter."""
    clip_norm: float = 1.0
    """Gradients are scaled to at most this norm."""
    tokenizer: str = ""
    """Folder or hub name of a tokenizer for transformers; empty: one trained on the texts."""
    group: int = 20
    """Runs that are trained together, finished together and kept together."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda is torch's current device."""

    def checked(self) -> "GenesisConfig":
        """Itself.

        Raises:
            InputError: a value is out of range.
            BackendError: the device is not there.
        """
        require_device(self.device)
        require_arms(self.arms)
        self._check_rates()
        counts = ("seeds", "steps", "batch", "every", "width", "layers", "heads", "group")
        require_within(self, dict.fromkeys(counts, 1), _MOST)
        if self.steps > _MOST_STEPS or self.every > self.steps:
            raise InputError(
                f"steps must be from every = {self.every} to {_MOST_STEPS:,}, got {self.steps}"
            )
        if self.protocol == "fixed" and self.steps % self.every:
            raise InputError(
                f"every must divide steps, {self.steps}, so that the last evaluation is of the "
                f"trained models, got {self.every}"
            )
        if self.texts < 4 or self.texts % 4 or self.batch > self.texts:
            raise InputError(
                f"texts must be a multiple of 4 and at least batch = {self.batch}, got {self.texts}"
            )
        if self.width % self.heads:
            raise InputError(f"width must be a multiple of heads = {self.heads}, got {self.width}")
        if not 0 <= self.seed < 2**64 - self.seeds:
            raise InputError(f"seed must be an integer from 0 to 2^64 - 1, got {self.seed}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")
        for name in ("beta", "weight_decay", "vocabulary"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.vocabulary > _MOST_TOKENS:
            raise InputError(f"vocabulary must be at most {_MOST_TOKENS:,}, got {self.vocabulary}")
        if not self.clip_norm > 0:
            raise InputError(f"clip_norm must be above 0, got {self.clip_norm}")
        least = PUBLISHED_LENGTH if self.protocol == "published" else 32
        if self.positions < least:
            raise InputError(f"positions must be at least {least}, got {self.positions}")
        return self

    def _check_rates(self) -> None:
        rates = self.learning_rates
        if self.protocol == "published" and len(rates) != len(self.arms):
            raise InputError(
                f"learning_rates must be one for each of the {len(self.arms)} arms "
                f"{', '.join(self.arms)} of the published protocol, got {len(rates)}"
            )
        distinct = self.protocol == "published" or len(set(rates)) == len(rates)
        if not rates or not distinct or not all(0 < rate < math.inf for rate in rates):
            raise InputError(
                "learning_rates must be at least one, different and above 0, "
                f"got {', '.join(f'{rate:g}' for rate in rates) or 'none'}"
            )


def preset(protocol: Protocol, size: Size) -> GenesisConfig:
    """The settings of a protocol at a size, that other options start from."""
    config = GenesisConfig()
    if protocol == "published":
        config = dataclasses.replace(
            config,
            protocol="published",
            arms=PUBLISHED_ARMS,
            learning_rates=PUBLISHED_RATES,
            seeds=1,
            steps=50_000,
            batch=4,
            every=50,
            width=256,
            layers=6,
            vocabulary=PUBLISHED_VOCABULARY,
        )
        if size == "quick":
            config = dataclasses.replace(
                config, steps=3000, width=64, layers=2, vocabulary=0, dropout=0.0
            )
    elif size == "quick":
        config = dataclasses.replace(
            config,
            steps=800,
            batch=8,
            every=200,
            width=32,
            layers=2,
            heads=4,
            dropout=0.0,
            # A small model bears, and in few steps needs, higher rates.
            learning_rates=(1e-3, 3e-3, 1e-2),
        )
    elif size == "full":
        config = dataclasses.replace(
            config,
            steps=50_000,
            batch=4,
            every=500,
            width=256,
            layers=6,
            vocabulary=PUBLISHED_VOCABULARY,
            group=8,
        )
    return config


def shrunk(config: GenesisConfig) -> list[str]:
    """What is smaller than, or differs from, the original's model and schedule, with its value."""
    full = preset("published", "full")
    names = ("width", "layers", "heads", "positions", "dropout", "steps", "batch", "texts")
    changed = [
        f"{name} {getattr(config, name):,} ({getattr(full, name):,})"
        for name in names
        if getattr(config, name) != getattr(full, name)
    ]
    if config.vocabulary == 0:
        changed.append("vocabulary: the tokens that occur, the softmax over them alone (50,257)")
    elif config.vocabulary != PUBLISHED_VOCABULARY:
        changed.append(f"vocabulary {config.vocabulary:,} (50,257)")
    return changed
