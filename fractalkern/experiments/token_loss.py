"""The loss of a language model at the places that count; made for `torch.func.vmap`."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

Model = Callable[..., Any]


def spoken_loss(model: Model, tokens: Tensor, spoken: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens `spoken` `[B, T]` but the first: padding does not count."""
    losses, counted = next_token_losses(model(tokens[:, :-1]), tokens, spoken)
    return (losses * counted).sum() / counted.sum()


def next_token_losses(logits: Tensor, tokens: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Of the tokens behind the first, `[B, T - 1]`: cross-entropy, and 1 where `which` is true."""
    targets = tokens[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape), which[:, 1:].to(logits.dtype)
