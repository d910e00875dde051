"""The commands of the toy world's benchmarks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product

import torch
import tyro

from devtools.toyworld.pictures import draw_some
from devtools.toyworld.vae import psnr
from palp_core.toyworld import scenes
from palp_core.toyworld.evaluators import Target
from palp_core.toyworld.metrics import mean_and_error
from palp_core.toyworld.world import load_world, paint

from . import __doc__ as description
from .guidance import Guide
from .heatmaps import Heatmaps
from .looks import Looks
from .results import Chart, Compare, Table, fidelity_ranges
from .scores import Scores
from .training import Run


@dataclass(frozen=True)
class Range:
    """Print subject fidelity's floor (other individuals of the class) and ceiling (true renders)."""

    def run(self) -> None:
        for name, values in zip(("floor", "ceiling"), fidelity_ranges("test").T, strict=True):
            print("subject fidelity's {} {:.3f} ± {:.3f}".format(name, *mean_and_error(values)))


@dataclass(frozen=True)
class Model:
    """Print how often the untouched model draws what its prompts say: 30 of four elements, each style and class.

    With standard errors over the prompts.
    """

    #: Pictures of each prompt.
    pictures: int = 8
    #: Pictures that nothing was trained on, for what the VAE makes of them.
    unseen: int = 300

    def run(self) -> None:
        world = load_world()
        found: dict[str, list[float]] = {}
        for number, (style, class_word) in enumerate(product(scenes.STYLES, scenes.CLASSES)):
            accessory = scenes.ACCESSORIES[number % len(scenes.ACCESSORIES)]
            wanted = Target(style, class_word, accessory, scenes.PLACES[number * 5 % len(scenes.PLACES)])
            drawn = paint(world, wanted.prompt(f"a {class_word}"), {}, self.pictures, number)
            for name, shown in world.evaluators.recognised(drawn, wanted).items():
                found.setdefault(name, []).append(100 * shown.mean().item())
        for name, shares in found.items():
            mean, error = mean_and_error(torch.tensor(shares))
            print(f"{name:12} {mean:.1f} ± {error:.1f} % of {self.pictures} pictures of each of {len(shares)} prompts")
        decibels = psnr(world.backbone.pipeline.vae.cpu(), draw_some((999, 0), self.unseen).pictures)
        print(f"VAE          {decibels:.1f} dB")


COMMANDS = {
    "run": Run,
    "guide": Guide,
    "heatmaps": Heatmaps,
    "looks": Looks,
    "scores": Scores,
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
