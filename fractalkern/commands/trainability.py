"""`fractalkern trainability`: the experiment's settings, its folder, where settings come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fractalkern.commands.arguments import base_config, parsed
from fractalkern.experiments.settings import to_toml
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
    default = Options(base_config(arguments, TrainabilityConfig(), quick))
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
