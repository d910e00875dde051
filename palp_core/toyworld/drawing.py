"""Draws the scenes of the toy world: 64x64 pixels, anti-aliased, always the same for the same scene.

A scene becomes a list of shapes in unit coordinates; each style has its own way to put shapes on paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .scenes import Colour, Individual, Place, Scene

SIZE = 64  # pixels of a picture's side
SCALE = 3  # drawn so many times larger, then averaged: anti-aliasing
CANVAS = SIZE * SCALE

Role = Literal["place", "subject", "accessory"]
DARK = (38, 34, 40)


@dataclass(frozen=True)
class Shape:
    """A polygon, or an open line where `line` is its width. points: (N, 2), x right and y down, the picture is 0..1.

    clip: shapes of a pattern are seen inside this polygon only. outlined: styles that draw outlines draw this one's.
    """

    points: np.ndarray
    colour: Colour
    role: Role
    line: float = 0.0
    clip: np.ndarray | None = None
    outlined: bool = True


@dataclass(frozen=True)
class Picture:
    """pixels: (64, 64, 3) uint8. Masks: (64, 64) in 0..1, they add up to 1 in each pixel."""

    pixels: np.ndarray
    subject: np.ndarray
    accessory: np.ndarray
    place: np.ndarray


# --- outlines in unit coordinates ------------------------------------------------------------------------------------


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 28, start: float = 0.0, end: float = 2 * np.pi):
    angle = np.linspace(start, end, points)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> np.ndarray:
    corners = [(x1 - r, y1 - r, 0), (x0 + r, y1 - r, 1), (x0 + r, y0 + r, 2), (x1 - r, y0 + r, 3)]
    arcs = [ellipse(x, y, r, r, 6, q * np.pi / 2, (q + 1) * np.pi / 2) for x, y, q in corners]
    return np.concatenate(arcs)


def path(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


# --- subjects --------------------------------------------------------------------------------------------------------
# Each is drawn in a frame of its own: x in -1..1 from left to right, y in -1..1 from head to foot, before the width
# and height of the individual. `anchors` say where accessories go.


@dataclass(frozen=True)
class Anchors:
    """crown: (x, y) where a hat sits, and its width. neck: (x, y) of a scarf's middle, and its width. hand: (x, y)."""

    crown: tuple[float, float, float]
    neck: tuple[float, float, float]
    hand: tuple[float, float]


def pattern_shapes(who: Individual, clip: np.ndarray) -> list[Shape]:
    """The individual's pattern over the bounding box of a body part, seen inside it."""
    (x0, y0), (x1, y1) = clip.min(axis=0), clip.max(axis=0)
    w, h = x1 - x0, y1 - y0
    count = 3 if who.period < 0.5 else 2
    outlines = {
        "stripes": lambda: [box(x0 + w * (2 * i + 0.6) / (2 * count), y0, x0 + w * (2 * i + 1.4) / (2 * count), y1)
                            for i in range(count)],
        "bands": lambda: [box(x0, y0 + h * (2 * i + 0.6) / (2 * count), x1, y0 + h * (2 * i + 1.4) / (2 * count))
                          for i in range(count)],
        "spots": lambda: [ellipse(x0 + w * (i + 0.5 + 0.25 * (-1) ** j) / count, y0 + h * (j + 0.5) / count,
                                  0.27 * w / count, 0.27 * w / count, 14)
                          for i in range(count) for j in range(count)],
        "patch": lambda: [box(x0, y0, x0 + w * (0.35 + 0.3 * who.period), y1)],
        "checks": lambda: [box(x0 + w * i / (count + 1), y0 + h * j / (count + 1),
                               x0 + w * (i + 1) / (count + 1), y0 + h * (j + 1) / (count + 1))
                           for i in range(count + 1) for j in range(count + 1) if (i + j) % 2],
    }[who.pattern]()  # fmt: skip
    return [Shape(points, who.second, "subject", clip=clip) for points in outlines]


def part(points: np.ndarray, colour: Colour, line: float = 0.0, outlined: bool = True) -> Shape:
    return Shape(points, colour, "subject", line, outlined=outlined)


def eyes(x: float, y: float, apart: float, r: float) -> list[Shape]:
    shapes = []
    for side in (-1, 1):
        shapes.append(part(ellipse(x + side * apart, y, r, r * 1.15, 16), (250, 250, 250)))
        shapes.append(part(ellipse(x + side * apart, y + 0.15 * r, r * 0.5, r * 0.6, 12), DARK, outlined=False))
    return shapes


def cat(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    body = ellipse(0, 0.55, 0.55, 0.5)
    tail = part(path((0.45, 0.8), (0.8, 0.7), (0.92, 0.35), (0.78, 0.05)), who.main, line=0.17)
    shapes = [tail, part(body, who.main), *pattern_shapes(who, body)]
    for side in (-1, 1):
        shapes.append(part(ellipse(side * 0.27, 0.95, 0.2, 0.11, 16), who.main))
        ear = path((side * 0.68, -0.35), (side * (0.5 + 0.12 * f), -0.62 - 0.34 * f), (side * 0.12, -0.62))
        shapes.append(part(ear, who.main))
    shapes.append(part(ellipse(0, -0.28, 0.68, 0.47), who.main))
    shapes += eyes(0, -0.34, 0.27, 0.13)
    shapes.append(part(path((-0.09, -0.16), (0.09, -0.16), (0, -0.05)), who.second))
    for side in (-1, 1):
        shapes.append(part(path((side * 0.3, -0.1), (side * 0.75, -0.16)), DARK, line=0.035, outlined=False))
    return shapes, Anchors((0, -0.68, 0.75), (0, 0.2, 0.8), (0.6, 0.3))


def robot(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    body = rounded(-0.6, 0.0, 0.6, 0.75, 0.08)
    metal = (150, 156, 168)
    shapes = [part(path((0, -0.7), (0, -0.72 - 0.22 * f)), metal, line=0.08)]
    shapes.append(part(ellipse(0, -0.76 - 0.22 * f, 0.11, 0.11, 14), who.second))
    for side in (-1, 1):
        shapes.append(part(box(side * 0.33 - 0.13, 0.7, side * 0.33 + 0.13, 1.0), metal))
        shapes.append(part(rounded(side * 0.78 - 0.14, 0.05, side * 0.78 + 0.14, 0.62, 0.1), metal))
    shapes += [part(body, who.main), *pattern_shapes(who, body)]
    shapes.append(part(rounded(-0.5, -0.72, 0.5, -0.04, 0.12), who.main))
    shapes.append(part(rounded(-0.38, -0.58, 0.38, -0.26, 0.08), (225, 240, 245)))
    for side in (-1, 1):
        shapes.append(part(ellipse(side * 0.18, -0.42, 0.09, 0.09, 14), DARK, outlined=False))
    shapes.append(part(box(-0.22, -0.19, 0.22, -0.11), DARK, outlined=False))
    return shapes, Anchors((0, -0.68, 0.6), (0, 0.0, 0.62), (0.78, 0.25))


def house(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    wall = box(-0.72, -0.1, 0.72, 1.0)
    shapes = [part(box(0.34, -0.85, 0.56, -0.3), (150, 90, 76))]
    shapes += [part(wall, who.main), *pattern_shapes(who, wall)]
    shapes.append(part(path((-0.92, -0.08), (0, -0.45 - 0.4 * f), (0.92, -0.08)), who.second))
    shapes.append(part(rounded(-0.2, 0.45, 0.2, 1.0, 0.04), (110, 70, 44)))
    for side in (-1, 1):
        shapes.append(part(box(side * 0.46 - 0.16, 0.1, side * 0.46 + 0.16, 0.4), (190, 226, 244)))
    return shapes, Anchors((0, -0.32 - 0.36 * f, 0.55), (0, 0.02, 0.82), (0.74, 0.1))


def car(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    body = rounded(-1.0, 0.1, 1.0, 0.72, 0.14)
    top = -0.18 - 0.34 * f
    cabin = path((-0.66, 0.14), (-0.46, top), (0.34, top), (0.66, 0.14))
    shapes = [part(cabin, who.main)]
    shapes.append(part(path((-0.5, 0.1), (-0.37, top + 0.1), (-0.08, top + 0.1), (-0.08, 0.1)), (190, 226, 244)))
    shapes.append(part(path((0.02, 0.1), (0.02, top + 0.1), (0.28, top + 0.1), (0.5, 0.1)), (190, 226, 244)))
    shapes += [part(body, who.main), *pattern_shapes(who, body)]
    shapes.append(part(ellipse(0.92, 0.35, 0.1, 0.1, 14), (255, 240, 170)))
    for side in (-1, 1):
        shapes.append(part(ellipse(side * 0.55, 0.74, 0.26, 0.26, 20), DARK))
        shapes.append(part(ellipse(side * 0.55, 0.74, 0.11, 0.11, 14), (200, 204, 212), outlined=False))
    return shapes, Anchors((-0.06, top + 0.04, 0.62), (0, 0.16, 0.98), (-0.3, top + 0.1))


def mug(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    body = path((-0.66, -0.6), (0.5, -0.6), (0.42, 0.9), (-0.58, 0.9))
    handle = ellipse(0.52, 0.1, 0.2 + 0.2 * f, 0.42, 16, -np.pi / 2, np.pi / 2)
    shapes = [part(handle, who.second, line=0.17)]
    shapes += [part(body, who.main), *pattern_shapes(who, body)]
    shapes.append(part(ellipse(-0.08, -0.6, 0.58, 0.17), who.main))
    shapes.append(part(ellipse(-0.08, -0.58, 0.47, 0.11), (74, 44, 26)))
    for x in (-0.28, 0.1):
        steam = path((x, -0.78), (x + 0.08, -0.9), (x - 0.06, -1.02), (x + 0.04, -1.16))
        shapes.append(part(steam, (236, 236, 240), line=0.06, outlined=False))
    return shapes, Anchors((-0.08, -0.66, 0.66), (-0.08, 0.0, 0.72), (0.5, -0.1))


def bird(who: Individual) -> tuple[list[Shape], Anchors]:
    f = who.feature
    body = ellipse(-0.1, 0.25, 0.72, 0.52)
    shapes = [part(path((-0.6, 0.2), (-1.05, -0.12), (-1.05, 0.42)), who.second)]
    for x in (-0.2, 0.12):
        shapes.append(part(path((x, 0.7), (x, 1.0), (x + 0.16, 1.0)), (236, 150, 40), line=0.08))
    shapes += [part(body, who.main), *pattern_shapes(who, body)]
    beak = path((0.72, -0.5), (0.86 + 0.3 * f, -0.34), (0.7, -0.2))
    shapes.append(part(beak, (240, 160, 40)))
    shapes.append(part(ellipse(0.42, -0.38, 0.4, 0.38), who.main))
    shapes.append(part(ellipse(0.52, -0.44, 0.12, 0.13, 16), (250, 250, 250)))
    shapes.append(part(ellipse(0.55, -0.43, 0.06, 0.07, 12), DARK, outlined=False))
    return shapes, Anchors((0.4, -0.7, 0.55), (0.3, -0.05, 0.52), (-0.3, 0.2))


SUBJECTS: dict[str, Callable[[Individual], tuple[list[Shape], Anchors]]] = {
    "cat": cat,
    "robot": robot,
    "house": house,
    "car": car,
    "mug": mug,
    "bird": bird,
}

# --- accessories, in the subject's frame -----------------------------------------------------------------------------

GEAR_COLOURS: tuple[Colour, ...] = ((206, 40, 60), (36, 92, 190), (40, 150, 80), (245, 190, 40))


def accessory_shapes(name: str | None, at: Anchors, rng: np.random.Generator) -> list[Shape]:
    colour = GEAR_COLOURS[rng.integers(len(GEAR_COLOURS))]
    if name == "hat":
        return hat(*at.crown, colour)
    if name == "scarf":
        return scarf(*at.neck, colour)
    if name == "balloon":
        return balloon(*at.hand, colour)
    return []


def gear(points: np.ndarray, colour: Colour, line: float = 0.0) -> Shape:
    return Shape(points, colour, "accessory", line)


def hat(x: float, y: float, width: float, colour: Colour) -> list[Shape]:
    """A top hat with a band."""
    w = 0.62 * width
    return [
        gear(path((x - w, y), (x - 0.92 * w, y - 0.46), (x + 0.92 * w, y - 0.46), (x + w, y)), DARK),
        gear(box(x - w, y - 0.17, x + w, y), colour),
        gear(rounded(x - 1.45 * w, y - 0.05, x + 1.45 * w, y + 0.09, 0.05), DARK),
    ]


def scarf(x: float, y: float, width: float, colour: Colour) -> list[Shape]:
    """A band with two hanging ends and pale stripes."""
    pale = (250, 244, 230)
    end = path((x + 0.2 * width, y), (x + 0.62 * width, y), (x + 0.66 * width, y + 0.6), (x + 0.3 * width, y + 0.6))
    return [
        gear(end, colour),
        gear(box(x + 0.27 * width, y + 0.36, x + 0.66 * width, y + 0.46), pale),
        gear(rounded(x - width, y - 0.13, x + width, y + 0.13, 0.12), colour),
        gear(box(x - 0.55 * width, y - 0.13, x - 0.35 * width, y + 0.13), pale),
        gear(box(x + 0.0 * width, y - 0.13, x + 0.2 * width, y + 0.13), pale),
    ]


def balloon(x: float, y: float, colour: Colour) -> list[Shape]:
    """High up at the right, its string to the subject's hand."""
    at = (0.98, -0.92)
    return [
        gear(path((x, y), (0.5 * (x + at[0]) + 0.12, 0.5 * y), (at[0], at[1] + 0.42)), DARK, line=0.04),
        gear(path((at[0] - 0.1, at[1] + 0.5), (at[0] + 0.1, at[1] + 0.5), (at[0], at[1] + 0.36)), colour),
        gear(ellipse(*at, 0.32, 0.4), colour),
    ]


# --- places, in the picture's frame ----------------------------------------------------------------------------------


def ground(points: np.ndarray, colour: Colour, line: float = 0.0, outlined: bool = True) -> Shape:
    return Shape(points, colour, "place", line, outlined=outlined)


def hill(y: float, rise: float, shift: float, waves: float = 1.0) -> np.ndarray:
    x = np.linspace(-0.02, 1.02, 20)
    top = y - rise * np.sin((x + shift) * waves * np.pi)
    return np.concatenate([np.stack([x, top], axis=1), [(1.02, 1.02), (-0.02, 1.02)]])


def beach(rng: np.random.Generator) -> list[Shape]:
    side = rng.choice((0.14, 0.84))
    shapes = [ground(box(0, 0, 1, 1), (140, 208, 246), outlined=False)]
    shapes.append(ground(ellipse(side, 0.15, 0.1, 0.1), (255, 226, 90)))
    shapes.append(ground(box(0, 0.42, 1, 1), (38, 128, 200)))
    for y in (0.5, 0.58):
        x = np.linspace(0, 1, 26)
        wave = np.stack([x, y + 0.014 * np.sin(x * 25 + y * 9 + side)], axis=1)
        shapes.append(ground(wave, (196, 232, 250), line=0.016, outlined=False))
    return [*shapes, ground(hill(0.69, 0.02, side, 2.0), (240, 214, 150))]


def fir(x: float, y: float, size: float, colour: Colour) -> list[Shape]:
    tiers = [(0.0, 0.6), (0.34, 0.8), (0.68, 1.0)]
    return [
        ground(path((x - 0.5 * w * size, y + (t + 0.45) * size), (x, y + (t - 0.25) * size),
                    (x + 0.5 * w * size, y + (t + 0.45) * size)), colour)
        for t, w in reversed(tiers)
    ]  # fmt: skip


def snow(rng: np.random.Generator) -> list[Shape]:
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
    shapes = [ground(box(0, 0, 1, 1), (150, 214, 250), outlined=False)]
    for x in (0.14, 0.84):
        for dx, r in ((-0.06, 0.05), (0.0, 0.07), (0.07, 0.05)):
            at = x + dx + rng.uniform(-0.01, 0.01)
            shapes.append(ground(ellipse(at, 0.13, r, r * 0.8, 16), (255, 255, 255), outlined=dx == 0))
    shapes.append(ground(hill(0.56, 0.07, rng.uniform(0, 0.5), 1.5), (124, 192, 84)))
    shapes.append(ground(hill(0.72, 0.04, rng.uniform(0, 1), 2.0), (88, 164, 62)))
    for x, y in ((0.06, 0.72), (0.15, 0.86), (0.3, 0.93), (0.68, 0.94), (0.84, 0.85), (0.93, 0.71)):
        x = x + rng.uniform(-0.02, 0.02)
        colour = ((250, 100, 130), (255, 230, 80), (250, 250, 250))[rng.integers(3)]
        shapes.append(ground(path((x, y), (x, y + 0.09)), (40, 110, 40), line=0.014))
        shapes.append(ground(ellipse(x, y, 0.036, 0.036, 12), colour))
    return shapes


def desert(rng: np.random.Generator) -> list[Shape]:
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
    if place is None:
        backdrop = ground(box(0, 0, 1, 1), DULL, outlined=False)
        return [backdrop, ground(box(0, 0.8, 1, 1), (156, 152, 146), outlined=False)]
    return PLACES[place](rng)


# --- styles ----------------------------------------------------------------------------------------------------------


def to_pixels(points: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(point) for point in points * CANVAS]


def fill(image: Image.Image, shape: Shape, colour) -> None:
    """The area; an open line has its own width."""
    points = to_pixels(shape.points)

    def put(draw: ImageDraw.ImageDraw) -> None:
        if shape.line:
            draw.line(points, fill=colour, width=max(1, round(shape.line * CANVAS)), joint="curve")
        else:
            draw.polygon(points, fill=colour)

    clipped(image, shape, put)


def stroke(image: Image.Image, shape: Shape, colour: Colour, width: float) -> None:
    """The outline. An open line is its own outline."""
    points = to_pixels(shape.points)
    closed = points if shape.line else [*points, points[0]]
    width = max(1, round(width * SCALE))
    clipped(image, shape, lambda draw: draw.line(closed, fill=colour, width=width, joint="curve"))


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


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def luminance(colour: Colour) -> float:
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


def smaller(image: Image.Image) -> np.ndarray:
    return np.asarray(image.reduce(SCALE))


def photo(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Flat colours, rounded by light from above left."""
    image = Image.new("RGB", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, shape.colour)
        if shape.outlined and not shape.line and shape.role != "place":
            stroke(image, shape, blend(shape.colour, (0, 0, 0), 0.45), 0.7)
    pixels = smaller(image).astype(np.float32)
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    light = 1.06 - 0.09 * axis[:, None] - 0.06 * axis[None, :]
    return (pixels * light[..., None]).clip(0, 255)


def sketch(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Pencil on paper: dark lines, and greys for how dark a colour is."""
    paper = (250, 248, 242)
    image = Image.new("RGB", (CANVAS, CANVAS), paper)
    for shape in shapes:
        near = shape.role != "place"
        grey = round(255 * (1 - (1 - luminance(shape.colour)) * (0.62 if near else 0.22)))
        tone = (grey, grey, max(0, grey - 4))
        line = (62, 60, 66) if near else (150, 148, 152)
        fill(image, shape, tone)
        if shape.outlined:
            stroke(image, shape, line, 1.1 if near else 0.8)
    return smaller(image).astype(np.float32)


def pixel_art(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Squares of 2x2 pixels, few levels of each colour, black outlines."""
    image = Image.new("RGB", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, shape.colour)
        if shape.outlined and not shape.line and shape.role != "place":
            stroke(image, shape, (16, 12, 24), 1.0)
    small = np.asarray(image.reduce(2 * SCALE)).astype(np.float32)
    levels = (np.round(small / 51) * 51).clip(0, 255)
    return levels.repeat(2, axis=0).repeat(2, axis=1)


def neon(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Glowing tubes along the outlines before a dark wall."""
    wall = (14, 8, 26)
    image = Image.new("RGB", (CANVAS, CANVAS), wall)
    for shape in shapes:
        near = shape.role != "place"
        bright = blend(tuple(max(c, 60) for c in shape.colour), (255, 255, 255), 0.25)
        tube = bright if near else blend(bright, wall, 0.55)
        fill(image, shape, blend(wall, shape.colour, 0.16))
        if shape.outlined:
            stroke(image, shape, tube, 1.7 if near else 1.0)
    sharp = image.reduce(SCALE)
    glow = sharp.filter(ImageFilter.GaussianBlur(2.2))
    return np.asarray(ImageChops.add(sharp, glow, scale=1.25)).astype(np.float32)


def watercolor(shapes: list[Shape], rng: np.random.Generator) -> np.ndarray:
    """Thin paint on white paper: pale washes with soft edges and darker rims."""
    image = Image.new("RGB", (CANVAS, CANVAS), (252, 250, 244))
    for shape in shapes:
        wash = blend(shape.colour, (255, 255, 255), 0.28 if shape.role != "place" else 0.5)
        fill(image, shape, wash)
        if shape.outlined and not shape.line:
            stroke(image, shape, blend(wash, shape.colour, 0.75), 1.2)
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


# --- the picture -----------------------------------------------------------------------------------------------------


def placed(shape: Shape, centre: tuple[float, float], size: tuple[float, float]) -> Shape:
    """From the subject's frame to the picture's."""

    def move(points: np.ndarray | None) -> np.ndarray | None:
        return None if points is None else points * size + centre

    return Shape(move(shape.points), shape.colour, shape.role, shape.line * min(size), move(shape.clip), shape.outlined)


def scene_shapes(scene: Scene, rng: np.random.Generator) -> list[Shape]:
    """Everything in the picture, from back to front."""
    who = scene.individual
    background = place_shapes(scene.place, rng)
    body, anchors = SUBJECTS[who.class_word](who)
    zoom = rng.uniform(0.94, 1.06)
    size = (0.345 * who.width * zoom, 0.355 * who.height * zoom)
    centre = (0.48 + rng.uniform(-0.03, 0.03), 0.94 - size[1] + rng.uniform(-0.02, 0.02))
    front = body + accessory_shapes(scene.accessory, anchors, rng)
    return background + [placed(shape, centre, size) for shape in front]


def role_mask(shapes: list[Shape], role: Role) -> np.ndarray:
    """(64, 64) in 0..1: how much of each pixel shows the role."""
    image = Image.new("L", (CANVAS, CANVAS))
    for shape in shapes:
        fill(image, shape, 255 if shape.role == role else 0)
    return np.asarray(image.reduce(SCALE)).astype(np.float32) / 255


def render(scene: Scene) -> np.ndarray:
    """(64, 64, 3) uint8."""
    rng = np.random.default_rng(scene.jitter)
    shapes = scene_shapes(scene, rng)
    return STYLES[scene.style](shapes, rng).astype(np.uint8)


def render_with_masks(scene: Scene) -> Picture:
    rng = np.random.default_rng(scene.jitter)
    shapes = scene_shapes(scene, rng)
    subject, accessory = role_mask(shapes, "subject"), role_mask(shapes, "accessory")
    pixels = STYLES[scene.style](shapes, rng).astype(np.uint8)
    return Picture(pixels, subject, accessory, (1 - subject - accessory).clip(0, 1))
