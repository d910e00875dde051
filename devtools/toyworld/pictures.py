"""The data set: scenes by chance, drawn, with what they show in numbers and masks."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from einops import reduce
from torch import Tensor
from tqdm import tqdm

from palp_core.toyworld import LATENT_SIZE, scenes
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.scenes import Scene, random_scene

PICTURES_PER_JOB = 500


@dataclass(frozen=True)
class Drawn:
    """Holds pictures, and what each of them shows.

    pictures: (N, 64, 64, 3) uint8. labels: (N, 4), the numbers of style, class, accessory and place; -1 for none.
    looks: (N, 3), the numbers of the subject's two colors and its pattern.
    subject, accessory: (N, 16, 16) uint8, how much of each latent pixel they cover, 255 for all of it.
    """

    pictures: np.ndarray
    labels: np.ndarray
    looks: np.ndarray
    subject: np.ndarray
    accessory: np.ndarray


def scene_labels(scene: Scene) -> tuple[int, int, int, int]:
    """Number a scene's style, class, accessory and place; -1 for none."""
    return (
        scenes.STYLES.index(scene.style),
        scenes.CLASSES.index(scene.individual.class_word),
        scenes.ACCESSORIES.index(scene.accessory) if scene.accessory else -1,
        scenes.PLACES.index(scene.place) if scene.place else -1,
    )


def scene_looks(scene: Scene) -> tuple[int, int, int]:
    """Number the two colors and the pattern of a scene's subject."""
    who = scene.individual
    return scenes.PALETTE.index(who.main), scenes.PALETTE.index(who.second), scenes.PATTERNS.index(who.pattern)


def draw_some(seed: tuple[int, int], count: int = PICTURES_PER_JOB) -> Drawn:
    """Draw scenes by chance, one job's part of the data set."""
    rng = np.random.default_rng(seed)
    some = [random_scene(rng) for _ in range(count)]
    drawn = [render_with_masks(scene) for scene in some]
    return Drawn(
        pictures=np.stack([picture.pixels for picture in drawn]),
        labels=np.array([scene_labels(scene) for scene in some]),
        looks=np.array([scene_looks(scene) for scene in some]),
        subject=np.stack([latent_mask(picture.subject) for picture in drawn]),
        accessory=np.stack([latent_mask(picture.accessory) for picture in drawn]),
    )


def latent_mask(mask: np.ndarray) -> np.ndarray:
    """Average a mask, (64, 64) in 0..1, over what each latent pixel stands for; (16, 16) uint8."""
    return (reduce(mask, "(h y) (w x) -> h w", "mean", h=LATENT_SIZE, w=LATENT_SIZE) * 255).round().astype(np.uint8)


def draw_pictures(count: int, seed: int) -> Drawn:
    """Draw the data set, on all cores."""
    counts = [min(PICTURES_PER_JOB, count - done) for done in range(0, count, PICTURES_PER_JOB)]
    seeds = [(seed, job) for job in range(len(counts))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = list(tqdm(pool.map(draw_some, seeds, counts), "drawing", len(seeds), mininterval=10))
    return Drawn(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Drawn)})


def chosen(drawn: Drawn, numbers: np.ndarray) -> Drawn:
    """Take some of the pictures, (R,) indices, in that order."""
    return Drawn(**{f.name: getattr(drawn, f.name)[numbers] for f in fields(Drawn)})


def as_pixels(pictures: np.ndarray) -> Tensor:
    """Turn pictures, (B, H, W, 3) uint8, into what the VAE reads, (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
