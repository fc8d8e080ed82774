"""A text file to train on, as characters by number."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from fractalkern.errors import InputError


def read_text(name: str) -> str:
    """The text of a file.

    Raises:
        InputError: it cannot be read as UTF-8, or has not two different characters.
    """
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"text must be a readable file, but {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"text must be UTF-8, but {path}: {error}") from error
    if len(set(text)) < 2:  # what is foretold without a loss
        raise InputError(
            f"text must have two different characters, but {path} has {len(set(text))}"
        )
    return text


def numbered(text: str) -> tuple[str, Tensor]:
    """The different characters of a text, and the text as their numbers, int64 `[N]`.

    >>> from fractalkern.experiments.text_file import numbered
    >>> numbered("banana")
    ('abn', tensor([1, 0, 2, 0, 2, 0]))
    """
    alphabet = "".join(sorted(set(text)))
    number = {character: place for place, character in enumerate(alphabet)}
    return alphabet, torch.tensor([number[character] for character in text])


def inputs_of(text: str) -> dict[str, object]:
    """What a run folder is bound to besides the settings, which know the path of a file alone."""
    return {"SHA-256 of the text": hashlib.sha256(text.encode()).hexdigest()}
