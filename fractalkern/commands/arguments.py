"""From the words of a command line to the options of a verb, with one sentence for a mistake."""

import contextlib
import io
import itertools
import re
from typing import Any

import tyro

from fractalkern.errors import InputError


def parsed(verb: str, function: Any, arguments: list[str], **defaults: Any) -> Any:
    """What tyro makes of the arguments; its boxed complaint becomes one sentence.

    Raises:
        InputError: the arguments are not those of the verb.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(function, args=arguments, prog=f"fractalkern {verb}", **defaults)
    except SystemExit as exit_:
        if not exit_.code:
            raise  # --help
        raise InputError(f"{_first_paragraph(said.getvalue())} ({verb} --help says more)") from None


def _first_paragraph(box: str) -> str:
    """The text between a box' title and its first rule, in one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # a terminal gets colours
    lines = [line.strip("│ ") for line in plain.splitlines()]

    def is_rule(line: str) -> bool:
        return set(line) <= set("─-")  # with plain letters a rule also follows the title

    text = itertools.takewhile(
        lambda line: not is_rule(line), itertools.dropwhile(is_rule, lines[1:])
    )
    return " ".join(text).rstrip(".") or plain.strip()
