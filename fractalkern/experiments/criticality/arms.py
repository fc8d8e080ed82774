"""The arms of every study: data, that one engine trains."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fractalkern.errors import InputError
from fractalkern.experiments.names import require_name

if TYPE_CHECKING:
    from fractalkern.experiments.criticality.config import CriticalityConfig

TARGETS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5)
WEIGHTS = (0.01, 0.1, 0.5)
PAIR_TARGETS = (0.5, 1.0, 1.5, 2.0, 2.5)
SCHEDULES = ("constant", "linear", "exponential", "steps")


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: its name.
        targets: of sigma, one a hidden layer, or one for all of them; empty: no penalty.
        weight: of the penalty, lambda.
        output: whether the output layer is held at the last target too.
        schedule: of the targets, from 2.5 to 1 as SPECTRA's; "constant" keeps `targets`.
        learnable: whether the targets are trained, as parameters, from `targets` on.
        detached: whether sigma carries no gradient, as published: then nothing is penalised.
        batchnorm: after each hidden linear map.
        dropout: share of hidden units.
        spectral_norm: whether the hidden weights are divided by their top singular value.
        orthogonal: whether hidden weights start orthogonal, times sqrt 2.
        weight_decay: of Adam.
    """

    name: str
    targets: tuple[float, ...] = ()
    weight: float = 0.0
    output: bool = False
    schedule: str = "constant"
    learnable: bool = False
    detached: bool = False
    batchnorm: bool = False
    dropout: float = 0.0
    spectral_norm: bool = False
    orthogonal: bool = False
    weight_decay: float = 0.0

    @property
    def shape(self) -> tuple[bool, float, bool]:
        """What the module of the arm is: arms of the same one can be trained together."""
        return self.batchnorm, self.dropout, self.spectral_norm

    def layer_targets(self, hidden: int) -> list[float]:
        """One target a hidden layer."""
        return list(self.targets) * hidden if len(self.targets) == 1 else list(self.targets)


NONE = Arm("none")


def _fixed(target: float, weight: float, suffix: str = "") -> Arm:
    return Arm(f"target-{target:g}{suffix}", (target,), weight)


def _baseline(config: "CriticalityConfig") -> list[Arm]:
    return [_fixed(1.0, config.weight)]


def _targets(config: "CriticalityConfig") -> list[Arm]:
    """Every target with every weight, the output layer free and held."""
    arms = []
    for weight in WEIGHTS:
        for target in TARGETS:
            arm = _fixed(target, weight, f"-lambda-{weight:g}")
            arms += [arm, replace(arm, name=f"{arm.name}-output", output=True)]
    # The arm that every study has is one of them, under the name it has everywhere.
    name = f"target-1-lambda-{config.weight:g}"
    return [replace(arm, name="target-1") if arm.name == name else arm for arm in arms]


def _layerwise(config: "CriticalityConfig") -> list[Arm]:
    """Every pair of targets, of the first hidden layer and of the second."""
    return [
        Arm(f"targets-{a:g}-{b:g}", (a, b), config.weight)
        for a in PAIR_TARGETS
        for b in PAIR_TARGETS
        if a != b
    ] + [_fixed(t, config.weight) for t in PAIR_TARGETS if t != 1.0]


def _schedules(config: "CriticalityConfig") -> list[Arm]:
    """The schedules of SPECTRA, and targets that are trained."""
    arms = [
        Arm(name, (1.0,), config.weight, schedule=name) for name in SCHEDULES if name != "constant"
    ]
    return [*arms, Arm("learnable", (1.0,), config.weight, learnable=True)]


def _regularizers(config: "CriticalityConfig") -> list[Arm]:
    """What else keeps weights or activations in bounds."""
    return [
        Arm("batchnorm", batchnorm=True),
        Arm("dropout-0.1", dropout=0.1),
        Arm("dropout-0.3", dropout=0.3),
        Arm("weight-decay-0.001", weight_decay=1e-3),
        Arm("weight-decay-0.01", weight_decay=1e-2),
        Arm("spectral-norm", spectral_norm=True),
        Arm("orthogonal", orthogonal=True),
    ]


def _tasks(config: "CriticalityConfig") -> list[Arm]:
    """A target near that of random weights besides; the tasks and sizes are the study's."""
    return [_fixed(2.0, config.weight)]


STUDIES: dict[str, Callable[["CriticalityConfig"], list[Arm]]] = {
    "baseline": _baseline,
    "targets": _targets,
    "layerwise": _layerwise,
    "schedules": _schedules,
    "regularizers": _regularizers,
    "tasks": _tasks,
}


def all_arms(config: "CriticalityConfig") -> list[Arm]:
    """No regularisation first, then the fixed target 1, then what the study adds."""
    added = {arm.name: arm for arm in STUDIES[config.study](config)}
    fixed = added.pop("target-1", _fixed(1.0, config.weight))
    arms = [NONE, fixed, *added.values()]
    if config.protocol == "published":
        return [replace(arm, detached=True) for arm in arms]
    return arms


def arms_of(config: "CriticalityConfig") -> list[Arm]:
    """The arms that are asked for, the first two always among them.

    Raises:
        InputError: the study has no arm of a name, or a pair is asked of another number of layers.
    """
    arms = all_arms(config)
    names = [arm.name for arm in arms]
    for name in config.arms:
        require_name("arms", name, names)
    chosen = [a for a in arms if not config.arms or a.name in (*names[:2], *config.arms)]
    for arm in chosen:
        for depth in config.settings_depths:
            if len(arm.targets) > 1 and len(arm.targets) != depth:
                raise InputError(
                    f"depth must be {len(arm.targets)}, a target of arm {arm.name!r} for each "
                    f"hidden layer, got {depth}"
                )
    return chosen
