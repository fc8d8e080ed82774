"""Spectral penalties: pull the top singular value of each weight towards a target."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from fractalkern.errors import InputError, InputTypeError
from fractalkern.modules import module_weights
from fractalkern.ops.power_iteration import SpectralNorms, power_iteration

Include = Callable[[str, Tensor], bool] | Sequence[str]

_WHAT = "SpectralTarget"


class SpectralTarget:
    r"""The penalty :math:`\lambda \sum_l (\sigma_l - s_l)^2` over the weights of a model.

    sigma_l is the top singular value of weight l, a matrix of its first axis against all others.
    Each call is one `power_iteration` over all weights, from the right vectors of the last call;
    the first call starts cold and takes more passes. The gradient by weight l is
    2 lambda (sigma_l - s_l) u v^T.

    Args:
        weights: a module: all its parameters of 2 or more axes. A parametrised weight counts as
            what it computes, a shared one once. Or a dict of stacks `[R, m, n]`, one a layer: R
            models at once, each with its own penalty.
        target: s: one number, or one for each name as a dict; with stacks also `[R]`.
        weight: lambda: one number; with stacks also `[R]`.
        include: which weights: patterns of names ("layers.*.weight"), or a function of the name and
            the tensor. None: all.
        iters: passes over each weight in a warm call.
        cold_iters: passes in a call without a former one.
        method: "lanczos" or "power", see `power_iteration`.
        seed: of the random start of the first call.

    Attributes:
        norms: the `SpectralNorms` of the last call, or None; for stacks layer by layer, the models
            of a layer in order.

    Raises:
        InputTypeError, InputError: a wrong type or value, no weight left, a name in `target` that
            is no weight.

    >>> import torch
    >>> from fractalkern.regularizers import SpectralTarget
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> criticality = SpectralTarget(model, target=1.0, weight=0.1)
    >>> criticality.penalty().backward()
    >>> list(criticality.names)
    ['0.weight', '2.weight']
    """

    def __init__(
        self,
        weights: nn.Module | Mapping[str, Tensor],
        target: float | Tensor | Mapping[str, float] = 1.0,
        *,
        weight: float | Tensor = 1.0,
        include: Include | None = None,
        iters: int = 3,
        cold_iters: int = 30,
        method: str = "lanczos",
        seed: int = 0,
    ) -> None:
        if not isinstance(weights, nn.Module | Mapping):
            raise InputTypeError(
                f"{_WHAT}: weights must be a module or a dict of tensors, "
                f"got {type(weights).__name__}"
            )
        self._source = weights
        self._include = include
        self._options: dict[str, Any] = {"method": method, "seed": seed}
        self._iters, self._cold_iters = iters, cold_iters
        self._start: list[Tensor] | None = None
        self.norms: SpectralNorms | None = None

        found = dict(self._weights())
        if not found:
            raise InputError(f"{_WHAT}: include must leave at least one weight, got none")
        self.names = tuple(found)
        self._runs = self._checked_runs(found)
        self._target = self._checked_targets(target)
        self._weight = self._per_run("weight", weight)

    def penalty(self) -> Tensor:
        """The penalty with the present weights: a scalar, or `[R]` for stacks; differentiable."""
        weights = dict(self._weights())
        if tuple(weights) != self.names:
            raise InputError(
                f"{_WHAT}: weights must keep their names, {', '.join(self.names)}, "
                f"got {', '.join(weights)}"
            )
        matrices = [matrix for weight in weights.values() for matrix in self._matrices(weight)]
        cold = self._start is None
        self.norms = power_iteration(
            matrices,
            iters=self._cold_iters if cold else self._iters,
            start=self._start,
            **self._options,
        )
        self._start = [vector.detach() for vector in self.norms.v]
        sigma = self.norms.sigma.view(len(weights), -1)  # [L, 1 or R]
        distance = (sigma - self._target.to(sigma)).square().sum(0) * self._weight.to(sigma)
        return distance if self._runs else distance[0]

    def state_dict(self) -> dict[str, Tensor]:
        """The warm starts, `[n]` or `[R, n]` a name; empty before the first call."""
        if self._start is None:
            return {}
        count = self._runs or 1
        parts = [self._start[i : i + count] for i in range(0, len(self._start), count)]
        stacked = (torch.stack(part) if self._runs else part[0] for part in parts)
        return dict(zip(self.names, stacked, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            InputError: other names than those of the weights.
        """
        if not state:
            self._start = None
            return
        if set(state) != set(self.names):
            raise InputError(
                f"{_WHAT}: state must have the names {', '.join(self.names)}, "
                f"got {', '.join(state)}"
            )
        vectors = [state[name] for name in self.names]
        self._start = [
            part.detach().clone()
            for vector in vectors
            for part in (vector.unbind() if self._runs else (vector,))
        ]

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        source = self._source
        found = (
            ((name, tensor) for name, _, tensor in module_weights(source))
            if isinstance(source, nn.Module)
            else source.items()
        )
        for name, tensor in found:
            if _included(self._include, name, tensor):
                yield name, tensor

    def _matrices(self, weight: Tensor) -> Sequence[Tensor]:
        return weight.unbind() if self._runs else (weight.flatten(1),)

    def _checked_runs(self, found: Mapping[str, Tensor]) -> int:
        """R, or 0 for a module."""
        if isinstance(self._source, nn.Module):
            return 0
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        first = next(iter(shapes.values()))
        for name, shape in shapes.items():
            if len(shape) != 3 or shape[0] != first[0] or shape[0] == 0:
                raise InputError(
                    f"{_WHAT}: weights must be stacks [R, m, n] with one R >= 1, "
                    f"got {list(shape)} for {name}"
                )
        return first[0]

    def _checked_targets(self, target: Any) -> Tensor:
        """`[L, 1]`, `[1, 1]` or `[1, R]`."""
        if not isinstance(target, Mapping):
            return self._per_run("target", target)[None]
        if set(target) != set(self.names):
            raise InputError(
                f"{_WHAT}: target must have the names {', '.join(self.names)}, "
                f"got {', '.join(map(str, target))}"
            )
        column = torch.tensor([float(target[name]) for name in self.names], dtype=torch.float64)
        return _finite("target", column)[:, None]

    def _per_run(self, name: str, value: Any) -> Tensor:
        """`[1]` or `[R]`."""
        values = torch.as_tensor(value, dtype=torch.float64).detach()
        if values.ndim > 0 and (not self._runs or tuple(values.shape) != (self._runs,)):
            expected = f"a number or [R] = [{self._runs}]" if self._runs else "a number"
            raise InputError(f"{_WHAT}: {name} must be {expected}, got shape {list(values.shape)}")
        return _finite(name, values).reshape(-1)


def _finite(name: str, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise InputError(f"{_WHAT}: {name} must be finite, got {values.tolist()}")
    return values


def _included(include: Include | None, name: str, tensor: Tensor) -> bool:
    if include is None:
        return True
    if callable(include):
        return bool(include(name, tensor))
    return any(fnmatchcase(name, pattern) for pattern in include)
