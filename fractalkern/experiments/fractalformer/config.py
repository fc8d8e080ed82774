"""All settings of the experiment, checked, and its sizes."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fractalkern.errors import InputError
from fractalkern.experiments.environment import require_device
from fractalkern.experiments.settings import require_within

Protocol = Literal["fixed", "published"]
SubModel = tuple[int, int]  # level, number in the level

_MOST = {"width": 10**4, "layers": 100, "levels": 6, "context": 10**5, "steps": 10**7,
         "batch": 10**5, "texts": 10**6, "seeds": 10**3}  # fmt: skip


@dataclass(frozen=True)
class FractalFormerConfig:
    """What is trained; the defaults are the fixed protocol at a size for minutes on two cores."""

    protocol: Protocol = "fixed"
    """fixed: every sub-model has a loss, and a twin of its size that is trained alone.
    published: the losses that the original's loop made, each as often as it made it."""
    width: int = 64
    """Of the whole model. published: 128."""
    heads: int = 4
    """Heads of each layer, at every width; all have the same keys and values."""
    layers: int = 4
    """Of every sub-model."""
    levels: int = 3
    """Level l has 2^l sub-models of width / 2^l."""
    level_weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    """fixed: what the loss of a sub-model counts, by level."""
    scaled: bool = True
    """Logits over the root of the width. published: no, so that a fresh model of width d starts at
    nearly d nats."""
    dropout: float = 0.1
    """On what a layer adds. published: 0, as the original's 0.1 is never applied."""
    context: int = 64
    """Characters that a prediction sees. The original: 256."""
    batch: int = 8
    """Windows a step. The original: 12."""
    steps: int = 500
    """Steps of a run. The original: 15,000."""
    every: int = 100
    """Steps from one evaluation to the next."""
    learning_rate: float = 3e-3
    """AdamW's. The original: 3e-4, 1e-4 and 3e-5, 5,000 steps each."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The rate falls to 0 behind a warm-up of a twentieth of the steps, or stays."""
    weight_decay: float = 0.01
    """AdamW's, on every parameter."""
    texts: int = 20_000
    """Generated records that the text is made of."""
    text: str = ""
    """A text file instead; as of the generated text, its last tenth is for validation."""
    seeds: int = 4
    """Starts and orders of the windows; twins share the order of the model beside them."""
    seed: int = 0
    """The first seed; also that of the generated text."""
    group: int = 8
    """Seeds that are trained together and kept together."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train; cuda is torch's current device."""

    @property
    def submodels(self) -> list[SubModel]:
        """All of them, level by level."""
        return [(level, model) for level in range(self.levels) for model in range(2**level)]

    def width_of(self, level: int) -> int:
        """Width of the sub-models of a level."""
        return self.width >> level

    def weight(self, submodel: SubModel) -> float:
        """What the loss of a sub-model counts in training; 0: it has none.

        The original's inner loop ran over the list of widths instead of the models of a level: each
        level got the same entries, (0, 0), (1, 1), (2, 2) ..., once a level.
        """
        level, model = submodel
        if self.protocol == "published":
            return float(self.levels) if model == level else 0.0
        return self.level_weights[level]

    def checked(self) -> "FractalFormerConfig":
        """Itself.

        Raises:
            InputError: a value is out of range.
            BackendError: the device is not there.
        """
        require_device(self.device)
        least = {"width": 1, "heads": 1, "layers": 1, "levels": 1, "context": 2, "batch": 1,
                 "steps": 1, "every": 1, "texts": 1, "seeds": 1, "group": 1}  # fmt: skip
        require_within(self, least, _MOST)
        unit = 2**self.levels * self.heads
        if self.width % unit:
            raise InputError(
                f"width must be a multiple of heads x 2^levels = {unit}, so that each head of the "
                f"smallest sub-models has an even width, got {self.width}"
            )
        if self.protocol == "fixed":
            self._check_weights(self.level_weights)
        if self.steps % self.every:
            raise InputError(
                f"every must divide steps, {self.steps}, so that the last evaluation is of the "
                f"trained models, got {self.every}"
            )
        if not 0 <= self.seed < 2**60:
            raise InputError(f"seed must be an integer from 0 to 2^60 - 1, got {self.seed}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be finite and above 0, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")
        if self.protocol == "published":
            if self.dropout:
                raise InputError(
                    f"dropout must be 0 in the published protocol, which never applies it, "
                    f"got {self.dropout}"
                )
            if self.scaled:
                raise InputError("scaled must be off (--no-scaled) in the published protocol")
            if self.level_weights != FractalFormerConfig.level_weights:
                raise InputError(
                    "level_weights must be left out in the published protocol, whose weights are "
                    "those of the original's loop"
                )
        return self

    def _check_weights(self, weights: Sequence[float]) -> None:
        if len(weights) != self.levels:
            raise InputError(
                f"level_weights must be one for each of the {self.levels} levels, "
                f"got {len(weights)}"
            )
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise InputError(
                "level_weights must be finite, at least 0 and not all 0, "
                f"got {', '.join(f'{weight:g}' for weight in weights)}"
            )


# What the original trained.
ORIGINAL = {"width": 128, "heads": 4, "layers": 4, "levels": 3, "context": 256, "batch": 12,
            "steps": 15_000, "seeds": 1, "weight_decay": 0.01}  # fmt: skip
ORIGINAL_VOCABULARY = 128


def preset(protocol: Protocol, quick: bool) -> FractalFormerConfig:
    """The settings that other options start from."""
    config = FractalFormerConfig()
    if protocol == "published":
        config = dataclasses.replace(
            config,
            protocol="published",
            width=128,
            scaled=False,
            dropout=0.0,
            steps=600,
            learning_rate=1e-3,
            schedule="constant",
            seeds=1,
        )
    if quick:
        config = dataclasses.replace(
            config, width=64, layers=2, context=48, steps=150, every=25, texts=5000, seeds=3
        )
    return config


def differences(config: FractalFormerConfig, vocabulary: int) -> list[str]:
    """What differs from the original's model and training, with the original's value."""
    found = [
        f"{name} {getattr(config, name):,} ({value:,})"
        for name, value in ORIGINAL.items()
        if getattr(config, name) != value
    ]
    rate = f"learning rate {config.learning_rate:g}, {config.schedule} (3e-4, 1e-4, 3e-5)"
    tokens = (
        f"the tokens are the {vocabulary} characters of the text ({ORIGINAL_VOCABULARY} byte pairs)"
    )
    return [*found, rate, tokens]
