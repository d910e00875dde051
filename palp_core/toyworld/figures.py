"""What a set of drawn pictures is worth: the paper's two axes, what they are made of, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .evaluators import Evaluators, Target, diversity


@dataclass(frozen=True)
class Figures:
    """Means over the pictures of one prompt. elements: attribute -> share of pictures that show it."""

    text_alignment: float
    subject_fidelity: float
    diversity: float
    elements: dict[str, float]


@torch.no_grad()
def judge(evaluators: Evaluators, pictures: Tensor, target: Target, references: Tensor) -> Figures:
    """pictures: (B, 3, 64, 64), references: (R, 3, 64, 64), both in -1..1."""
    elements = {name: float(shown.mean()) for name, shown in evaluators.recognised(pictures, target).items()}
    return Figures(
        text_alignment=sum(elements.values()) / len(elements),
        subject_fidelity=float(evaluators.subject_fidelity(pictures, references).mean()),
        diversity=diversity(pictures),
        elements=elements,
    )


def mean_figures(several: list[Figures]) -> Figures:
    count = len(several)
    names = [name for name in several[0].elements if all(name in f.elements for f in several)]
    return Figures(
        sum(f.text_alignment for f in several) / count,
        sum(f.subject_fidelity for f in several) / count,
        sum(f.diversity for f in several) / count,
        {name: sum(f.elements[name] for f in several) / count for name in names},
    )
