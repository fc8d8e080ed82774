"""The arms: how a run's weights start.

All keys are Philox seeds: an arm's weights depend on the run's seed alone, and arms that share a
draw, such as `genesis` and `shuffled`, share it exactly.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fractalkern import random
from fractalkern.errors import InputError
from fractalkern.experiments.names import require_name
from fractalkern.init import fractal_normal_, genesis_, shuffled_, white_like_

_LIBRARY, _XAVIER, _NOISE, _SHUFFLE, _WHITE = range(0x67656E20, 0x67656E25)
_LIBRARY_STD = 0.02
_STANDARD_STD, _STANDARD_GAIN = 0.01, 0.5  # the original's Standard arm


@dataclass(frozen=True)
class Arm:
    """A way to start; `fill(model, beta, seed)` changes a model that `library` has filled."""

    meaning: str
    fill: Callable[[nn.Module, float, int], None]


def _library(model: nn.Module, beta: float, seed: int) -> None:
    """Nothing more."""


def _xavier(model: nn.Module, beta: float, seed: int) -> None:
    for index, tensor in enumerate(_matrices(model)):
        limit = _STANDARD_GAIN * math.sqrt(6 / sum(tensor.shape))
        flat = random.uniform(tensor.shape, seed=_own(seed, index, _XAVIER), stream=_XAVIER)
        tensor.copy_((2 * flat - 1) * limit)


def _standard_all(model: nn.Module, beta: float, seed: int) -> None:
    _xavier(model, beta, seed)
    for index, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            key = _own(seed, index, _LIBRARY)
            parameter.copy_(random.normal(parameter.shape, seed=key, stream=_XAVIER))
            parameter.mul_(_STANDARD_STD)


def _genesis_all(model: nn.Module, beta: float, seed: int) -> None:
    genesis_(model, beta, protocol="published", seed=_own(seed, 0, _NOISE))


def _genesis(model: nn.Module, beta: float, seed: int) -> None:
    """The matrices of `_genesis_all`; biases and LayerNorms as the library has them."""
    vectors = [(p, p.detach().clone()) for p in model.parameters() if p.ndim == 1]
    _genesis_all(model, beta, seed)
    for parameter, before in vectors:
        parameter.copy_(before)


def _shuffled(model: nn.Module, beta: float, seed: int) -> None:
    _genesis(model, beta, seed)
    for index, tensor in enumerate(_matrices(model)):
        shuffled_(tensor, seed=_own(seed, index, _SHUFFLE))


def _white(model: nn.Module, beta: float, seed: int) -> None:
    _genesis(model, beta, seed)
    for index, tensor in enumerate(_matrices(model)):
        white_like_(tensor, seed=_own(seed, index, _WHITE))


def _fractal(model: nn.Module, beta: float, seed: int) -> None:
    genesis_(model, beta, protocol="fixed", seed=_own(seed, 0, _NOISE))


ARMS = {
    "default": Arm("the library's: N(0, 0.02), LayerNorm gains 1, biases 0", _library),
    "xavier": Arm("Xavier uniform with gain 0.5, matrices only", _xavier),
    "standard-all": Arm(
        "the published Standard arm: Xavier, and LayerNorm gains near 0", _standard_all
    ),
    "genesis-all": Arm(
        "the published Genesis arm: noise everywhere, LayerNorm gains too", _genesis_all
    ),
    "genesis": Arm("1/f^beta noise of the published scales, matrices only", _genesis),
    "white": Arm("white noise with the standard deviation of each matrix of genesis", _white),
    "shuffled": Arm("genesis with the values of each matrix permuted", _shuffled),
    "fractal": Arm("1/f^beta noise with the standard deviations of default", _fractal),
}
_SWEEP = re.compile(r"beta-(\d+(?:\.\d+)?)")


def require_arms(arms: Sequence[str]) -> None:
    """Raises unless all are arms, once each.

    Raises:
        InputError: with the nearest name.
    """
    if not arms or len(set(arms)) != len(arms):
        raise InputError(f"arms must be at least one, each once, got {', '.join(arms) or 'none'}")
    for arm in arms:
        if not _SWEEP.fullmatch(arm):
            require_name("arms", arm, (*ARMS, "beta-NUMBER"))


def beta_of(arm: str) -> float | None:
    """The exponent of an arm of the sweep, such as beta-0.5; None for another."""
    found = _SWEEP.fullmatch(arm)
    return float(found[1]) if found else None


def meaning(arm: str) -> str:
    """For people."""
    beta = beta_of(arm)
    return ARMS[arm].meaning if beta is None else f"genesis with beta = {beta:g}"


@torch.no_grad()
def initialise(model: nn.Module, arm: str, beta: float, seed: int) -> nn.Module:
    """Fills all parameters of a model as `arm` does."""
    library(model, seed)
    swept = beta_of(arm)
    if swept is None:
        ARMS[arm].fill(model, beta, seed)
    else:
        _genesis(model, swept, seed)
    return model


@torch.no_grad()
def library(model: nn.Module, seed: int) -> None:
    """As transformers starts it: N(0, 0.02), of what a block adds divided by sqrt(2 layers)."""
    layers = len(model.transformer.h)  # type: ignore[union-attr, arg-type]
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(1.0 if _is_gain(name) else 0.0)
            continue
        added = name.endswith("c_proj.weight")
        std = _LIBRARY_STD / math.sqrt(2 * layers) if added else _LIBRARY_STD
        fractal_normal_(parameter, 0.0, std=std, seed=_own(seed, index, _LIBRARY))


def _is_gain(name: str) -> bool:
    return ".ln_" in name and name.endswith("weight")


def _matrices(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.ndim >= 2]


def _own(seed: int, index: int, stream: int) -> int:
    return random.derived_seed(seed, index, stream=stream)
