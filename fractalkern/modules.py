"""Walks over the weights of a module."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize


def weights_of(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Full name, owner and attribute of each weight of 2 or more axes, in the module's order.

    `getattr(owner, attribute)` reads it: a parametrised weight as what it computes. A weight that
    several modules share comes once, under its first name. Buffers are no weights, parametrised or
    not.
    """
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        if isinstance(owner, parametrize.ParametrizationList):
            continue
        lists = getattr(owner, "parametrizations", {}) if parametrize.is_parametrized(owner) else {}
        sources = dict(owner.named_parameters(recurse=False))
        originals = {name: next(item.parameters(), None) for name, item in lists.items()}
        sources |= {name: source for name, source in originals.items() if source is not None}
        for attribute, source in sources.items():
            if id(source) in seen or ".parametrizations" in f".{prefix}":
                continue
            tensor = getattr(owner, attribute)
            if tensor.dim() >= 2 and tensor.is_floating_point():
                seen.add(id(source))
                yield f"{prefix}.{attribute}" if prefix else attribute, owner, attribute
