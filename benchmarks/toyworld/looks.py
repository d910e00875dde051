"""What captions that name a subject's looks do: by the error on subjects, and in pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from devtools.toyworld.captions import JOIN, encode_captions, joined, joined_row, word_ids
from devtools.toyworld.pictures import as_pixels, latent_mask
from devtools.toyworld.plan import LOOKS_ALONE
from devtools.toyworld.unet import Noised
from palp_core.toyworld import scenes
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.scenes import Individual, Scene, caption, described, new_individual, random_scene
from palp_core.toyworld.world import World, load_world, paint, references

from .pairs import INDIVIDUALS
from .statistics import mean_of_independent

LEVEL = 950  # of 1000


def looks(who: Individual) -> str:
    """Say all that words can of it: "red and blue striped cat"."""
    main, second = (scenes.COLOR_WORDS[scenes.PALETTE.index(color)] for color in (who.main, who.second))
    return described(who.class_word, main, second, scenes.PATTERN_WORDS[scenes.PATTERNS.index(who.pattern)])


#: How a caption names a subject, given another individual of its class.
NAMES: dict[str, Callable[[Individual, Individual], str]] = {
    "class": lambda who, other: who.class_word,
    "words apart": lambda who, other: looks(who),
    "one token": lambda who, other: joined(looks(who)),
    "another's token": lambda who, other: joined(looks(other)),
}


class Unseen(NamedTuple):
    """Hold pictures at LEVEL, and how much of each latent pixel their subject covers, (N, 1, 16, 16) in 0..1."""

    scenes: list[Scene]
    batch: Noised
    masks: Tensor


@torch.no_grad()
def unseen(world: World, count: int) -> Unseen:
    """Draw and noise pictures that nothing was trained on."""
    rng = np.random.default_rng(7)
    scenes_of_style = (s for s in (random_scene(rng) for _ in range(4 * count)) if s.style in LOOKS_ALONE.styles)
    shown = list(islice(scenes_of_style, count))
    drawn = [render_with_masks(scene) for scene in shown]
    pipeline = world.backbone.pipeline
    latents = pipeline.vae.encode(as_pixels(np.stack([picture.pixels for picture in drawn]))).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((len(latents),), LEVEL)
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    batch = Noised(noisy, timesteps, pipeline.scheduler.get_velocity(latents, noise, timesteps))
    masks = np.stack([latent_mask(picture.subject) for picture in drawn])
    return Unseen(shown, batch, torch.from_numpy(masks)[:, None] / 255)


@torch.no_grad()
def errors(world: World, pictures: Unseen, names: list[str]) -> list[float]:
    """Take the squared error of v on the subject, mean over each picture's subject."""
    pipeline, batch, masks = world.backbone.pipeline, pictures.batch, pictures.masks
    captions = [
        caption(f"a {name}", scene.style, scene.place, scene.accessory)
        for scene, name in zip(pictures.scenes, names, strict=True)
    ]
    said = pipeline.unet(batch.latents, batch.timesteps, encode_captions(pipeline, captions)).sample
    of_subject = ((said - batch.velocity).square() * masks).mean(dim=(1, 2, 3)) / masks.mean(dim=(1, 2, 3))
    return of_subject.tolist()


def likeness(world: World, who: Individual, name: str, pictures: int) -> float:
    """Take the subject alignment of photos drawn by a name."""
    pipeline, noun, words = world.backbone.pipeline, name, {}
    if JOIN in name:
        rows = pipeline.text_encoder.get_input_embeddings().weight.detach()[word_ids(pipeline, name.split(JOIN))]
        noun, words = "[V]", {"[V]": {"clip_l": joined_row(rows)[None]}}
    drawn = paint(world, f"a photo of a {noun}", words, pictures, seed=0)
    return float(world.evaluators.subject_alignment(drawn, references(who)).mean())


@dataclass(frozen=True)
class Looks:
    """Print what captions gain that name looks: in words apart, or in one token that means them all."""

    #: Unseen pictures on whose subjects the error is taken.
    scenes: int = 96
    #: Photos of each test individual.
    pictures: int = 12

    def run(self) -> None:
        world = load_world("cpu")
        shown = unseen(world, self.scenes)
        subjects = [new_individual(number, class_word) for class_word, number in INDIVIDUALS["test"]]
        print(f"| the caption names | error on subjects at level {LEVEL} | subject alignment of photos |")
        print("|---|---|---|")
        for name, say in NAMES.items():
            names = [say(scene.individual, stranger(scene.individual, n)) for n, scene in enumerate(shown.scenes)]
            alike = [likeness(world, who, say(who, stranger(who, 0)), self.pictures) for who in subjects]
            print(f"| {name} | {mean_of_independent(errors(world, shown, names))} | {mean_of_independent(alike)} |")


def stranger(who: Individual, number: int) -> Individual:
    """Draw another individual of the class."""
    return new_individual(10_000 + number, who.class_word)
