"""What captions that name a subject's looks do: by the error on subjects, and in pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from palp_core.toyworld import scenes
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.scenes import Individual, Scene, caption, described, random_scene
from palp_core.toyworld.training import JOIN, apart, encode_captions, joined_row, latent_mask, word_ids
from palp_core.toyworld.world import World, as_pictures, load_world, new_individual, paint, references, rendered

from .pairs import INDIVIDUALS

LEVEL = 950  # of 1000
STYLES = ("photo", "pixel art", "watercolor")  # those that show colours


def joined(who: Individual) -> str:
    """Class and looks in one token: "red+red+blue+striped+cat"."""
    main, second = (scenes.COLOUR_WORDS[scenes.PALETTE.index(colour)] for colour in (who.main, who.second))
    pattern = scenes.PATTERN_WORDS[scenes.PATTERNS.index(who.pattern)]
    return described(who.class_word, main, second, pattern).replace(" and ", f" {main} ").replace(" ", JOIN)


#: How a caption names a subject, given another individual of its class.
NAMES: dict[str, Callable[[Individual, Individual], str]] = {
    "class": lambda who, other: who.class_word,
    "words apart": lambda who, other: apart(joined(who)),
    "one token": lambda who, other: joined(who),
    "another's token": lambda who, other: joined(other),
}


@torch.no_grad()
def errors(world: World, shown: list[Scene], names: list[str]) -> np.ndarray:
    """Squared error of v on the subject at LEVEL, mean over each picture's subject. (N,)."""
    pipeline = world.backbone.pipeline
    latents = pipeline.vae.encode(as_pictures([rendered(scene) for scene in shown])).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((len(latents),), LEVEL)
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    velocity = pipeline.scheduler.get_velocity(latents, noise, timesteps)
    captions = [
        caption(f"a {name}", scene.style, scene.place, scene.accessory)
        for scene, name in zip(shown, names, strict=True)
    ]
    said = pipeline.unet(noisy, timesteps, encode_captions(pipeline, captions)).sample
    masks = torch.stack([torch.from_numpy(latent_mask(render_with_masks(s).subject)).float() for s in shown])[:, None]
    return ((said - velocity).square() * masks).mean(dim=(1, 2, 3)).div(masks.mean(dim=(1, 2, 3))).numpy()


def likeness(world: World, who: Individual, name: str, pictures: int) -> float:
    """Subject fidelity of photos drawn by a name."""
    pipeline, noun, words = world.backbone.pipeline, name, {}
    if JOIN in name:
        rows = pipeline.text_encoder.get_input_embeddings().weight.detach()[word_ids(pipeline, name.split(JOIN))]
        noun, words = "[V]", {"[V]": {"clip_l": joined_row(rows)[None]}}
    drawn = paint(world, f"a photo of a {noun}", words, pictures, seed=0)
    return float(world.evaluators.subject_fidelity(drawn, references(who)).mean())


@dataclass(frozen=True)
class Looks:
    """Print what captions gain that name looks: in words apart, or in one token that means them all."""

    #: Unseen pictures on whose subjects the error is taken.
    scenes: int = 96
    #: Photos of each test individual.
    pictures: int = 12

    def run(self) -> None:
        world = load_world("cpu")
        rng = np.random.default_rng(7)
        shown = [scene for scene in (random_scene(rng) for _ in range(4 * self.scenes)) if scene.style in STYLES]
        shown = shown[: self.scenes]
        subjects = [new_individual(number, class_word) for class_word, number in INDIVIDUALS["test"]]
        print(f"| the caption names | error on subjects at level {LEVEL} | likeness of photos |")
        print("|---|---|---|")
        for name, say in NAMES.items():
            names = [say(scene.individual, stranger(scene.individual, n)) for n, scene in enumerate(shown)]
            error = errors(world, shown, names)
            alike = [likeness(world, who, say(who, stranger(who, 0)), self.pictures) for who in subjects]
            print(f"| {name} | {error.mean():.3f} ± {spread(error):.3f} | {np.mean(alike):.3f} ± {spread(alike):.3f} |")


def stranger(who: Individual, number: int) -> Individual:
    return new_individual(10_000 + number, who.class_word)


def spread(values: np.ndarray | list[float]) -> float:
    """Standard error of the mean."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5)
