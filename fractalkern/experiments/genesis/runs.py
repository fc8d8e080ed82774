"""The runs of a study, the parts they are trained in, and the models they start from."""

from collections.abc import Iterator
from dataclasses import dataclass

from fractalkern.experiments.genesis.arms import initialise
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.model import GPT2


@dataclass(frozen=True)
class Run:
    """One model to train."""

    number: int
    arm: str
    rate: float
    seed: int

    def label(self) -> dict[str, object]:
        """What rows of runs.jsonl begin with."""
        return {"run": self.number, "arm": self.arm, "rate": self.rate, "seed": self.seed}


def parts(config: GenesisConfig) -> list[list[Run]]:
    """All runs, seed by seed; the published protocol trains the arms of a seed together."""
    runs = [Run(number, *one) for number, one in enumerate(_all(config))]
    size = len(config.arms) if config.protocol == "published" else config.group
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def _all(config: GenesisConfig) -> Iterator[tuple[str, float, int]]:
    for seed in range(config.seed, config.seed + config.seeds):
        if config.protocol == "published":
            for arm, rate in zip(config.arms, config.learning_rates, strict=True):
                yield arm, rate, seed
        else:
            for rate in config.learning_rates:
                for arm in config.arms:
                    yield arm, rate, seed


def start(config: GenesisConfig, run: Run, vocabulary: int) -> GPT2:
    """The model of a run before its first step."""
    model = GPT2(
        vocabulary, config.positions, config.width, config.layers, config.heads, config.dropout
    )
    initialise(model, run.arm, config.beta, run.seed)
    return model
