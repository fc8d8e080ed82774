"""The model, and the models inside it.

Level l has M = 2^l sub-models of width d = D / M. Model m of them is made of

    [m d, m d + d)               of the embedding's columns, the norms' scales, and of whatever axis
                                 of a weight belongs to the residual stream
    [m 4d, m 4d + 4d)            of the inner axis of gate, up and down, and of their biases
    [q H + m h, q H + m h + h)   of the axis of all heads, for each head q, h = H / M of its H

so it lies inside model floor(m / 2) of level l - 1, and blocks off the diagonal belong to larger
models alone. All sub-models of a level are computed at once, with a leading axis of models.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 100.0
_INNER = 4  # width of a layer's inner axis over the model's
_EPSILON = 1e-6
_UNSEEN = -2.38e38  # added to the score of a later token


def normalised(x: Tensor, scale: Tensor) -> Tensor:
    """x over its root mean square along the last axis, times 1 + `scale`."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + _EPSILON) * (1 + scale)


@dataclass(frozen=True)
class Cut:
    """Which sub-models: of `level`, all 2^level or number `model` alone. Stacks have their axis."""

    level: int
    model: int | None = None

    @property
    def parts(self) -> int:
        """Sub-models of the level."""
        return 1 << self.level

    def _chosen(self, stack: Tensor) -> Tensor:
        return stack if self.model is None else stack[self.model : self.model + 1]

    def vector(self, weight: Tensor) -> Tensor:
        """`[D]` to `[M, 1, d]`."""
        return self._chosen(weight.view(self.parts, 1, -1))

    def columns(self, weight: Tensor) -> Tensor:
        """`[V, D]` to `[M, V, d]`."""
        return self._chosen(weight.view(len(weight), self.parts, -1).transpose(0, 1))

    def block(self, weight: Tensor) -> Tensor:
        """`[D, C]` to `[M, D / M, C / M]`, the blocks on the diagonal."""
        rows, columns = (size // self.parts for size in weight.shape)
        blocks = weight.view(self.parts, rows, self.parts, columns)
        return self._chosen(blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0))

    def to_heads(self, weight: Tensor, heads: int) -> Tensor:
        """`[D, heads H]` to `[M, d, heads h]`: a part of each head."""
        rows, columns = (size // self.parts for size in weight.shape)
        blocks = weight.view(self.parts, rows, heads, self.parts, columns // heads)
        return self._chosen(blocks.diagonal(dim1=0, dim2=3).movedim(-1, 0)).flatten(2)

    def from_heads(self, weight: Tensor, heads: int) -> Tensor:
        """`[heads H, D]` to `[M, heads h, d]`."""
        return self.to_heads(weight.mT, heads).mT


class Layer(nn.Module):
    """Causal multi-query attention and a gated network, each added to what it normalised."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        inner = _INNER * width
        self.before_attention = nn.Parameter(torch.zeros(width))
        self.query = _uniform(width, width)
        self.key = _uniform(width, width // heads)
        self.value = _uniform(width, width // heads)
        self.output = _uniform(width, width)
        self.before_network = nn.Parameter(torch.zeros(width))
        self.gate, self.gate_bias = _uniform(width, inner), _uniform(width, inner, bias=True)
        self.up, self.up_bias = _uniform(width, inner), _uniform(width, inner, bias=True)
        self.down, self.down_bias = _uniform(inner, width), _uniform(inner, width, bias=True)

    def forward(self, x: Tensor, cut: Cut, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """`x` `[M, B, T, d]`; `mask` `[T, T]` is added to the scores."""
        y = normalised(x.flatten(1, 2), cut.vector(self.before_attention))
        added = self._attention(y, x.shape, cut, cosine, sine, mask)
        x = x + F.dropout(added, self.dropout, self.training).view(x.shape)
        y = normalised(x.flatten(1, 2), cut.vector(self.before_network))
        gate = F.gelu(y @ cut.block(self.gate) + cut.vector(self.gate_bias))
        up = y @ cut.block(self.up) + cut.vector(self.up_bias)
        added = (gate * up) @ cut.block(self.down) + cut.vector(self.down_bias)
        summed: Tensor = x + F.dropout(added, self.dropout, self.training).view(x.shape)
        return summed

    def _attention(
        self, y: Tensor, shape: torch.Size, cut: Cut, cosine: Tensor, sine: Tensor, mask: Tensor
    ) -> Tensor:
        models, batch, length, _ = shape
        by_head = models, batch, self.heads, length, -1
        query, key, value = (
            (y @ cut.to_heads(weight, heads)).view(models, batch, length, heads, -1).transpose(2, 3)
            for weight, heads in ((self.query, self.heads), (self.key, 1), (self.value, 1))
        )
        query, key = _turned(query, cosine, sine), _turned(key, cosine, sine)
        # All heads have the same keys: their queries stand below each other.
        scores = query.flatten(2, 3) @ key.squeeze(2).mT * query.shape[-1] ** -0.5
        weights = (scores.view(by_head) + mask).softmax(dim=-1)
        mixed = (weights.flatten(2, 3) @ value.squeeze(2)).view(by_head)
        mixed = mixed.transpose(2, 3).reshape(models, batch * length, -1)
        attended: Tensor = mixed @ cut.from_heads(self.output, self.heads)
        return attended


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs (i, i + h / 2) of `x` `[..., T, h]` turned by the angles of their position."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)


def _uniform(inputs: int, outputs: int, bias: bool = False) -> nn.Parameter:
    shape = (outputs,) if bias else (inputs, outputs)
    bound: float = inputs**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class FractalFormer(nn.Module):
    """The language model with the models inside it.

    Args:
        vocabulary: tokens.
        context: most positions.
        width: D.
        heads: of each layer.
        layers: of every sub-model.
        levels: how many there are; D is a multiple of heads 2^levels.
        scaled: logits are divided by the root of d.
        first_output_norm: the norm of the output embedding takes its scale from model 0 of the
            level for all of them, as the original does.
        dropout: on what a layer adds.

    Weights are uniform to the inverse root of their inputs, the embedding is normal, scales are 0.

    >>> import torch
    >>> from fractalkern.experiments.fractalformer.model import FractalFormer
    >>> model = FractalFormer(30, context=16, width=32, heads=4, layers=1, levels=3)
    >>> model(torch.zeros(5, 7).long(), level=2, model=3).shape
    torch.Size([5, 7, 30])
    >>> model(torch.zeros(5, 7).long(), level=2).shape
    torch.Size([4, 5, 7, 30])
    """

    cosine: Tensor
    sine: Tensor
    mask: Tensor

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        heads: int,
        layers: int,
        levels: int,
        *,
        scaled: bool = True,
        first_output_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.levels, self.scaled, self.first_output_norm = levels, scaled, first_output_norm
        self.embedding = nn.Parameter(torch.randn(vocabulary, width))
        self.input_norm = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.final_norm = nn.Parameter(torch.zeros(width))
        self.output_norm = nn.Parameter(torch.zeros(width))
        head = width // heads
        frequencies = ROTARY_BASE ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
        angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
        mask = torch.full((context, context), _UNSEEN).triu(1)
        for name, table in (
            ("cosine", angles.cos().float()),
            ("sine", angles.sin().float()),
            ("mask", mask),
        ):
            self.register_buffer(name, table, persistent=False)

    def forward(self, tokens: Tensor, level: int, model: int | None = None) -> Tensor:
        """Logits of the tokens behind `tokens` int64 `[B, T]`.

        Returns:
            `[B, T, V]` of one sub-model; `[2^level, B, T, V]` of all those of the level, if `model`
            is None.
        """
        cut = Cut(level, model)
        length = tokens.shape[1]
        # A head's frequencies at level l are every 2^l-th of those at level 0.
        tables = (
            self.cosine[:length, :: cut.parts],
            self.sine[:length, :: cut.parts],
            self.mask[:length, :length],
        )
        embedding = cut.columns(self.embedding)
        x = normalised(embedding, cut.vector(self.input_norm))[:, tokens]
        for layer in self.layers:
            x = layer(x, cut, *tables)
        x = normalised(x.flatten(1, 2), cut.vector(self.final_norm))
        scale = Cut(level, 0) if self.first_output_norm else cut
        logits = x @ normalised(embedding, scale.vector(self.output_norm)).mT
        if self.scaled:
            logits = logits * embedding.shape[-1] ** -0.5
        logits = logits.view(-1, *tokens.shape, embedding.shape[1])
        return logits if model is None else logits[0]


def parameters_of(vocabulary: int, width: int, heads: int, layers: int) -> int:
    """Parameters of a sub-model of that width.

    >>> from fractalkern.experiments.fractalformer.model import parameters_of
    >>> [parameters_of(128, width, heads=4, layers=4) for width in (128, 64, 32)]
    [972672, 248768, 64992]
    """
    square = width * width
    attention = 2 * square + 2 * square // heads
    network = 3 * _INNER * square + (2 * _INNER + 1) * width
    return vocabulary * width + 3 * width + layers * (attention + network + 2 * width)
