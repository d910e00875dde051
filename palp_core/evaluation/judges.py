"""What a judge is: pictures, or texts, in; vectors out, whose cosine says how alike two of them are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class PictureJudge(Protocol):
    """Compares pictures with pictures, as DINOv2 does."""

    def encode_pictures(self, pictures: Sequence[Tensor]) -> Tensor:
        """Encode pictures, (H, W, 3) in 0..1 each and of any sizes, into vectors (N, D) of any length above 0."""


class TextJudge(PictureJudge, Protocol):
    """Compares pictures with texts, too, as CLIP does: both are vectors of one space."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into vectors (N, D), D as of the pictures."""
