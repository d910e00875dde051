"""Subjects: one function draws each class.

Each is drawn in a frame of its own: x in -1..1 from left to right, y in -1..1 from head to foot, before the width and
height of the individual.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..scenes import Color, Individual
from .accessories import Anchors
from .shapes import DARK, Shape, box, ellipse, path, rounded


def pattern_shapes(who: Individual, clip: np.ndarray) -> list[Shape]:
    """Draw the individual's pattern over the bounding box of a body part, seen inside it."""
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


def part(points: np.ndarray, color: Color, line: float = 0.0, outlined: bool = True) -> Shape:
    """Make a shape that belongs to the subject."""
    return Shape(points, color, "subject", line, outlined=outlined)


def eyes(x: float, y: float, apart: float, r: float) -> list[Shape]:
    """Draw two eyes, `apart` to the left and right of (x, y)."""
    shapes = []
    for side in (-1, 1):
        shapes.append(part(ellipse(x + side * apart, y, r, r * 1.15, 16), (250, 250, 250)))
        shapes.append(part(ellipse(x + side * apart, y + 0.15 * r, r * 0.5, r * 0.6, 12), DARK, outlined=False))
    return shapes


def cat(who: Individual) -> tuple[list[Shape], Anchors]:
    """Draw a cat that sits; its feature is the size of its ears."""
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
    """Draw a robot; its feature is the length of its antenna."""
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
    """Draw a house; its feature is the height of its roof."""
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
    """Draw a car from its side; its feature is the height of its cabin."""
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
    """Draw a mug that steams; its feature is the size of its handle."""
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
    """Draw a bird that looks to the right; its feature is the length of its beak."""
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
