"""What the model can do before it learns anyone, and what subject alignment ranges over."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from devtools.toyworld.pictures import draw_some
from devtools.toyworld.vae import psnr
from palp_core.toyworld import scenes
from palp_core.toyworld.evaluators import Target
from palp_core.toyworld.metrics import mean_and_error
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import load_world, paint, subject_alignment_range

from .pairs import INDIVIDUALS, PROMPTS, Pairs, target
from .statistics import mean_of_independent


@dataclass(frozen=True)
class Range:
    """Print subject alignment's floor (other individuals of the class) and ceiling (true renders)."""

    def run(self) -> None:
        for name, values in zip(("floor", "ceiling"), subject_alignment_ranges("test").T, strict=True):
            print(f"subject alignment's {name} {mean_of_independent(values.tolist())}")


def subject_alignment_ranges(pairs: Pairs) -> Tensor:
    """Judge others of the class and true renders for each individual, (N, 2)."""
    world = load_world()
    return torch.tensor(
        [
            subject_alignment_range(
                world, new_individual(number, word), [target(word, p) for p in PROMPTS[pairs]], number
            )
            for word, number in INDIVIDUALS[pairs]
        ]
    )


@dataclass(frozen=True)
class Model:
    """Print how often the base model draws what its prompts say: 30 of four elements, each style and class.

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
            for name, shown in world.evaluators.recognized(drawn, wanted).items():
                found.setdefault(name, []).append(100 * shown.mean().item())
        for name, shares in found.items():
            mean, error = mean_and_error(torch.tensor(shares))
            print(f"{name:12} {mean:.1f} ± {error:.1f} % of {self.pictures} pictures of each of {len(shares)} prompts")
        decibels = psnr(world.backbone.pipeline.vae.cpu(), draw_some((999, 0), self.unseen).pictures)
        print(f"VAE          {decibels:.1f} dB")
