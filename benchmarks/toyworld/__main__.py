"""The command line of the toy world's benchmarks."""

from __future__ import annotations

import sys

import tyro

from . import __doc__ as description
from .balance import Balance
from .commands import Chart, Compare, Guide, Table
from .drift import Drift
from .heatmaps import Heatmaps
from .layers import Layers
from .looks import Looks
from .model import Model, Range
from .run import Run
from .scores import Scores
from .two_subjects import Two

COMMANDS = {
    "run": Run,
    "balance": Balance,
    "drift": Drift,
    "guide": Guide,
    "heatmaps": Heatmaps,
    "layers": Layers,
    "looks": Looks,
    "scores": Scores,
    "two": Two,
    "table": Table,
    "compare": Compare,
    "figure": Chart,
    "range": Range,
    "model": Model,
}


def main() -> None:
    chosen = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="benchmarks.toyworld", description=description)
    try:
        chosen.run()
    except ValueError as error:
        sys.exit(f"benchmarks.toyworld: {error}")


if __name__ == "__main__":
    main()
