"""Scenes of the demo world as they stand on the cards, two subjects in one picture among them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from benchmarks.toyworld.heatmaps import Looked, look
from palp_core.methods.heatmap import overlay
from palp_core.toyworld.drawing import placed, render
from palp_core.toyworld.drawing.places import place_shapes
from palp_core.toyworld.drawing.styles import STYLES
from palp_core.toyworld.drawing.subjects import SUBJECTS
from palp_core.toyworld.scenes import Accessory, Individual, Place, Scene, Style
from palp_core.toyworld.world import load_world

JITTER = 3  # where the subject stands, and what else no caption names
HEAT = 0.6  # how much of the colors of a heat map is seen


def picture(
    who: Individual, style: Style, accessory: Accessory | None, place: Place | None, jitter: int = JITTER
) -> Image.Image:
    return Image.fromarray(render(Scene(who, style, place, accessory, jitter)))


def photo(who: Individual, jitter: int = JITTER) -> Image.Image:
    """Show it as a user would take it: before a plain backdrop."""
    return picture(who, "photo", None, None, jitter)


def together(left: Individual, right: Individual, style: Style, place: Place) -> Image.Image:
    """Draw two subjects beside each other."""
    rng = np.random.default_rng(JITTER)
    shapes = place_shapes(place, rng)
    for who, x, size in ((left, 0.3, 0.27), (right, 0.73, 0.2)):
        body, _ = SUBJECTS[who.class_word](who)
        size = (size * who.width, size * who.height * 1.03)
        shapes += [placed(shape, (x, 0.92 - size[1]), size) for shape in body]
    return Image.fromarray(STYLES[style](shapes, rng).astype(np.uint8))


def heat(who: Individual, accessory: Accessory, place: Place, roles: tuple[str, ...]) -> list[Image.Image]:
    """Draw a scene, and where the model's words for subject, accessory or place look in it."""
    looked: Looked = look(load_world(), Scene(who, "photo", place, accessory, JITTER))
    pixels = torch.from_numpy(looked.picture.pixels).float()[None] / 255
    shown = [overlay(pixels, looked.heat[role][None], HEAT)[0] for role in roles]
    drawn = [Image.fromarray((one * 255).round().byte().numpy()) for one in shown]
    return [Image.fromarray(looked.picture.pixels), *drawn]
