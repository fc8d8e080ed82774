"""A transformer as nanochat's, plain enough for `torch.func.vmap`.

Rotary positions, then a norm without parameters, on queries and keys; the same norm behind the
embedding, before each half of a block and before the head; squared ReLU; no biases; a head of its
own; logits bent by c tanh(z / c).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0
_INNER = 4  # width of a block's inner layer over the model's
_EPSILON = 1e-6


def normalised(x: Tensor) -> Tensor:
    """x over its root mean square along the last axis; NaN where the squares overflow."""
    mean = x.square().mean(dim=-1, keepdim=True)
    # An infinite mean would make x 0 and a diverged run's loss that of guessing.
    return x * (torch.rsqrt(mean + _EPSILON) + 0 * mean)


def rotary_angles(length: int, width: int) -> Tensor:
    """Position times frequency, `[length, width / 2]`."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs (i, i + width / 2) of `x` `[..., T, width]` turned by the angles of their position."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine + second * sine, second * cosine - first * sine), dim=-1)


class Block(nn.Module):
    """Causal self-attention and a two-layer network, each added to what it normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.inner = nn.Linear(width, _INNER * width, bias=False)
        self.outer = nn.Linear(_INNER * width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, hidden: Tensor) -> Tensor:
        """`x` `[B, T, width]`; `hidden` bool `[T, T]`: what a query may not see."""
        x = x + self._attention(normalised(x), cosine, sine, hidden)
        added: Tensor = x + self.outer(F.relu(self.inner(normalised(x))).square())
        return added

    def _attention(self, x: Tensor, cosine: Tensor, sine: Tensor, hidden: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query, key = (normalised(rotated(one, cosine, sine)) for one in (query, key))
        scores = query @ key.mT * query.shape[-1] ** -0.5
        weights = scores.masked_fill(hidden, torch.finfo(x.dtype).min).softmax(dim=-1)
        mixed: Tensor = self.output((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class Transformer(nn.Module):
    """The language model.

    Args:
        vocabulary: tokens.
        length: most positions.
        width: of the model, a multiple of twice `heads`.
        layers: blocks.
        heads: of each block.
        soft_cap: c of the logits c tanh(z / c); 0: they are not bent.

    >>> import torch
    >>> from fractalkern.experiments.finetune.model import Transformer
    >>> Transformer(30, length=16, width=8, layers=1, heads=2)(torch.zeros(3, 5).long()).shape
    torch.Size([3, 5, 30])
    """

    cosine: Tensor
    sine: Tensor
    hidden: Tensor

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        soft_cap: float = 15.0,
    ) -> None:
        super().__init__()
        self.soft_cap = soft_cap
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        angles = rotary_angles(length, width // heads)
        hidden = ~torch.ones(length, length, dtype=torch.bool).tril()
        for name, table in (
            ("cosine", angles.cos().float()),
            ("sine", angles.sin().float()),
            ("hidden", hidden),
        ):
            self.register_buffer(name, table, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, T, vocabulary]` of the tokens behind `tokens` int64 `[B, T]`."""
        length = tokens.shape[1]
        tables = self.cosine[:length], self.sine[:length], self.hidden[:length, :length]
        x = normalised(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, *tables)
        logits: Tensor = self.head(normalised(x))
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits


def initialise(model: Transformer) -> None:
    """Normal weights of variance 1 / inputs, the embedding's 1; what is added to the stream and the
    head start at 0, so that every block is the identity and every token as likely."""
    nn.init.normal_(model.embedding.weight)
    for name, parameter in model.named_parameters():
        if name.endswith(("output.weight", "outer.weight", "head.weight")):
            nn.init.zeros_(parameter)
        elif name.startswith("blocks."):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
