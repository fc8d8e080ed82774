"""GPT-2 with a language-model head, plain enough for `torch.func.vmap`.

Names and shapes of its parameters, and its output, are those of `GPT2LMHeadModel` of transformers:
either's state dict fits the other.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INNER = 4  # width of a block's inner layer over the model's


class Projection(nn.Module):
    """x W + b with W `[in, out]`, as GPT-2 keeps it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return x @ self.weight + self.bias


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = Projection(width, 3 * width)
        self.c_proj = Projection(width, width)
        self.attn_dropout = nn.Dropout(dropout)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """`x` `[B, T, width]`; `hidden` bool `[B or 1, 1, T, K]`: what a query may not see.

        The K first positions are keys.
        """
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        keys = hidden.shape[-1]
        key, value = key[:, :, :keys], value[:, :, :keys]
        scores = query @ key.mT / math.sqrt(width // self.heads)
        weights = scores.masked_fill(hidden, torch.finfo(x.dtype).min).softmax(dim=-1)
        mixed = self.attn_dropout(weights) @ value
        merged = mixed.transpose(1, 2).reshape(batch, length, width)
        dropped: Tensor = self.resid_dropout(self.c_proj(merged))
        return dropped


class Inner(nn.Module):
    """The two-layer network of a block."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.c_fc = Projection(width, _INNER * width)
        self.c_proj = Projection(_INNER * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]`."""
        dropped: Tensor = self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))
        return dropped


class Block(nn.Module):
    """Attention and inner network, each normalised before and added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Inner(width, dropout)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """`[B, T, width]`."""
        x = x + self.attn(self.ln_1(x), hidden)
        added: Tensor = x + self.mlp(self.ln_2(x))
        return added


class Body(nn.Module):
    """All but the head."""

    def __init__(
        self, vocabulary: int, positions: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(positions, width)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """`[B, T]` to `[B, T, width]`."""
        x = self.drop(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.h:
            x = block(x, hidden)
        normalised: Tensor = self.ln_f(x)
        return normalised


class GPT2(nn.Module):
    """The language model; the head is the embedding's transpose.

    >>> import torch
    >>> from fractalkern.experiments.genesis.model import GPT2
    >>> model = GPT2(50, positions=16, width=8, layers=1, heads=2)
    >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 50])
    """

    def __init__(
        self,
        vocabulary: int = 50_257,
        positions: int = 256,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.transformer = Body(vocabulary, positions, width, layers, heads, dropout)

    def forward(
        self,
        tokens: Tensor,
        padding: Tensor | None = None,
        keys: int = 0,
        at: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, T, vocabulary]` of the next tokens.

        Args:
            tokens: int64 `[B, T]`.
            padding: bool `[B, T]`, true where no other position may look.
            keys: the positions behind the first `keys` are all padding, so need not be looked at;
                0 if that is not known.
            at: int64 `[B]`: the logits `[B, vocabulary]` behind these positions alone.
        """
        length = tokens.shape[1]
        seen = torch.ones(length, keys or length, dtype=torch.bool, device=tokens.device).tril()
        hidden = ~seen[None, None]
        if padding is not None:
            hidden = hidden | padding[:, None, None, : keys or length]
        x = self.transformer(tokens, hidden)
        if at is not None:
            x = x.gather(1, at[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return F.linear(x, self.transformer.wte.weight)
