"""Dropout that depends on the run, the step, the call and the element, never on a generator.

Element e of dropout call c (counted in the forward pass from 0) in step t of a run with seed q:

    words = philox4x32(counter = (e div 4, c, t, DROPOUT_STREAM), key = (q mod 2^32, q div 2^32))
    kept iff words[e mod 4] >= p 2^32, rounded

so a mask is the same whoever shares the batch, on every device. Only `F.dropout` and the dropout of
`F.scaled_dot_product_attention` are replaced; vmap refuses what else draws.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fractalkern.ops.dropout_mask import dropout_mask

ORDER_STREAM = 0x6F726472
DROPOUT_STREAM = 0x64726F70
_LOW = 0xFFFFFFFF


def key_words(seed: int) -> tuple[int, int]:
    """The two words of the key of a seed from 0 to 2^64 - 1."""
    return seed & _LOW, seed >> 32


class _Dropout(TorchFunctionMode):
    """Inside, the forward pass of one run draws its masks from `key` and `step`."""

    def __init__(self, key: Tensor, step: int) -> None:
        super().__init__()
        self.key, self.step, self.call = key, step, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return input
        place = self.call, self.step, DROPOUT_STREAM
        scale = 1 / (1 - p) if p < 1 else 0.0
        wide = input.dtype == torch.float64  # a mask is float32: its scale would not be exact
        mask = dropout_mask(
            self.key, input.numel(), *place, round(p * 2**32), 1.0 if wide else scale
        )
        self.call += 1
        dropped = input * mask.view(input.shape).to(input.dtype)
        return dropped * scale if wide else dropped

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if dropout_p == 0:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            past = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~past, -torch.inf)
        if attn_mask is not None:
            fits = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if fits else scores + attn_mask
        return self._dropout(scores.softmax(-1), dropout_p) @ value


def drops_in(call: Callable[[], Any], device: torch.device) -> bool:
    """Whether `call` drops anything, by a module or by a function."""
    seen = _Dropout(torch.zeros(2, dtype=torch.int64, device=device), 0)
    with seen:
        call()
    return seen.call > 0


@contextmanager
def dropout_of(key: Tensor, step: int, active: bool) -> Iterator[None]:
    """The forward pass of the run with the seed words `key` [2] in step `step`."""
    if not active:
        yield
        return
    with _Dropout(key, step):
        yield
