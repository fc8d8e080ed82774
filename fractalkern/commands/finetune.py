"""`fractalkern finetune`: the experiment's settings, its folder, where settings come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fractalkern.commands.arguments import base_config, parsed, protocol_and_size
from fractalkern.experiments.finetune.config import FinetuneConfig, preset
from fractalkern.experiments.settings import to_toml


@dataclass(frozen=True)
class Options:
    """Fine-tunes a small language model by every pair of two learning rates.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/finetune-PROTOCOL, with -quick if asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """A model and grid for two minutes on two cores; other options still override."""
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
    options = parsed("finetune", Options, arguments, default=default)
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    out = options.out or Path("runs", f"finetune-{config.protocol}{'-quick' * options.quick}")
    from fractalkern.experiments.finetune import run as experiment
    from fractalkern.experiments.study import tracker

    print(experiment.run(config, out, tracker(options.tracker, "finetune", out)), end="")
    return 0
