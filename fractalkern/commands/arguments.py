"""From the words of a command line to the options of a verb, with one sentence for a mistake."""

import argparse
import contextlib
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from fractalkern.errors import InputError
from fractalkern.experiments.settings import Config, from_toml


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


def base_config(arguments: list[str], default: Config, quick: Callable[[Config], Config]) -> Config:
    """The settings that other options start from: `quick` if asked for, then --config's file."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--quick", action="store_true")
    early.add_argument("--config", type=Path)
    try:
        found, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return default  # tyro will say what is wrong
    config = quick(default) if found.quick else default
    return from_toml(config, found.config) if found.config else config


def protocol_and_size(arguments: list[str]) -> tuple[Any, Any]:
    """The protocol asked for, and "quick", "full" or "default": presets must be known early.

    The defaults where the arguments are malformed: tyro will say what is wrong.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--protocol", choices=("fixed", "published"), default="fixed")
    early.add_argument("--quick", action="store_true")
    early.add_argument("--full", action="store_true")
    try:
        found, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return "fixed", "default"
    return found.protocol, "quick" if found.quick else "full" if found.full else "default"


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
