"""One line that says what a training does and what memory it takes, before its first step, for whoever waits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

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
    photos = _plural(len(images), "photo")
    if not masks:
        return photos
    area = sum(float(mask.mean()) for mask in masks) / len(masks)
    return f"{photos} with {_plural(len(masks), 'mask')} (subject {area:.0%} of the area)"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
