"""The command line: one verb, one entry in `VERBS`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 2 a mistake in the request
(one sentence on stderr), 130 interrupted.
"""

import argparse
import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fractalkern.errors import BackendError, InputError

if TYPE_CHECKING:
    from fractalkern.experiments.trainability.config import TrainabilityConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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
    lines = ["usage: fractalkern VERB [options]    (VERB --help lists them)", ""]
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


def _parsed(verb: str, function: Any, arguments: list[str], **defaults: Any) -> Any:
    """What tyro makes of the arguments; its boxed complaint becomes one sentence.

    Raises:
        InputError: the arguments are not those of the verb.
    """
    import tyro

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


def _trainability(arguments: list[str]) -> int:
    import tyro

    from fractalkern.experiments.settings import to_toml
    from fractalkern.experiments.trainability.config import TrainabilityConfig

    @dataclass(frozen=True)
    class Options:
        """Trains a grid of two-layer networks and measures where training stops converging.

        Started again with the same settings and folder, it goes on where it was stopped.
        """

        settings: tyro.conf.OmitArgPrefixes[TrainabilityConfig]
        out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
        """Run folder; by default runs/trainability-CONDITION, with -quick if that is asked for."""
        quick: tyro.conf.FlagCreatePairsOff[bool] = False
        """A small grid that takes seconds; other options still override."""
        config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
        """Settings to start from; other options override them."""
        print_config: tyro.conf.FlagCreatePairsOff[bool] = False
        """Print the settings as TOML and stop."""

    base = _base_config(arguments)
    options = _parsed("trainability", Options, arguments, default=Options(base))
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    out = options.out
    if out is None:
        out = Path("runs", f"trainability-{config.condition}{'-quick' * options.quick}")

    from fractalkern.experiments.trainability.run import run

    print(run(config, out))
    return 0


def _base_config(arguments: list[str]) -> "TrainabilityConfig":
    """The defaults that the other options start from: --quick, then the file of --config."""
    from fractalkern.experiments.settings import from_toml
    from fractalkern.experiments.trainability.config import TrainabilityConfig, quick

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--quick", action="store_true")
    early.add_argument("--config", type=Path)
    try:
        found, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return TrainabilityConfig()  # tyro will say what is wrong
    config = quick(TrainabilityConfig()) if found.quick else TrainabilityConfig()
    return from_toml(config, found.config) if found.config else config


def _doctor(arguments: list[str]) -> int:
    from fractalkern.doctor import report

    def doctor() -> None:
        """Prints what was built, what was found, and what each missing part would need."""

    _parsed("doctor", doctor, arguments)
    print(report())
    return 0


@dataclass(frozen=True)
class Verb:
    """A subcommand."""

    summary: str
    run: Callable[[list[str]], int]


VERBS = {
    "trainability": Verb(
        "which learning rates train a network: picture and dimension", _trainability
    ),
    "doctor": Verb("what was built, what was found, what is missing", _doctor),
}
