"""`fractalkern genesis`: the experiment's settings, its folder, where settings come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fractalkern.commands.arguments import base_config, parsed, protocol_and_size
from fractalkern.errors import InputError
from fractalkern.experiments.genesis.config import GenesisConfig, preset
from fractalkern.experiments.settings import to_toml


@dataclass(frozen=True)
class Options:
    """Trains small GPT-2s from fractal and ordinary weights, and asks whether fractal ones help.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[GenesisConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/genesis-PROTOCOL, with -quick or -full if asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """A model and schedule for minutes on two cores; other options still override."""
    full: tyro.conf.FlagCreatePairsOff[bool] = False
    """The published model and number of steps; other options still override."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Settings to start from; other options override them."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the scalars go besides runs.jsonl; its package must be installed."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    settings = preset(*protocol_and_size(arguments))
    default = Options(base_config(arguments, settings, lambda config: config))
    options = parsed("genesis", Options, arguments, default=default)
    if options.quick and options.full:
        raise InputError("genesis: only one of --quick and --full may be given, got both")
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    out = options.out
    if out is None:
        size = "-quick" * options.quick + "-full" * options.full
        out = Path("runs", f"genesis-{config.protocol}{size}")
    from fractalkern.experiments.genesis import run as experiment
    from fractalkern.experiments.study import tracker

    print(experiment.run(config, out, tracker(options.tracker, "genesis", out)), end="")
    return 0
