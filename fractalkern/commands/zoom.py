"""`fractalkern zoom`: the experiment's settings, its folder, where settings come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fractalkern.commands.arguments import base_config, parsed
from fractalkern.experiments.settings import to_toml
from fractalkern.experiments.zoom.config import ZoomConfig, quick


@dataclass(frozen=True)
class Options:
    """Follows the boundary of trainability inwards by a fixed rule and measures it at each level.

    Started again with the same settings and folder, it goes on where it was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[ZoomConfig]
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder; by default runs/zoom-CONDITION-PATH, with -quick if that is asked for."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Small frames that take seconds; other options still override."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.toml")] = None
    """Settings to start from; other options override them."""
    print_config: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the settings as TOML and stop."""


def run(arguments: list[str]) -> int:
    """Runs the verb; returns the exit code."""
    default = Options(base_config(arguments, ZoomConfig(), quick))
    options = parsed("zoom", Options, arguments, default=default)
    config = options.settings.checked()
    if options.print_config:
        print(to_toml(config), end="")
        return 0
    kind = "-quick" * options.quick
    out = options.out or Path("runs", f"zoom-{config.condition}-{config.path}{kind}")
    from fractalkern.experiments.zoom import run as experiment

    print(experiment.run(config, out))
    return 0
