"""`fractalkern criticality`: the studies' settings, their folder, where settings come from."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fractalkern.commands.arguments import base_config, parsed
from fractalkern.experiments.criticality.arms import STUDIES, all_arms
from fractalkern.experiments.criticality.config import CriticalityConfig, preset, quick
from fractalkern.experiments.settings import to_toml


@dataclass(frozen=True)
class Options:
    """Trains networks whose top singular values are held at targets, and asks whether it helps.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[CriticalityConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/criticality-STUDY-PROTOCOL, with -quick if asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Sizes that take seconds to a minute; other options still override."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Settings to start from; other options override them."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the scalars go besides runs.jsonl; its package must be installed."""
    list_arms: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the names of the study's arms and stop."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    default = Options(base_config(arguments, _preset(arguments), quick))
    options = parsed("criticality", Options, arguments, default=default)
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    if options.list_arms:
        print("\n".join(arm.name for arm in all_arms(config)))
        return 0
    out = options.out
    if out is None:
        kind = f"{config.study}-{config.protocol}{'-quick' * options.quick}"
        out = Path("runs", f"criticality-{kind}")
    from fractalkern.experiments.criticality import run as experiment
    from fractalkern.experiments.study import tracker

    print(experiment.run(config, out, tracker(options.tracker, "criticality", out)), end="")
    return 0


def _preset(arguments: list[str]) -> CriticalityConfig:
    """The defaults of the study that is asked for."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--study", choices=list(STUDIES), default="baseline")
    try:
        found, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return CriticalityConfig()  # tyro will say what is wrong
    return preset(found.study)
