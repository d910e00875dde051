"""What a set of drawn pictures is worth: text alignment, subject alignment, diversity, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .evaluators import Evaluators, Target, diversity


@dataclass(frozen=True)
class Figures:
    """Hold means over the pictures of one prompt, or of several; the errors are standard errors over the pictures.

    elements: attribute -> share of pictures that show it.
    """

    text_alignment: float
    text_alignment_error: float
    subject_alignment: float
    subject_alignment_error: float
    diversity: float
    elements: dict[str, float]


@torch.no_grad()
def judge(evaluators: Evaluators, pictures: Tensor, target: Target, references: Tensor) -> Figures:
    """Judge the pictures of one prompt.

    pictures: (B, 3, 64, 64) with B >= 2, references: (R, 3, 64, 64), both in -1..1.

    The text alignment of a picture is the share of the target's elements that it shows, which the paper's user study
    counts too.
    """
    shown = evaluators.recognized(pictures, target)
    return Figures(
        *mean_and_error(torch.stack(list(shown.values())).mean(dim=0)),
        *mean_and_error(evaluators.subject_alignment(pictures, references)),
        diversity=diversity(pictures),
        elements={name: float(pictures_that_do.mean()) for name, pictures_that_do in shown.items()},
    )


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Take the mean of independent values, (N,) with N >= 2, and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def mean_figures(several: list[Figures]) -> Figures:
    """Average over prompts, which count as given: the error is that of their pictures."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(figures, name) for figures in several]))

    def error(name: str) -> float:
        return float(np.sqrt(np.sum([getattr(figures, name) ** 2 for figures in several])) / len(several))

    names = [name for name in several[0].elements if all(name in figures.elements for figures in several)]
    return Figures(
        mean("text_alignment"),
        error("text_alignment_error"),
        mean("subject_alignment"),
        error("subject_alignment_error"),
        mean("diversity"),
        {name: float(np.mean([figures.elements[name] for figures in several])) for name in names},
    )
