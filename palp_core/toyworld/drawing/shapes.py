"""Shapes in unit coordinates, and the paper that they are put on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from ..scenes import Color

SIZE = 64  # pixels of a picture's side
SCALE = 3  # drawn so many times larger, then averaged: anti-aliasing
CANVAS = SIZE * SCALE

Role = Literal["place", "subject", "accessory"]
DARK = (38, 34, 40)


@dataclass(frozen=True)
class Shape:
    """Holds a polygon, or an open line where `line` is its width.

    points: (N, 2), x right and y down, the picture is 0..1.
    clip: shapes of a pattern are seen inside this polygon only. outlined: styles that draw outlines draw this one's.
    """

    points: np.ndarray
    color: Color
    role: Role
    line: float = 0.0
    clip: np.ndarray | None = None
    outlined: bool = True


def ellipse(
    x: float, y: float, rx: float, ry: float, points: int = 28, start: float = 0.0, end: float = 2 * np.pi
) -> np.ndarray:
    """Outline an ellipse, or its arc between two angles."""
    angle = np.linspace(start, end, points)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Outline an upright rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> np.ndarray:
    """Outline an upright rectangle with round corners of radius r."""
    corners = [(x1 - r, y1 - r, 0), (x0 + r, y1 - r, 1), (x0 + r, y0 + r, 2), (x1 - r, y0 + r, 3)]
    arcs = [ellipse(x, y, r, r, 6, q * np.pi / 2, (q + 1) * np.pi / 2) for x, y, q in corners]
    return np.concatenate(arcs)


def path(*points: tuple[float, float]) -> np.ndarray:
    """Connect points, in their order."""
    return np.array(points, dtype=float)


def to_pixels(points: np.ndarray) -> list[tuple[float, float]]:
    """Scale points to the canvas, as Pillow takes them."""
    return [tuple(point) for point in points * CANVAS]


def fill(image: Image.Image, shape: Shape, color) -> None:
    """Paint a shape's area; an open line has its own width."""
    points = to_pixels(shape.points)

    def put(draw: ImageDraw.ImageDraw) -> None:
        if shape.line:
            draw.line(points, fill=color, width=max(1, round(shape.line * CANVAS)), joint="curve")
        else:
            draw.polygon(points, fill=color)

    clipped(image, shape, put)


def stroke(image: Image.Image, shape: Shape, color: Color, width: float) -> None:
    """Draw a shape's outline. An open line is its own outline."""
    points = to_pixels(shape.points)
    closed = points if shape.line else [*points, points[0]]
    width = max(1, round(width * SCALE))
    clipped(image, shape, lambda draw: draw.line(closed, fill=color, width=width, joint="curve"))


def clipped(image: Image.Image, shape: Shape, put: Callable[[ImageDraw.ImageDraw], None]) -> None:
    """Let `put` draw, inside the shape's clip where it has one."""
    if shape.clip is None:
        put(ImageDraw.Draw(image))
        return
    layer = image.copy()
    put(ImageDraw.Draw(layer))
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(to_pixels(shape.clip), fill=255)
    image.paste(layer, mask=mask)


def role_mask(shapes: list[Shape], role: Role) -> np.ndarray:
    """Measure how much of each pixel shows the role, (64, 64) in 0..1."""
    image = Image.new("L", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, 255 if shape.role == role else 0)
    return np.asarray(image.reduce(SCALE)).astype(np.float32) / 255
