"""`fractalkern trainability`: the experiment's settings, its folder, where settings come from."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fractalkern.commands.arguments import parsed
from fractalkern.experiments.settings import from_toml, to_toml
from fractalkern.experiments.trainability.config import TrainabilityConfig, quick


@dataclass(frozen=True)
class Options:
    """Trains a grid of two-layer networks and measures where training stops converging.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[TrainabilityConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/trainability-CONDITION, with -quick and -preview if asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """A small grid that takes seconds; other options still override."""
    preview: tyro.conf.FlagCreatePairsOff[bool] = False
    """Train only the networks near a change of label and a sample of the others; the report bounds
    the share of cells whose label is wrong."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Settings to start from; other options override them."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    default = Options(_base_config(arguments))
    options = parsed("trainability", Options, arguments, default=default)
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    out = options.out
    if out is None:
        kind = "-quick" * options.quick + "-preview" * options.preview
        out = Path("runs", f"trainability-{config.condition}{kind}")
    if options.preview:
        from fractalkern.experiments.trainability.preview import run_preview

        print(run_preview(config, out))
        return 0
    from fractalkern.experiments.trainability import run as experiment

    print(experiment.run(config, out))
    return 0


def _base_config(arguments: list[str]) -> TrainabilityConfig:
    """The defaults that the other options start from: --quick, then the file of --config."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--quick", action="store_true")
    early.add_argument("--config", type=Path)
    try:
        found, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:
        return TrainabilityConfig()  # tyro will say what is wrong
    config = quick(TrainabilityConfig()) if found.quick else TrainabilityConfig()
    return from_toml(config, found.config) if found.config else config
