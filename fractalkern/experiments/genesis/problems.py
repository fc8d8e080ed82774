"""The four kinds of arithmetic texts: all that exist, what is held out, what is drawn to train."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from fractalkern import random

KINDS = ("addition", "subtraction", "eating", "steps")
ITEMS = ("apples", "cookies", "candies", "toys")

# One stream of random numbers for each use; a kind adds its number.
_SPLIT_STREAM, _DRAW_STREAM = 0x67656E00, 0x67656E10

# Of the operands of a kind, the share that no training text has.
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and the numbers that make it."""

    kind: str
    operands: tuple[int, ...]
    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """As it is trained."""
        return f"{self.prompt} {self.answer}"


@dataclass(frozen=True)
class Split:
    """Problems without common operands, but for `outside`, whose operands no text has."""

    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    outside: tuple[Problem, ...]


def addition(a: int, b: int) -> Problem:
    """Of kind 1."""
    return Problem("addition", (a, b), f"Q: What is {a} + {b}? A:", str(a + b))


def subtraction(a: int, b: int) -> Problem:
    """Of kind 2."""
    return Problem("subtraction", (a, b), f"Q: What is {a} - {b}? A:", str(a - b))


def eating(total: int, eaten: int, item: str) -> Problem:
    """Of kind 3."""
    prompt = f"Q: I have {total} {item}. I eat {eaten}. How many left? A:"
    return Problem("eating", (total, eaten), prompt, str(total - eaten))


def steps(start: int, more: int, less: int) -> Problem:
    """Of kind 4."""
    prompt = f"Q: I start with {start}. I get {more} more. Then I lose {less}. How many now? A:"
    return Problem("steps", (start, more, less), prompt, str(start + more - less))


# The four that the original evaluates; the last starts below what is trained.
PUBLISHED = (addition(7, 5), subtraction(15, 6), eating(12, 3, "apples"), steps(8, 4, 2))


def every(kind: str) -> tuple[Problem, ...]:
    """All different problems that the original's generator can make of a kind."""
    if kind == "addition":
        return tuple(addition(a, b) for a in range(1, 20) for b in range(1, 20))
    if kind == "subtraction":
        return tuple(subtraction(a, b) for a in range(10, 20) for b in range(1, a))
    if kind == "eating":
        pairs = [(total, eaten) for total in range(5, 15) for eaten in range(1, total - 1)]
        return tuple(eating(*pair, item) for pair in pairs for item in ITEMS)
    triples = itertools.product(range(10, 20), range(2, 5), range(1, 3))
    return tuple(steps(*triple) for triple in triples)


def outside(kind: str) -> tuple[Problem, ...]:
    """Problems with a first operand out of the generator's range; all their numbers occur in it."""
    if kind == "addition":
        return tuple(addition(a, b) for a in range(20, 30) for b in range(1, 9))
    if kind == "subtraction":
        return tuple(subtraction(a, b) for a in range(20, 30) for b in range(10, 18))
    if kind == "eating":
        return tuple(eating(t, e, item) for t in range(15, 20) for e in (2, 5) for item in ITEMS)
    return tuple(steps(s, p, q) for s in range(5, 10) for p in range(2, 5) for q in range(1, 3))


def split(seed: int) -> Split:
    """Of the operands of each kind 20 % are kept for the test and 10 % to choose rates by."""
    parts: dict[str, list[Problem]] = {"train": [], "validation": [], "test": []}
    for number, kind in enumerate(KINDS):
        problems = every(kind)
        operands = list(dict.fromkeys(problem.operands for problem in problems))
        order = _order(len(operands), seed, _SPLIT_STREAM + number)
        tests = round(TEST_SHARE * len(operands))
        validations = round(VALIDATION_SHARE * len(operands))
        for rank, place in enumerate(order):
            part = (
                "test" if rank < tests else "validation" if rank < tests + validations else "train"
            )
            parts[part] += [p for p in problems if p.operands == operands[place]]
    beyond = tuple(problem for kind in KINDS for problem in outside(kind))
    train, validation, test = (tuple(part) for part in parts.values())
    return Split(train, validation, test, beyond)


def drawn(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """`count` training texts, a quarter of each kind, each any of `problems` as likely."""
    texts = []
    for number, kind in enumerate(KINDS):
        mine = [problem for problem in problems if problem.kind == kind]
        size = (count // len(KINDS),)
        places = random.integers(size, len(mine), seed=seed, stream=_DRAW_STREAM + number)
        texts += [mine[place] for place in places.tolist()]
    return texts


def drawn_as_published(count: int, seed: int) -> list[Problem]:
    """`count` texts by the original's generator: operands one by one, so not equally likely."""
    texts = []
    for number, kind in enumerate(KINDS):
        shape = (count // len(KINDS), 3)
        rows = random.uniform(shape, seed=seed, stream=_DRAW_STREAM + 4 + number).tolist()
        texts += [_from_uniform(kind, row) for row in rows]
    return texts


def _from_uniform(kind: str, row: Sequence[float]) -> Problem:
    def integer(place: int, low: int, high: int) -> int:
        return low + int(row[place] * (high - low))

    if kind == "addition":
        return addition(integer(0, 1, 20), integer(1, 1, 20))
    if kind == "subtraction":
        a = integer(0, 10, 20)
        return subtraction(a, integer(1, 1, a))
    if kind == "eating":
        total = integer(0, 5, 15)
        return eating(total, integer(1, 1, total - 1), ITEMS[integer(2, 0, len(ITEMS))])
    return steps(integer(0, 10, 20), integer(1, 2, 5), integer(2, 1, 3))


def _order(count: int, seed: int, stream: int) -> list[int]:
    order: list[int] = random.uniform((count,), seed=seed, stream=stream).argsort().tolist()
    return order
