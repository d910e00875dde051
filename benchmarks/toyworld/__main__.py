"""The commands of the toy world's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from palp_core.toyworld.world import fidelity_range, load_world, new_individual

from . import __doc__ as description
from .guidance import Guide
from .heatmaps import Heatmaps
from .pairs import INDIVIDUALS, PROMPTS, target
from .results import Chart, Compare, Table
from .training import Run


@dataclass(frozen=True)
class Range:
    """Print subject fidelity's floor (other individuals of the class) and ceiling (true renders)."""

    def run(self) -> None:
        world = load_world()
        ranges = []
        for class_word, number in INDIVIDUALS["test"]:
            targets = [target(class_word, prompt) for prompt in PROMPTS["test"]]
            ranges.append(fidelity_range(world, new_individual(number, class_word), targets, number))
        floor, ceiling = np.mean(ranges, axis=0)
        print(f"subject fidelity: floor {floor:.3f}, ceiling {ceiling:.3f}")


COMMANDS = {
    "run": Run,
    "guide": Guide,
    "heatmaps": Heatmaps,
    "table": Table,
    "compare": Compare,
    "figure": Chart,
    "range": Range,
}


def main() -> None:
    tyro.extras.subcommand_cli_from_dict(COMMANDS, description=description).run()


if __name__ == "__main__":
    main()
