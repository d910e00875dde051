"""Heat maps of words against what the renderer knows: where the subject, the accessory and the place are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor

from palp_core.files.images import write_image
from palp_core.methods.heatmap import overlay, word_heat
from palp_core.toyworld import scenes
from palp_core.toyworld.drawing import Picture, render_with_masks
from palp_core.toyworld.scenes import Scene, caption, random_scene
from palp_core.toyworld.world import World, as_pictures, load_world
from palp_core.training.chart import rendered

from .attention import numbers_of, recorded
from .rows import FOLDER
from .statistics import mean_of_independent

ROLES = ("subject", "accessory", "place")
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHOWN = 5  # scenes in the picture


@dataclass(frozen=True)
class Looked:
    """Hold one scene. heat: role -> (64, 64) in 0..1, of the word for it."""

    scene: Scene
    picture: Picture
    heat: dict[str, Tensor]


def look(world: World, scene: Scene) -> Looked:
    """Render a scene and record where the words for what it shows look."""
    picture = render_with_masks(scene)
    kind = scene.individual.class_word
    prompt = caption(f"a {kind}", scene.style, scene.place, scene.accessory)
    pixels = as_pictures([torch.from_numpy(picture.pixels).float() / 255])
    maps = recorded(world, pixels, prompt, {}).maps
    named = dict(zip(ROLES, (kind, scene.accessory, scene.place), strict=True))
    size = tuple(picture.pixels.shape[:2])
    numbers = {role: numbers_of(world, prompt, word, {}) for role, word in named.items()}
    against = {"place": [*numbers["subject"], *numbers["accessory"]]}
    heat = {role: word_heat(maps, numbers[role], size, against.get(role, ()))[0] for role in ROLES}
    return Looked(scene, picture, heat)


def full_scenes(count: int, seed: int) -> list[Scene]:
    """Draw random scenes with an accessory and a place."""
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(rng)
        if scene.accessory and scene.place:
            found.append(scene)
    return found


def overlap(heat: Tensor, mask: np.ndarray, threshold: float) -> float:
    """Take intersection over union of the places hotter than the threshold and the mask."""
    hot, true = heat.numpy() > threshold, mask > 0.5
    return float((hot & true).sum() / (hot | true).sum())


def separation(heat: Tensor, mask: np.ndarray) -> float:
    """Say how often a pixel inside the mask is hotter than one outside: area under the curve, 0.5 is chance."""
    ranks, true = rankdata(heat.flatten().numpy()), mask.flatten() > 0.5
    inside, outside = true.sum(), (~true).sum()
    return float((ranks[true].sum() - inside * (inside + 1) / 2) / (inside * outside))


@dataclass(frozen=True)
class Heatmaps:
    """Compare words' heat maps with the renderer's masks, and write some of them.

    A place's word is taken against those of subject and accessory.
    """

    #: Scenes that are reported, and as many others on which each role's threshold is chosen.
    scenes: int = 60
    out: Path = FOLDER / "toyworld_heatmaps.png"

    def run(self) -> None:
        world = load_world()
        tuning, test = ([look(world, scene) for scene in full_scenes(self.scenes, seed)] for seed in (5, 6))
        print("| word for the | inside hotter than outside | threshold | overlap | of the whole picture |")
        print("|---|---|---|---|---|")
        for role in ROLES:
            best = max(THRESHOLDS, key=lambda at: np.mean(overlaps(tuning, role, at)))
            whole = [float((getattr(one.picture, role) > 0.5).mean()) for one in test]
            areas = [separation(one.heat[role], getattr(one.picture, role)) for one in test]
            cells = [
                role,
                mean_of_independent(areas),
                str(best),
                mean_of_independent(overlaps(test, role, best)),
                f"{np.mean(whole):.3f}",
            ]
            print("|", " | ".join(cells), "|")
        print_accessories([*tuning, *test])
        write_image(sheet(test[:SHOWN]), self.out)


def print_accessories(looked: list[Looked]) -> None:
    """Print how often inside is hotter than outside, by accessory and style, and in how many scenes."""
    print("\n| accessory |", " | ".join(scenes.STYLES), "|")
    print("|---" * (1 + len(scenes.STYLES)) + "|")
    for word in filter(None, scenes.ACCESSORIES):
        cells = []
        for style in scenes.STYLES:
            areas = [
                separation(one.heat["accessory"], one.picture.accessory)
                for one in looked
                if (one.scene.accessory, one.scene.style) == (word, style)
            ]
            cells.append(f"{np.mean(areas):.2f} ({len(areas)})" if areas else "–")
        print("|", " | ".join([word, *cells]), "|")


def overlaps(looked: list[Looked], role: str, threshold: float) -> list[float]:
    """Take the overlap in each scene."""
    return [overlap(one.heat[role], getattr(one.picture, role), threshold) for one in looked]


def sheet(looked: list[Looked]) -> Tensor:
    """Show the pictures above the heat of their words; (H, W, 3) in 0..1."""
    figure = Figure(figsize=(2 * len(looked), 8.4), dpi=100, layout="constrained")
    axes = figure.subplots(1 + len(ROLES), len(looked), squeeze=False)
    for column, one in enumerate(looked):
        pixels = torch.from_numpy(one.picture.pixels).float() / 255
        words = (one.scene.individual.class_word, one.scene.accessory, one.scene.place)
        tiles = [(one.scene.style, pixels)]
        tiles += [
            (word, overlay(pixels[None], one.heat[role][None], 0.6)[0]) for word, role in zip(words, ROLES, strict=True)
        ]
        for row, (title, tile) in enumerate(tiles):
            axes[row][column].imshow(tile.numpy(), interpolation="nearest")
            axes[row][column].set_title(title, fontsize=10)
            axes[row][column].axis("off")
    return rendered(figure)
