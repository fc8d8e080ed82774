"""What the model is trained on: characters, and which of them a loss counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fractalkern.errors import InputError
from fractalkern.experiments import records
from fractalkern.experiments.finetune.config import FinetuneConfig
from fractalkern.experiments.text_file import inputs_of, numbered, read_text

# Seeds of the documents that are learnt first, of the conversations and of the probe.
_BASE, _TUNING, _PROBE = range(3)
_PROBES = 64


@dataclass(frozen=True)
class Texts:
    """Attributes: `tokens` int64 `[N, T]`; `counted` bool `[N, T]`, the targets of a loss."""

    tokens: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Corpus:
    """Characters by number, and three sets of texts of one length.

    Attributes:
        inputs: what tells the text of a file from others; empty for generated texts.
        alphabet: the characters.
        base: what is learnt first; every character counts.
        tuning: what the grid is trained on.
        probe: texts of the same kind that are not trained on.
    """

    inputs: dict[str, object]
    alphabet: str
    base: Texts
    tuning: Texts
    probe: Texts

    @property
    def length(self) -> int:
        """Characters of a text."""
        return self.tuning.tokens.shape[1]


def corpus(config: FinetuneConfig) -> Corpus:
    """Of generated records, or of the two halves of a text file.

    Raises:
        InputError: the file cannot be read as text, or is too short.
    """
    return _of_file(config) if config.text else _of_records(config)


def _of_records(config: FinetuneConfig) -> Corpus:
    base, tuning, probe = (
        records.conversations(count, random_seed)
        for count, random_seed in (
            (config.texts, 3 * config.seed + _BASE),
            (config.texts, 3 * config.seed + _TUNING),
            (_PROBES, 3 * config.seed + _PROBE),
        )
    )
    documents = [(one.document + records.END, 0) for one in base]
    return Corpus(
        {},
        records.ALPHABET,
        _encoded(documents, records.ALPHABET, records.LONGEST),
        *(
            _encoded([(one.text, len(one.text) - len(one.answer)) for one in some],
                     records.ALPHABET, records.LONGEST)
            for some in (tuning, probe)
        ),
    )  # fmt: skip


def _encoded(texts: Sequence[tuple[str, int]], alphabet: str, length: int) -> Texts:
    """Texts, each with the place from which on its characters count, padded behind."""
    number = {character: place for place, character in enumerate(alphabet)}
    tokens = torch.full((len(texts), length), number[records.END])
    counted = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, (text, start) in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor([number[character] for character in text])
        counted[row, start : len(text)] = True
    return Texts(tokens, counted)


def _of_file(config: FinetuneConfig) -> Corpus:
    text = read_text(config.text)
    alphabet, tokens = numbered(text)
    length = records.LONGEST
    rows = tokens[: len(tokens) // length * length].view(-1, length)
    half = len(rows) // 2
    tuned = half - _PROBES
    if tuned < config.batch:
        raise InputError(
            f"text must have at least {2 * length * (_PROBES + config.batch):,} characters, "
            f"but {config.text} has {len(text):,}"
        )
    parts = rows[:half], rows[half : half + tuned], rows[half + tuned : half + tuned + _PROBES]
    every = (Texts(part, torch.ones_like(part, dtype=torch.bool)) for part in parts)
    return Corpus(inputs_of(text), alphabet, *every)
