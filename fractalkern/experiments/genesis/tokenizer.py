"""Texts to numbers: a byte-pair tokenizer trained on the problems themselves, or a given one.

The embedded one splits and merges as GPT-2's does, so every word and number of the problems becomes
one token, the space before it included; its bytes are tokens 0 to 255.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from fractalkern.errors import InputError

# GPT-2's: contractions, letters, digits, other signs, each with the space before it.
_PIECES = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
_END = "<|endoftext|>"


class Tokenizer(Protocol):
    """What the experiment needs of a tokenizer."""

    size: int
    end: int

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; the end has none."""

    def files(self, kept: Sequence[int] | None = None) -> dict[str, bytes]:
        """By name, what a folder needs for transformers to load the tokenizer from it.

        With `kept`, token `kept[i]` has number i there, and the others, which a model of so many
        tokens does not have, come behind.

        Raises:
            InputError: the tokens of this kind of tokenizer cannot be numbered anew.
        """


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

    def files(self, kept: Sequence[int] | None = None) -> dict[str, bytes]:
        """GPT-2's: vocab.json, merges.txt and two of settings."""
        signs = _signs()
        spelled = {token: "".join(signs[b] for b in byte) for token, byte in self._bytes.items()}
        spelled[self.end] = _END
        order = _order(range(self.size), kept)
        merges = [f"{spelled[left]} {spelled[right]}" for left, right in self.merges]
        special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _END)
        settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special}
        return {
            "vocab.json": _json({spelled[token]: number for number, token in enumerate(order)}),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
            "tokenizer_config.json": _json(settings),
            "special_tokens_map.json": _json(special),
        }


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
            raise InputError(
                f"tokenizer must be a folder with a tokenizer or a name on the hub, "
                f"got {place!r} ({_refusal(place, error)})"
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

    def files(self, kept: Sequence[int] | None = None) -> dict[str, bytes]:
        """What transformers itself writes, with `kept` numbered anew in tokenizer.json."""
        with TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return files if kept is None else _numbered_anew(files, kept, self.size)


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

    def files(self, kept: Sequence[int] | None = None) -> dict[str, bytes]:
        """Of the whole tokenizer; a text with a token that is left out has one too high there."""
        return self._tokenizer.files(self._old if kept is None else [self._old[t] for t in kept])


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


def _numbered_anew(files: Mapping[str, bytes], kept: Sequence[int], size: int) -> dict[str, bytes]:
    """The files of a tokenizer of transformers, with new numbers in its tokenizer.json."""
    content = json.loads(files.get("tokenizer.json", b"{}"))
    vocabulary = content.get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict):
        raise InputError(
            "tokenizer must be one whose tokens can be numbered anew, with a vocabulary in its "
            "tokenizer.json, if vocabulary is 0: its trained models could not be saved; ask "
            f"for a vocabulary of at least {size}"
        )
    added = content.get("added_tokens", [])
    known = {*vocabulary.values(), *(token["id"] for token in added)}
    number = {token: new for new, token in enumerate(_order(sorted(known), kept))}
    content["model"]["vocab"] = {text: number[token] for text, token in vocabulary.items()}
    content["added_tokens"] = sorted(
        ({**token, "id": number[token["id"]]} for token in added), key=lambda token: token["id"]
    )
    content["post_processor"] = None  # it may put in tokens by their old numbers
    settings = json.loads(files["tokenizer_config.json"])
    settings.pop("added_tokens_decoder", None)
    own = {"tokenizer.json": _json(content), "tokenizer_config.json": _json(settings)}
    others = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")
    return {name: data for name, data in files.items() if name not in others} | own


def _refusal(place: str, error: Exception) -> str:
    """Why transformers found no tokenizer; its own words are about other causes than a path's."""
    if Path(place).is_dir():
        return "the folder has no tokenizer's files"
    if place.startswith((".", "/", "~")):
        return "there is no such folder"
    return str(error).strip().splitlines()[0]


def _order(tokens: Iterable[int], kept: Sequence[int] | None) -> list[int]:
    """All tokens, those of `kept` first."""
    first = dict.fromkeys(kept or ())
    return [*first, *(token for token in tokens if token not in first)]


def _signs() -> list[str]:
    """How GPT-2's files spell each byte: as itself where it prints, else as one from 256 on."""
    prints = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()
