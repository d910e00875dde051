"""Styles: each has its own way to put shapes on paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from ..scenes import Color
from .shapes import CANVAS, SCALE, SIZE, Shape, fill, stroke


def blend(color: Color, other: Color, share: float) -> Color:
    """Mix two colors; share 0 is the first, 1 the other."""
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other, strict=True))


def luminance(color: Color) -> float:
    """Weigh a color's channels as the eye does; 0..1."""
    return (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]) / 255


def smaller(image: Image.Image) -> np.ndarray:
    """Average the canvas to the picture's size."""
    return np.asarray(image.reduce(SCALE))


def photo(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Paint flat colors, rounded by light from above left."""
    image = Image.new("RGB", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, shape.color)
        if shape.outlined and not shape.line and shape.role != "place":
            stroke(image, shape, blend(shape.color, (0, 0, 0), 0.45), 0.7)
    pixels = smaller(image).astype(np.float32)
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = 1.06 - 0.09 * axis[:, None] - 0.06 * axis[None, :]
    return (pixels * light[..., None]).clip(0, 255)


def sketch(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Draw in pencil: dark lines, and greys for how dark a color is."""
    paper = (250, 248, 242)
    image = Image.new("RGB", (CANVAS, CANVAS), paper)
    for shape in shapes:
        near = shape.role != "place"
        grey = round(255 * (1 - (1 - luminance(shape.color)) * (0.62 if near else 0.22)))
        tone = (grey, grey, max(0, grey - 4))
        line = (62, 60, 66) if near else (150, 148, 152)
        fill(image, shape, tone)
        if shape.outlined:
            stroke(image, shape, line, 1.1 if near else 0.8)
    return smaller(image).astype(np.float32)


def pixel_art(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Paint squares of 2x2 pixels, few levels of each color, black outlines."""
    image = Image.new("RGB", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, shape.color)
        if shape.outlined and not shape.line and shape.role != "place":
            stroke(image, shape, (16, 12, 24), 1.0)
    small = np.asarray(image.reduce(2 * SCALE)).astype(np.float32)
    levels = (np.round(small / 51) * 51).clip(0, 255)
    return levels.repeat(2, axis=0).repeat(2, axis=1)


def neon(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Bend glowing tubes along the outlines before a dark wall."""
    wall = (14, 8, 26)
    image = Image.new("RGB", (CANVAS, CANVAS), wall)
    for shape in shapes:
        near = shape.role != "place"
        bright = blend(tuple(max(c, 60) for c in shape.color), (255, 255, 255), 0.25)
        tube = bright if near else blend(bright, wall, 0.55)
        fill(image, shape, blend(wall, shape.color, 0.16))
        if shape.outlined:
            stroke(image, shape, tube, 1.7 if near else 1.0)
    sharp = image.reduce(SCALE)
    glow = sharp.filter(ImageFilter.GaussianBlur(2.2))
    return np.asarray(ImageChops.add(sharp, glow, scale=1.25)).astype(np.float32)


def watercolor(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Wash thin paint over white paper: pale areas with soft edges and darker rims."""
    image = Image.new("RGB", (CANVAS, CANVAS), (252, 250, 244))
    for shape in shapes:
        wash = blend(shape.color, (255, 255, 255), 0.28 if shape.role != "place" else 0.5)
        fill(image, shape, wash)
        if shape.outlined and not shape.line:
            stroke(image, shape, blend(wash, shape.color, 0.75), 1.2)
    pixels = np.asarray(image.reduce(SCALE).filter(ImageFilter.GaussianBlur(0.45))).astype(np.float32)
    cells = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).resize((SIZE, SIZE), Image.BICUBIC)
    pigment = (np.asarray(cells, dtype=np.float32)[..., None] / 255 - 0.5) * 0.35
    washed = pixels + (255 - pixels) * (0.12 + pigment)
    axis = np.linspace(-1, 1, SIZE)
    edge = np.maximum(np.abs(axis)[:, None], np.abs(axis)[None, :])
    paper = np.clip((edge - 0.86) / 0.12, 0, 1)[..., None]
    return (washed * (1 - paper) + 251 * paper).clip(0, 255)


STYLES: dict[str, Callable[[list[Shape], np.random.Generator], np.ndarray]] = {
    "photo": photo,
    "sketch": sketch,
    "pixel art": pixel_art,
    "neon": neon,
    "watercolor": watercolor,
}
