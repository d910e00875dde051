"""P+, or Extended Textual Inversion: arXiv 2303.09522, sec. 3 and 4.

A word has an embedding of its own for each text cross-attention of the UNet, which reads the prompt encoded with it.
All start from the class word, and are learned together by the model's own denoising loss, as in Textual Inversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models.backbone import Backbone, Conditioning, WordVectors
from ...models.layer_contexts import Reading, layered
from ...settings import setting
from ...training.config import TrainingConfig
from ..templates import WORD


@dataclass(frozen=True)
class PPlusConfig(TrainingConfig):
    """Settings of a training, the paper's by default, which is on Stable Diffusion 1.4 (sec. 4.2)."""

    steps: int = setting(
        500,
        "Trains for this many steps; the paper has 500.",
        usual="500",
        low=1,
        high=100_000,
        step=1,
    )
    learning_rate: float = setting(
        5e-3,
        "Sets Adam's step for the embeddings; larger is faster and less steady.",
        usual="1e-3 to 5e-3",
        low=0,
        open=True,
        high=1,
        step=1e-5,
    )
    batch_size: int = setting(
        8, "Trains on this many images in each step; the paper has 8.", usual="8", low=1, high=64, step=1
    )


class PPlusWord(nn.Module):
    """The embeddings while they learn."""

    title, weight_decay = "P+", 0.0

    def __init__(self, backbone: Backbone, start: WordVectors, layers: int, config: PPlusConfig):
        """start: encoder -> (1, C), the class word's."""
        super().__init__()
        self.backbone = backbone
        #: Encoder -> (L, 1, C).
        self.vectors = nn.ParameterDict({e: rows.float().repeat(layers, 1, 1) for e, rows in start.items()})

    def encode(self, texts: Sequence[str], sigma: Tensor, random: torch.Generator | None = None) -> list[Conditioning]:
        """Encode for all layers the text of each sample, in which WORD stands. It is one at all noise levels."""
        found = {text: self.told(text) for text in dict.fromkeys(texts)}
        return [found[text] for text in texts]

    def told(self, text: str) -> Conditioning:
        """Encode for all layers a text in which WORD stands, once for all noise levels."""
        layers = zip(*self.vectors.values(), strict=True)
        words = [dict(zip(self.vectors, rows, strict=True)) for rows in layers]
        conds = [self.backbone.encode_prompt(text, {WORD: word}) for word in words]
        return layered([Reading(cond, cond) for cond in conds])
