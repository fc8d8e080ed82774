"""`fractalkern fractalformer`: the experiment's settings, its folder, where settings come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fractalkern.commands.arguments import base_config, parsed, protocol_and_size
from fractalkern.experiments.fractalformer.config import FractalFormerConfig, preset
from fractalkern.experiments.settings import to_toml


@dataclass(frozen=True)
class Options:
    """Trains a transformer together with the smaller transformers that are its slices.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[FractalFormerConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/fractalformer-PROTOCOL, with -quick if asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Models for a minute on two cores; other options still override."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Settings to start from; other options override them."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the scalars go besides runs.jsonl; its package must be installed."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    protocol, size = protocol_and_size(arguments)
    settings = preset(protocol, quick=size == "quick")
    default = Options(base_config(arguments, settings, lambda config: config))
    options = parsed("fractalformer", Options, arguments, default=default)
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    out = options.out or Path("runs", f"fractalformer-{config.protocol}{'-quick' * options.quick}")
    from fractalkern.experiments.fractalformer import run as experiment
    from fractalkern.experiments.study import tracker

    print(experiment.run(config, out, tracker(options.tracker, "fractalformer", out)), end="")
    return 0
