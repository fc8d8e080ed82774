"""What is learnt: the characters of a text, the last tenth of which is for validation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.experiments import records
from fractalkern.experiments.fractalformer.config import FractalFormerConfig
from fractalkern.experiments.text_file import inputs_of, numbered, read_text

_PROBES = 64  # windows of an evaluation, of either part
_HELD_OUT = 10  # the last of so many parts


@dataclass(frozen=True)
class Corpus:
    """Characters by number.

    Attributes:
        inputs: what tells the text of a file from others; empty for generated text.
        alphabet: the characters.
        train: int64 `[N]`.
        validation: int64, the text behind it.
        context: characters that a prediction sees.
    """

    inputs: dict[str, object]
    alphabet: str
    train: Tensor
    validation: Tensor
    context: int

    @property
    def places(self) -> int:
        """Where in `train` a window of context + 1 may begin: 0 to this number - 1."""
        return len(self.train) - self.context

    def probes(self) -> Tensor:
        """Windows spread evenly over both parts, int64 `[2, P, context + 1]`: train, validation."""
        return torch.stack([_spread(part, self.context) for part in (self.train, self.validation)])

    def by_frequency(self) -> float:
        """Nats a character of the validation text by the frequencies of the training text alone."""
        counts = self.train.bincount(minlength=len(self.alphabet)).double() + 1
        return float(-(counts / counts.sum()).log()[self.validation].mean())

    def said(self, tokens: Tensor) -> str:
        """Tokens `[T]` as text."""
        return "".join(self.alphabet[number] for number in tokens.tolist())


def _spread(part: Tensor, context: int) -> Tensor:
    starts = torch.linspace(0, len(part) - context - 1, _PROBES, dtype=torch.float64).long()
    return part[starts[:, None] + torch.arange(context + 1)]


def corpus(config: FractalFormerConfig) -> Corpus:
    """Of generated records, or of a text file.

    Raises:
        InputError: the file cannot be read as text; the text is too short.
    """
    if config.text:
        text, name = read_text(config.text), "text must have"
    else:
        some = records.conversations(config.texts, config.seed)
        text, name = "".join(one.text for one in some), "texts must make"
    kept = len(text) - len(text) // _HELD_OUT
    # Validation windows must differ, and a step needs its places.
    fewest = _HELD_OUT * (config.context + max(_PROBES, config.batch))
    if len(text) < fewest:
        raise InputError(f"{name} at least {fewest:,} characters, got {len(text):,}")
    alphabet, tokens = numbered(text)
    inputs = inputs_of(text) if config.text else {}
    return Corpus(inputs, alphabet, tokens[:kept], tokens[kept:], config.context)
