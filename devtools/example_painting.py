"""Paints the example artwork after the example photo of a cup: `python -m devtools.example_painting`.

Layers of ever finer strokes run along the edges of what they paint, as in Litwinowicz (1997) and Hertzmann (1998).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PHOTOS = Path(__file__).parents[1] / "nodes/example_photos"
PHOTO, PAINTING = PHOTOS / "cup/cup.jpg", PHOTOS / "painting/painting.jpg"
SIDE = 512  # pixels
#: Widths of the brushes, pixels; each layer leaves out what the coarser ones have painted well.
BRUSHES = (28, 14, 8)
GOOD = 24.0  # a difference of colors that is left as it is, of 255
LENGTH = 2.5  # of a stroke, in widths of its brush
SPREAD = 9.0  # by which strokes differ in color, of 255


def painting(photo: Image.Image) -> Image.Image:
    """Paint a photo, as a square."""
    photo = photo.convert("RGB").resize((SIDE, SIDE))
    random, canvas = np.random.default_rng(1), Image.new("RGB", (SIDE, SIDE), (196, 176, 148))
    for width in BRUSHES:
        paint_layer(canvas, photo.filter(ImageFilter.GaussianBlur(width / 3)), width, random)
    return canvas


def paint_layer(canvas: Image.Image, wanted: Image.Image, width: int, random: np.random.Generator) -> None:
    """Add the strokes of one brush, in random order."""
    colors = np.asarray(wanted, dtype=float)
    missing = np.linalg.norm(colors - np.asarray(canvas, dtype=float), axis=-1)
    down, across = np.gradient(np.asarray(wanted.filter(ImageFilter.GaussianBlur(width)).convert("L"), dtype=float))
    brush, step = ImageDraw.Draw(canvas), max(2, width // 2)
    places = np.stack(np.meshgrid(*[np.arange(0, SIDE, step)] * 2), axis=-1).reshape(-1, 2)
    for x, y in random.permutation(places):
        if missing[y, x] > GOOD:
            color = np.clip(colors[y, x] + random.normal(0, SPREAD), 0, 255).astype(int)
            stroke(brush, (x, y), along(across[y, x], down[y, x], random), width, tuple(color))


def along(across: float, down: float, random: np.random.Generator) -> float:
    """Choose the direction of a stroke, radians: that of the edge, or any where there is none."""
    angle = np.arctan2(across, -down) if np.hypot(across, down) > 1 else 0.7
    return angle + random.normal(0, 0.2)


def stroke(brush: ImageDraw.ImageDraw, middle: tuple[int, int], angle: float, width: int, color: tuple) -> None:
    """Draw a stroke with round ends."""
    reach = np.array([np.cos(angle), np.sin(angle)]) * LENGTH * width / 2
    ends = [tuple(middle - reach), tuple(middle + reach)]
    brush.line(ends, fill=color, width=width)
    for x, y in ends:
        brush.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=color)


def main() -> None:
    """Paint the file anew."""
    PAINTING.parent.mkdir(exist_ok=True)
    with Image.open(PHOTO) as photo:
        painting(photo).save(PAINTING, quality=85, optimize=True)


if __name__ == "__main__":
    main()
