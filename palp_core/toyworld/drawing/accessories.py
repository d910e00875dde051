"""Accessories, in the subject's frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..scenes import Color
from .shapes import DARK, Shape, box, ellipse, path, rounded

GEAR_COLORS: tuple[Color, ...] = ((206, 40, 60), (36, 92, 190), (40, 150, 80), (245, 190, 40))


@dataclass(frozen=True)
class Anchors:
    """Say where a subject wears or holds accessories, in its frame.

    crown: (x, y) where a hat sits, and its width. neck: (x, y) of a scarf's middle, and its width. hand: (x, y).
    """

    crown: tuple[float, float, float]
    neck: tuple[float, float, float]
    hand: tuple[float, float]


def accessory_shapes(name: str | None, at: Anchors, rng: np.random.Generator) -> list[Shape]:
    """Draw what the subject wears or holds, in a color by chance; nothing for None."""
    color = GEAR_COLORS[rng.integers(len(GEAR_COLORS))]
    if name == "hat":
        return hat(*at.crown, color)
    if name == "scarf":
        return scarf(*at.neck, color)
    if name == "balloon":
        return balloon(*at.hand, color)
    return []


def gear(points: np.ndarray, color: Color, line: float = 0.0) -> Shape:
    """Make a shape that belongs to the accessory."""
    return Shape(points, color, "accessory", line)


def hat(x: float, y: float, width: float, color: Color) -> list[Shape]:
    """Draw a top hat with a band."""
    w = 0.62 * width
    return [
        gear(path((x - w, y), (x - 0.92 * w, y - 0.46), (x + 0.92 * w, y - 0.46), (x + w, y)), DARK),
        gear(box(x - w, y - 0.17, x + w, y), color),
        gear(rounded(x - 1.45 * w, y - 0.05, x + 1.45 * w, y + 0.09, 0.05), DARK),
    ]


def scarf(x: float, y: float, width: float, color: Color) -> list[Shape]:
    """Draw a band with a hanging end and pale stripes."""
    pale = (250, 244, 230)
    end = path((x + 0.2 * width, y), (x + 0.62 * width, y), (x + 0.66 * width, y + 0.6), (x + 0.3 * width, y + 0.6))
    return [
        gear(end, color),
        gear(box(x + 0.27 * width, y + 0.36, x + 0.66 * width, y + 0.46), pale),
        gear(rounded(x - width, y - 0.13, x + width, y + 0.13, 0.12), color),
        gear(box(x - 0.55 * width, y - 0.13, x - 0.35 * width, y + 0.13), pale),
        gear(box(x + 0.0 * width, y - 0.13, x + 0.2 * width, y + 0.13), pale),
    ]


def balloon(x: float, y: float, color: Color) -> list[Shape]:
    """Draw a balloon high up at the right, its string to the subject's hand."""
    at = (0.98, -0.92)
    return [
        gear(path((x, y), (0.5 * (x + at[0]) + 0.12, 0.5 * y), (at[0], at[1] + 0.42)), DARK, line=0.04),
        gear(path((at[0] - 0.1, at[1] + 0.5), (at[0] + 0.1, at[1] + 0.5), (at[0], at[1] + 0.36)), color),
        gear(ellipse(*at, 0.32, 0.4), color),
    ]
