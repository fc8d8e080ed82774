"""Walks over the weights of a module."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize


def module_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, owner and tensor of each weight of 2 or more axes, in the module's order.

    A parametrised weight comes as what it computes, a shared one once, under its first name.
    """
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        if isinstance(part, parametrize.ParametrizationList):
            continue  # its owner yields what it computes
        dot = f"{prefix}." if prefix else ""
        if parametrize.is_parametrized(part):
            for name in part.parametrizations:  # type: ignore[union-attr]
                tensor = getattr(part, name)
                if tensor.ndim >= 2:
                    yield dot + name, part, tensor
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim >= 2 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield dot + name, part, parameter
