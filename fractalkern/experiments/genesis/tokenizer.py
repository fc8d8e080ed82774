"""Texts to numbers: a byte-pair tokenizer trained on the problems themselves, or a given one.

The embedded one splits and merges as GPT-2's does, so every word and number of the problems becomes
one token, the space before it included; its bytes are tokens 0 to 255.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fractalkern.errors import InputError

_PIECES = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


class Tokenizer(Protocol):
    """What the experiment needs of a tokenizer."""

    size: int
    end: int

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; the end has none."""


class BytePairs:
    """Byte-pair encoding with the merges that `texts` give; its last token is the end.

    >>> from fractalkern.experiments.genesis.tokenizer import BytePairs
    >>> pairs = BytePairs(["What is 12? 12"] * 2)
    >>> [pairs.decode([token]) for token in pairs.encode("What is 12?")]
    ['What', ' is', ' 12', '?']
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = Counter(piece for text in texts for piece in _PIECES.findall(text))
        words = {word: tuple(word.encode()) for word in counts}
        self.merges: dict[tuple[int, int], int] = {}
        while True:
            pairs: Counter[tuple[int, int]] = Counter()
            for word, tokens in words.items():
                for pair in itertools.pairwise(tokens):
                    pairs[pair] += counts[word]
            # The most frequent pair, of equals the first by its tokens.
            best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]), default=None)
            if best is None or pairs[best] < 2:
                break
            self.merges[best] = 256 + len(self.merges)
            words = {w: _merged(tokens, best, self.merges[best]) for w, tokens in words.items()}
        self.end = 256 + len(self.merges)
        self.size = self.end + 1
        self._known: dict[str, tuple[int, ...]] = {}
        self._bytes = {token: bytes([token]) for token in range(256)}
        for (left, right), token in self.merges.items():
            self._bytes[token] = self._bytes[left] + self._bytes[right]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [token for piece in _PIECES.findall(text) for token in self._piece(piece)]

    def _piece(self, piece: str) -> tuple[int, ...]:
        if piece not in self._known:
            tokens = tuple(piece.encode())
            for pair, token in self.merges.items():
                tokens = _merged(tokens, pair, token)
            self._known[piece] = tokens
        return self._known[piece]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; the end and padding have none."""
        return b"".join(self._bytes.get(token, b"") for token in tokens).decode(errors="replace")


class Pretrained:
    """A tokenizer that `transformers` loads from a folder or the hub.

    Raises:
        InputError: transformers is not installed, or there is no tokenizer in that place.
    """

    def __init__(self, place: str) -> None:
        try:
            transformers = import_module("transformers")
        except ImportError as error:
            raise InputError(
                "tokenizer must be empty where transformers is not installed, "
                f"got {place!r}: pip install 'fractalkern[llm]' ({error})"
            ) from error
        if Path(place).is_file():
            raise InputError(f"tokenizer must be a folder or a name on the hub, got file {place!r}")
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"tokenizer must be a folder with a tokenizer or a name on the hub, "
                f"got {place!r} ({reason})"
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise InputError(f"tokenizer must have an end-of-text token, got {place!r} without one")
        self.end = int(self._tokenizer.eos_token_id)
        self.size = len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; the end has none."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


class Sliced:
    """Another tokenizer, of which only the tokens of `texts` are left, numbered anew; end last."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        used = sorted({token for text in texts for token in tokenizer.encode(text)})
        self._old = [*used, tokenizer.end]
        self._new = {token: number for number, token in enumerate(self._old)}
        self.size, self.end = len(self._old), len(self._old) - 1

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [self._new[token] for token in self._tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; the end has none."""
        return self._tokenizer.decode([self._old[token] for token in tokens])


def tokenizer_of(place: str, texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """The tokenizer at `place` or the embedded one; with `vocabulary` 0 only what `texts` use.

    Raises:
        InputError: as `Pretrained`, or the vocabulary is smaller than the tokenizer's.
    """
    tokenizer: Tokenizer = Pretrained(place) if place else BytePairs(texts)
    if vocabulary == 0:
        return Sliced(tokenizer, texts)
    if vocabulary < tokenizer.size:
        raise InputError(
            f"vocabulary must be 0 or at least the tokenizer's {tokenizer.size} tokens, "
            f"got {vocabulary}"
        )
    return tokenizer


def _merged(tokens: tuple[int, ...], pair: tuple[int, int], token: int) -> tuple[int, ...]:
    out: list[int] = []
    place = 0
    while place < len(tokens):
        if tokens[place : place + 2] == pair:
            out.append(token)
            place += 2
        else:
            out.append(tokens[place])
            place += 1
    return tuple(out)
