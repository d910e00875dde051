"""One line that says what a training does and what memory it takes, before its first step, for whoever waits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models.wording import counted
from .memory import estimate
from .personalization import Personalization
from .scripts import unread
from .textual_inversion import TextualInversion


def summary(method: Personalization | TextualInversion) -> str:
    """Say what is learned, from how many pictures and for what, what memory that takes, and what cannot be read."""
    told = [f"{_learned(method).rstrip('.')}.", method.memory_note or estimate(method), unread(method)]
    return " ".join(filter(None, told))


def _learned(method: Personalization | TextualInversion) -> str:
    if isinstance(method, TextualInversion):
        concept = method.concept
        start = concept.initial_embedding.name if concept.initial_embedding else concept.initial_word
        kind = "an object" if concept.kind == "object" else "a style"
        return f"Learning a word for {kind} ({start}) from {_counted(concept.images, concept.masks)}"
    learned = [
        f"{placeholder} ({method.texts.get(placeholder, s.class_word)}) from {_counted(s.images, s.masks)}"
        for placeholder, s in method.subjects.items()
    ]
    return f"Learning {' and '.join(learned)}, for: {method.target_prompt}"


def _counted(images: Sequence[Tensor], masks: Sequence[Tensor]) -> str:
    """Count the photos, and say how much of them the masks call the subject."""
    photos = counted(len(images), "photo")
    if not (areas := [float(mask.mean()) for mask in masks if mask.min() < 1]):
        return photos
    return f"{photos}, {len(areas)} with a mask (subject {sum(areas) / len(areas):.0%} of its area)"
