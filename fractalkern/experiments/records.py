"""Generated documents, and questions about them, for small language models.

    document      name:mira,city:oslo,age:41,item:lamp.
    conversation  name:mira,city:oslo,age:41,item:lamp?city=oslo.

The answer is a short piece of the document that stands before the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fractalkern import random

KEYS = ("age", "city", "day", "item", "name", "sum")
_FIELDS = 4  # of a document
_SYLLABLES = tuple(a + b for a in "bdklmnrstv" for b in "aeiou")
_STREAM = 0x66743030
_ROW = (
    2 + 4 * _FIELDS
)  # uniform numbers of a conversation: which fields, their values, the question

END = "."
ALPHABET = "".join(sorted(set("".join(KEYS) + "".join(_SYLLABLES) + "0123456789:,?=" + END)))


@dataclass(frozen=True)
class Conversation:
    """A document without its end, a question about it, the answer with its end."""

    document: str
    question: str
    answer: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.document + self.question + self.answer


def conversations(count: int, seed: int) -> list[Conversation]:
    """The first `count` conversations of a seed; more of them begin with the same.

    >>> from fractalkern.experiments.records import conversations
    >>> conversations(2, seed=0)[1].text
    'city:dumu,age:14,name:rabu,day:12?day=12.'
    """
    rows = random.uniform((count, _ROW), seed=seed, stream=_STREAM).tolist()
    return [_conversation(row) for row in rows]


def _conversation(row: Sequence[float]) -> Conversation:
    left, fields = list(KEYS), []
    for place in range(_FIELDS):
        which, *value = row[2 + 4 * place : 6 + 4 * place]
        key = left.pop(int(which * len(left)))
        fields.append((key, _value(key, value)))
    key, answer = fields[int(row[0] * len(fields))]
    document = ",".join(f"{name}:{value}" for name, value in fields)
    return Conversation(document, f"?{key}=", answer + END)


def _value(key: str, row: Sequence[float]) -> str:
    if key in ("age", "day", "sum"):
        low, high = {"age": (10, 100), "day": (1, 31), "sum": (100, 1000)}[key]
        return str(low + int(row[0] * (high - low)))
    return "".join(_SYLLABLES[int(u * len(_SYLLABLES))] for u in row[:2])


LONGEST = len(",".join(f"{key}:abcd" for key in ("city", "item", "name", "sum"))) + len(
    "?city=abcd."
)
