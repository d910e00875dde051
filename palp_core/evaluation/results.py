"""What came of a folder of pictures: figures of each picture, of each prompt's, and of each method's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .layout import Shown
from .metrics import standard_error

#: Axis -> its name, and what it is.
AXES = {
    "clip_t": ("CLIP-T", "text alignment, the cosine of a picture and its prompt, by CLIP"),
    "clip_i": ("CLIP-I", "subject alignment, the mean cosine of a picture to the photos, by CLIP"),
    "dino": ("DINO", "subject alignment, the mean cosine of a picture to the photos, by DINOv2"),
    "diversity": ("diversity", "the mean of 1 - cosine over the pairs of pictures of one prompt, by DINOv2"),
}


@dataclass(frozen=True)
class Judged:
    """One picture. figures: axis -> value, of all axes but diversity. small: a JPEG of it."""

    shown: Shown
    figures: dict[str, float]
    small: bytes


@dataclass(frozen=True)
class Cell:
    """The pictures of one method, subject, prompt and step. figures: axis -> mean; diversity only of two or more."""

    method: str
    subject: str
    prompt: str
    pictures: tuple[Judged, ...]
    figures: dict[str, float]
    #: After how many steps of a training; None where that is not said.
    step: int | None = None


class Figure(NamedTuple):
    """A mean over cells, which count alike, and its standard error over subjects and prompts; None of a single cell."""

    mean: float
    error: float | None


@dataclass(frozen=True)
class Evaluation:
    """All figures, and what is to be said of them."""

    cells: tuple[Cell, ...]
    #: Axis -> why it is not measured, in a sentence.
    not_measured: dict[str, str]
    #: Subject -> JPEGs of its photos.
    photos: dict[str, tuple[bytes, ...]]
    #: Sentences: what is left out, and what does not compare.
    notes: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """The methods in the order in which they appear."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def steps(self, method: str) -> list[int]:
        """List the steps after which a method has pictures, ascending; none where they are not said."""
        return sorted({cell.step for cell in self.cells if cell.method == method and cell.step is not None})

    @property
    def curved(self) -> list[str]:
        """Name the methods that have pictures of several steps."""
        return [method for method in self.methods if len(self.steps(method)) > 1]

    def of(self, method: str, step: int | None = None) -> list[Cell]:
        """The cells of a method after so many steps; None for the last that it has."""
        step = max(self.steps(method), default=None) if step is None else step
        return [cell for cell in self.cells if cell.method == method and cell.step == step]

    def figure(self, method: str, axis: str, step: int | None = None) -> Figure | None:
        """Average a method's cells after so many steps, None for the last; None where none has the axis."""
        cells = [cell for cell in self.of(method, step) if axis in cell.figures]
        if not cells:
            return None
        numbers = [cell.figures[axis] for cell in cells]
        error = standard_error(numbers, [cell.subject for cell in cells], [cell.prompt for cell in cells])
        return Figure(float(np.mean(numbers)), error)

    def missing(self) -> list[str]:
        """Say which axes are not measured and why, each reason once, in sentences."""
        axes: dict[str, list[str]] = {}
        for axis, reason in self.not_measured.items():
            axes.setdefault(reason, []).append(AXES[axis][0])
        return [f"not measured: {', '.join(names)}. {reason}" for reason, names in axes.items()]
