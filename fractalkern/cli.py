"""The command line: one verb, one entry in `VERBS`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 a mistake in the request
(one sentence on stderr), 130 interrupted, 141 nobody reads stdout any more.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from fractalkern.errors import BackendError, InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # what fails at exit, nobody can catch
    except BrokenPipeError:  # its reader, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in VERBS:
        return _usage(arguments)
    verb = VERBS[arguments[0]]
    try:
        return verb.run(arguments[1:])
    except (InputError, BackendError) as error:
        print(f"fractalkern: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fractalkern: stopped", file=sys.stderr)
        return 130


def _usage(arguments: list[str]) -> int:
    lines = ["usage: fractalkern VERB [options] | --version    (VERB --help lists the options)", ""]
    lines += [f"  {name:<14}{verb.summary}" for name, verb in VERBS.items()]
    text = "\n".join(lines)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(text)
        return 0
    if arguments[0] == "--version":
        from fractalkern import __version__

        print(f"fractalkern {__version__}")
        return 0
    verbs = ", ".join(VERBS)
    print(f"fractalkern: verb must be one of {verbs}, got {arguments[0]!r}", file=sys.stderr)
    return 2


@dataclass(frozen=True)
class Verb:
    """A subcommand."""

    summary: str
    run: Callable[[list[str]], int]


def _command(name: str) -> Callable[[list[str]], int]:
    """`run` of commands/<name>.py, which is imported when the verb is asked for."""

    def run(arguments: list[str]) -> int:
        code: int = import_module(f"fractalkern.commands.{name}").run(arguments)
        return code

    return run


VERBS = {
    name: Verb(summary, _command(name))
    for name, summary in {
        "trainability": "which learning rates train a network: picture and dimension",
        "zoom": "the boundary of trainability followed inwards, its dimension at each level",
        "animate": "the movie of a zoom, as GIF or mp4",
        "table": "the published conditions: their dimensions and ours",
        "criticality": "whether holding singular values at a target helps: intervals, verdict",
        "genesis": "whether fractal weights help a small GPT-2: arms, nulls, verdict",
        "finetune": "which learning rates fine-tune a small language model: grid and dimension",
        "fractalformer": "models inside a model, trained together: losses beside twins, verdict",
        "dim": "the dimension of a boundary in a picture or an array, with interval and null",
        "noise": "a field with power ~ |k|^-beta, as numbers or as a picture",
        "sigma": "top singular values of a checkpoint's weights",
        "doctor": "what was built, what was found, what is missing",
    }.items()
}
