"""Draws the scenes of the toy world: 64x64 pixels, anti-aliased, always the same for the same scene.

A scene becomes a list of shapes in unit coordinates, from `places`, `subjects` and `accessories`; one of the `styles`
puts them on paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..scenes import Scene
from .accessories import accessory_shapes
from .places import place_shapes
from .shapes import Shape, role_mask
from .styles import STYLES
from .subjects import SUBJECTS


@dataclass(frozen=True)
class Picture:
    """Holds a picture, and what each of its pixels shows.

    pixels: (64, 64, 3) uint8. Masks: (64, 64) in 0..1, they add up to 1 in each pixel.
    """

    pixels: np.ndarray
    subject: np.ndarray
    accessory: np.ndarray
    place: np.ndarray


def placed(shape: Shape, centre: tuple[float, float], size: tuple[float, float]) -> Shape:
    """Move a shape from the subject's frame to the picture's."""

    def move(points: np.ndarray | None) -> np.ndarray | None:
        return None if points is None else points * size + centre

    return Shape(move(shape.points), shape.color, shape.role, shape.line * min(size), move(shape.clip), shape.outlined)


def scene_shapes(scene: Scene, rng: np.random.Generator) -> list[Shape]:
    """List everything in the picture, from back to front."""
    who = scene.individual
    background = place_shapes(scene.place, rng)
    body, anchors = SUBJECTS[who.class_word](who)
    zoom = rng.uniform(0.94, 1.06)
    size = (0.345 * who.width * zoom, 0.355 * who.height * zoom)
    centre = (0.48 + rng.uniform(-0.03, 0.03), 0.94 - size[1] + rng.uniform(-0.02, 0.02))
    front = body + accessory_shapes(scene.accessory, anchors, rng)
    return background + [placed(shape, centre, size) for shape in front]


def render(scene: Scene) -> np.ndarray:
    """Draw a scene; (64, 64, 3) uint8."""
    rng = np.random.default_rng(scene.jitter)
    shapes = scene_shapes(scene, rng)
    return STYLES[scene.style](shapes, rng).astype(np.uint8)


def render_with_masks(scene: Scene) -> Picture:
    """Draw a scene, and say where its subject, accessory and place are seen."""
    rng = np.random.default_rng(scene.jitter)
    shapes = scene_shapes(scene, rng)
    subject, accessory = role_mask(shapes, "subject"), role_mask(shapes, "accessory")
    pixels = STYLES[scene.style](shapes, rng).astype(np.uint8)
    return Picture(pixels, subject, accessory, (1 - subject - accessory).clip(0, 1))
