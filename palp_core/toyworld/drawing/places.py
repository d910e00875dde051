"""Places: what is behind the subject, in the picture's frame: 0..1, x right and y down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..scenes import Color, Place
from .shapes import Shape, box, ellipse, path


def ground(points: np.ndarray, color: Color, line: float = 0.0, outlined: bool = True) -> Shape:
    """Make a shape that belongs to the place."""
    return Shape(points, color, "place", line, outlined=outlined)


def hill(y: float, rise: float, shift: float, waves: float = 1.0) -> np.ndarray:
    """Outline everything below a wavy line around y."""
    x = np.linspace(-0.02, 1.02, 20)
    top = y - rise * np.sin((x + shift) * waves * np.pi)
    return np.concatenate([np.stack([x, top], axis=1), [(1.02, 1.02), (-0.02, 1.02)]])


def beach(rng: np.random.Generator) -> list[Shape]:
    """Draw a sun over the sea, with two waves and sand."""
    side = rng.choice((0.14, 0.84))
    shapes = [ground(box(0, 0, 1, 1), (140, 208, 246), outlined=False)]
    shapes.append(ground(ellipse(side, 0.15, 0.1, 0.1), (255, 226, 90)))
    shapes.append(ground(box(0, 0.42, 1, 1), (38, 128, 200)))
    for y in (0.5, 0.58):
        x = np.linspace(0, 1, 26)
        wave = np.stack([x, y + 0.014 * np.sin(x * 25 + y * 9 + side)], axis=1)
        shapes.append(ground(wave, (196, 232, 250), line=0.016, outlined=False))
    return [*shapes, ground(hill(0.69, 0.02, side, 2.0), (240, 214, 150))]


def fir(x: float, y: float, size: float, color: Color) -> list[Shape]:
    """Draw a fir in three tiers, (x, y) near its top."""
    tiers = [(0.0, 0.6), (0.34, 0.8), (0.68, 1.0)]
    return [
        ground(path((x - 0.5 * w * size, y + (t + 0.45) * size), (x, y + (t - 0.25) * size),
                    (x + 0.5 * w * size, y + (t + 0.45) * size)), color)
        for t, w in reversed(tiers)
    ]  # fmt: skip


def snow(rng: np.random.Generator) -> list[Shape]:
    """Draw two firs behind snow, and flakes in the air."""
    shapes = [ground(box(0, 0, 1, 1), (168, 190, 214), outlined=False)]
    shapes += fir(0.1, 0.26 + rng.uniform(-0.03, 0.03), 0.3, (44, 98, 84))
    shapes += fir(0.9, 0.3 + rng.uniform(-0.03, 0.03), 0.28, (52, 110, 92))
    shapes.append(ground(hill(0.68, 0.03, rng.uniform(0, 2), 1.0), (244, 248, 252)))
    upper = ((0.05, 0.12), (0.25, 0.06), (0.43, 0.16), (0.62, 0.06), (0.78, 0.17), (0.94, 0.09))
    for x, y in (*upper, (0.3, 0.3), (0.7, 0.3)):
        flake = ellipse(x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.02, 0.02), 0.019, 0.019, 10)
        shapes.append(ground(flake, (255, 255, 255)))
    return shapes


def city(rng: np.random.Generator) -> list[Shape]:
    """Draw lit windows in dark towers, under a moon."""
    shapes = [ground(box(0, 0, 1, 1), (24, 28, 66), outlined=False)]
    shapes.append(ground(ellipse(0.5 + rng.uniform(-0.1, 0.1), 0.1, 0.065, 0.065), (244, 240, 206)))
    lit = (255, 214, 92)
    for x0, x1, y in ((0.0, 0.2, 0.2), (0.2, 0.36, 0.4), (0.36, 0.62, 0.3), (0.62, 0.79, 0.36), (0.79, 1.0, 0.16)):
        top = y + rng.uniform(-0.04, 0.04)
        shapes.append(ground(box(x0, top, x1, 0.86), (58, 60, 104)))
        for row in range(4):
            for column in range(2):
                x, w = x0 + (x1 - x0) * (0.2 + 0.4 * column), (x1 - x0) * 0.22
                y0 = top + 0.06 + 0.13 * row
                shapes.append(ground(box(x, y0, x + w, y0 + 0.06), lit, outlined=False))
    return [*shapes, ground(box(0, 0.84, 1, 1), (44, 44, 60))]


def meadow(rng: np.random.Generator) -> list[Shape]:
    """Draw clouds over green hills with flowers."""
    shapes = [ground(box(0, 0, 1, 1), (150, 214, 250), outlined=False)]
    for x in (0.14, 0.84):
        for dx, r in ((-0.06, 0.05), (0.0, 0.07), (0.07, 0.05)):
            at = x + dx + rng.uniform(-0.01, 0.01)
            shapes.append(ground(ellipse(at, 0.13, r, r * 0.8, 16), (255, 255, 255), outlined=dx == 0))
    shapes.append(ground(hill(0.56, 0.07, rng.uniform(0, 0.5), 1.5), (124, 192, 84)))
    shapes.append(ground(hill(0.72, 0.04, rng.uniform(0, 1), 2.0), (88, 164, 62)))
    for x, y in ((0.06, 0.72), (0.15, 0.86), (0.3, 0.93), (0.68, 0.94), (0.84, 0.85), (0.93, 0.71)):
        x = x + rng.uniform(-0.02, 0.02)
        color = ((250, 100, 130), (255, 230, 80), (250, 250, 250))[rng.integers(3)]
        shapes.append(ground(path((x, y), (x, y + 0.09)), (40, 110, 40), line=0.014))
        shapes.append(ground(ellipse(x, y, 0.036, 0.036, 12), color))
    return shapes


def desert(rng: np.random.Generator) -> list[Shape]:
    """Draw a red sun over dunes with two cacti."""
    shapes = [ground(box(0, 0, 1, 1), (252, 190, 120), outlined=False)]
    shapes.append(ground(ellipse(0.3 + rng.uniform(-0.08, 0.08), 0.14, 0.085, 0.085), (250, 96, 60)))
    shapes.append(ground(hill(0.58, 0.08, rng.uniform(0, 0.4), 1.6), (226, 150, 80)))
    shapes.append(ground(hill(0.74, 0.05, rng.uniform(0, 1), 2.0), (204, 122, 58)))
    green = (48, 132, 74)
    for x, height in ((0.09, 0.36), (0.91, 0.3)):
        base, x = 0.8, x + rng.uniform(-0.015, 0.015)
        arm = path((x, base - 0.15), (x + 0.07, base - 0.15), (x + 0.07, base - 0.27))
        shapes.append(ground(arm, green, line=0.035))
        shapes.append(ground(path((x, base), (x, base - height)), green, line=0.06))
    return shapes


def room(rng: np.random.Generator) -> list[Shape]:
    """Draw a wall with a window and a painting, over a floor of boards."""
    wall = ((226, 190, 170), (196, 206, 180), (216, 200, 224))[rng.integers(3)]
    shapes = [ground(box(0, 0, 1, 1), wall, outlined=False)]
    shapes.append(ground(box(0.04, 0.08, 0.26, 0.4), (246, 246, 240)))
    shapes.append(ground(box(0.065, 0.11, 0.14, 0.37), (176, 222, 250)))
    shapes.append(ground(box(0.16, 0.11, 0.235, 0.37), (176, 222, 250)))
    shapes.append(ground(box(0.76, 0.1, 0.97, 0.3), (120, 74, 40)))
    shapes.append(ground(box(0.79, 0.13, 0.94, 0.27), ((240, 200, 90), (120, 190, 170))[rng.integers(2)]))
    shapes.append(ground(box(0, 0.74, 1, 1), (164, 108, 62)))
    for x in (0.12, 0.37, 0.63, 0.88):
        shapes.append(ground(path((x, 0.74), (0.5 + (x - 0.5) * 1.5, 1.02)), (128, 80, 44), line=0.012))
    return shapes


PLACES: dict[Place, Callable[[np.random.Generator], list[Shape]]] = {
    "beach": beach,
    "snow": snow,
    "city": city,
    "meadow": meadow,
    "desert": desert,
    "room": room,
}

DULL = (176, 172, 166)


def place_shapes(place: Place | None, rng: np.random.Generator) -> list[Shape]:
    """Draw a place, or a plain backdrop for None."""
    if place is None:
        backdrop = ground(box(0, 0, 1, 1), DULL, outlined=False)
        return [backdrop, ground(box(0, 0.8, 1, 1), (156, 152, 146), outlined=False)]
    return PLACES[place](rng)
