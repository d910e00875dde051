"""The toy world's judges as those of `palp_core.evaluation` are: pictures and texts in, vectors out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import PromptError, quoted
from . import scenes
from .evaluators import ATTRIBUTES, Evaluators
from .world import as_pictures, read_target


@dataclass(frozen=True)
class ElementsJudge:
    """In CLIP's place: a vector has a 1 for each element that a picture shows, or a text names.

    The cosine is the share of a prompt's elements that are shown, times half the root of their number.
    """

    evaluators: Evaluators

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (64, 64, 3) in 0..1 each, into (N, 22)."""
        logits = self.evaluators.attributes(as_pictures(pictures))
        answers = [F.one_hot(logits[name].argmax(dim=-1), len(ATTRIBUTES[name])) for name in ATTRIBUTES]
        return torch.cat(answers, dim=1).float()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into (N, 22). Raises PromptError for a text without a class word, or with unknown words."""
        return torch.stack([_elements(text) for text in texts])


@dataclass(frozen=True)
class IdentityJudge:
    """In DINOv2's place: tells individuals apart, in any style."""

    evaluators: Evaluators

    @torch.no_grad()
    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (64, 64, 3) in 0..1 each, into unit vectors (N, 64)."""
        return self.evaluators.identity(as_pictures(pictures))


def _elements(text: str) -> Tensor:
    named = [word for word in scenes.CLASSES if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    if len(named) != 1:
        raise PromptError(f"{quoted(text)} is to name one of {', '.join(scenes.CLASSES)}.")
    elements = read_target(text, named[0]).elements()
    answers = [(name, value) for name, values in ATTRIBUTES.items() for value in values]
    return torch.tensor([float(elements.get(name, "") == value) for name, value in answers])
