"""What the controlled study says: scores of the arms, and the comparisons that test the claim."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fractalkern.experiments.genesis.arms import beta_of
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.runs import parts
from fractalkern.experiments.statistics import Comparison, compare, interval
from fractalkern.experiments.study import Study

# Treatment and control. Of the first two, genesis must beat both for its noise to be what helps:
# they have its scales without its correlations.
PAIRS = (
    ("genesis", "white"),
    ("genesis", "shuffled"),
    ("fractal", "default"),
    ("genesis", "default"),
    ("genesis", "xavier"),
    ("genesis-all", "standard-all"),
)
NULLS = PAIRS[:2]
_SWEEP_CONTROL = "beta-0"
ENOUGH = 0.9  # the share of exact answers that "steps to 90 %" waits for

Curve = list[float]  # over the evaluations


@dataclass(frozen=True)
class Trained:
    """One run's curves, by the names of the measured scalars; whether it turned non-finite."""

    arm: str
    rate: float
    seed: int
    curves: dict[str, Curve]
    frozen: bool

    def last(self, name: str) -> float:
        """The value after the last step."""
        return self.curves[name][-1]


@dataclass(frozen=True)
class Arm:
    """An arm at the rate that its validation texts choose, a value a seed.

    Attributes:
        name: of the arm.
        rate: the chosen one.
        edge: whether it is the lowest or highest of several, so a better one may lie beyond.
        runs: those at the rate, by seed.
        averaged: share of exact test answers, mean over all rates.
        frozen: runs at any rate that turned non-finite.
    """

    name: str
    rate: float
    edge: bool
    runs: tuple[Trained, ...]
    averaged: tuple[float, ...]
    frozen: int

    def values(self, name: str) -> list[float]:
        """The last values of a scalar, a seed each."""
        return [run.last(name) for run in self.runs]

    def steps_to_enough(self, steps: Sequence[int]) -> list[int | None]:
        """The step of the first evaluation with 90 % exact test answers; None: never."""
        return [
            next(
                (s for s, v in zip(steps, run.curves["test_exact"], strict=True) if v >= ENOUGH),
                None,
            )
            for run in self.runs
        ]


@dataclass(frozen=True)
class Findings:
    """The arms, and families of comparisons, each corrected on its own."""

    steps: list[int]
    arms: dict[str, Arm]
    exact: list[Comparison]
    averaged: list[Comparison]
    loss: list[Comparison]

    @property
    def verdict(self) -> tuple[str, str]:
        """One word and one sentence."""
        return _verdict(self.exact)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean and its interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    return (math.fsum(values) / len(values), *interval(values))


def find(config: GenesisConfig, study: Study, vocabulary: int) -> Findings:
    """Reads all finished parts."""
    runs: list[Trained] = []
    steps: list[int] = []
    for number, part in enumerate(parts(config)):
        series = study.load(number)[0]["measured"]
        steps = list(series.steps)
        for place, run in enumerate(part):
            rows = {name: stack[place].tolist() for name, stack in series.scalars.items()}
            curves = {name: _filled(name, row, vocabulary) for name, row in rows.items()}
            frozen = not math.isfinite(rows["test_loss"][-1])
            runs.append(Trained(run.arm, run.rate, run.seed, curves, frozen))
    arms = {name: _arm(config, name, runs) for name in config.arms}
    pairs = comparisons(config.arms) if config.seeds > 1 else []

    def family(value: str | None) -> list[Comparison]:
        def of(name: str) -> Sequence[float]:
            return arms[name].averaged if value is None else arms[name].values(value)

        return compare({f"{a} - {b}": (of(a), of(b)) for a, b in pairs}, seed=config.seed)

    return Findings(steps, arms, family("test_exact"), family(None), family("test_loss"))


def comparisons(arms: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of which both are there, and the sweep's against its white end."""
    swept = [(arm, _SWEEP_CONTROL) for arm in arms if beta_of(arm) and _SWEEP_CONTROL in arms]
    return [pair for pair in (*PAIRS, *swept) if set(pair) <= set(arms)]


def _filled(name: str, row: Curve, vocabulary: int) -> Curve:
    """Where a run is frozen no answer is exact, and the loss is that of guessing."""
    worst = 0.0 if name.endswith("exact") else math.log(vocabulary)
    return [value if math.isfinite(value) else worst for value in row]


def _arm(config: GenesisConfig, name: str, runs: Sequence[Trained]) -> Arm:
    mine = [run for run in runs if run.arm == name]
    by_rate = {
        rate: sorted((run for run in mine if run.rate == rate), key=lambda run: run.seed)
        for rate in sorted(config.learning_rates)
    }

    def merit(rate: float) -> tuple[float, float]:
        exact, loss = (
            math.fsum(run.last(f"validation_{score}") for run in by_rate[rate])
            for score in ("exact", "loss")
        )
        return exact, -loss

    rate = max(by_rate, key=merit)
    rates = list(by_rate)
    averaged = [
        math.fsum(by_rate[rate][place].last("test_exact") for rate in rates) / len(rates)
        for place in range(config.seeds)
    ]
    return Arm(
        name,
        rate,
        len(rates) > 1 and rate in (rates[0], rates[-1]),
        tuple(by_rate[rate]),
        tuple(averaged),
        sum(run.frozen for run in mine),
    )


def _verdict(family: Sequence[Comparison]) -> tuple[str, str]:
    found = {item.name: item for item in family}
    nulls = [found[name] for name in (f"{a} - {b}" for a, b in NULLS) if name in found]
    if len(nulls) < len(NULLS):
        return "untested", "The study lacks genesis, white or shuffled, or has one seed only."
    signs = [math.copysign(1, item.difference) if item.significant() else 0 for item in nulls]
    span = "; ".join(
        f"{item.name}: {100 * item.difference:+.1f} points "
        f"[{100 * item.low:+.1f}, {100 * item.high:+.1f}], p = {item.p_holm:.2g} after Holm"
        for item in nulls
    )
    if all(sign > 0 for sign in signs):
        return "supported", f"Genesis noise beats white and shuffled noise of its scales ({span})."
    if any(sign < 0 for sign in signs) and not any(sign > 0 for sign in signs):
        worse = "both" if all(sign < 0 for sign in signs) else "one"
        nulls_of = "white and shuffled noise of its scales"
        return "contradicted", f"Genesis noise is worse than {worse} of {nulls_of} ({span})."
    return (
        "not supported",
        f"Genesis noise is not shown to differ from both nulls of its scales ({span}).",
    )
