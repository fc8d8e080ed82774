"""`fractalkern table`: the published conditions, their dimensions and ours."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fractalkern.commands.arguments import parsed
from fractalkern.errors import InputError
from fractalkern.experiments.zoom.table import PAPER, QUICK, TableConfig


@dataclass(frozen=True)
class Options:
    """Zooms into each published condition and sets its dimension beside the published one.

    Says how long it will take before it starts. Started again with the same settings and folder, it
    goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[TableConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of run folders and of table.md; by default runs/table-quick or runs/table-paper."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Small networks and frames: minutes on two cores. This is the default."""
    paper: tyro.conf.FlagCreatePairsOff[bool] = False
    """The paper's size: width 16, 500 and 1,000 steps, 2,048 and 4,096 cells an axis."""
    estimate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say how long it would take and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    base = PAPER if _asks_for_paper(arguments) else QUICK
    options = parsed("table", Options, arguments, default=Options(base))
    if options.quick and options.paper:
        raise InputError("quick and paper must not both be asked for")
    from fractalkern.experiments.zoom import table

    if options.estimate:
        print(table.announcement(options.settings))
        return 0
    out = options.out or Path("runs", "table-paper" if options.paper else "table-quick")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    print(table.run(options.settings, out, say), end="")
    return 0


def _asks_for_paper(arguments: list[str]) -> bool:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--paper", action="store_true")
    try:
        return bool(early.parse_known_args(arguments)[0].paper)
    except argparse.ArgumentError:
        return False  # tyro will say what is wrong
