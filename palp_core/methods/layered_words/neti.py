"""NeTI, a word as a network of time and layer: arXiv 2305.15391, sec. 4; github.com/NeuralTextualInversion/NeTI.

A small network, the mapper, takes the timestep t and the number l of a text cross-attention to the word's embedding
there, and to the textual bypass, a direction that is added to what the text encoder says at the word. As in the
authors' code, the bypass is seen by the values alone, and not by the keys. Theirs is added before the text encoder's
final norm, and here behind it; theirs share one length, and here the word alone has the class word's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.backbone import Backbone, Conditioning, WordVectors
from ...models.layer_contexts import Reading, layered, moved
from ...settings import setting
from ...training.config import TrainingConfig
from ..templates import WORD

#: Deviations of the frequencies of the positional encoding, in time and over layers, and how many there are.
FREQUENCIES, IN_TIME, OVER_LAYERS = 1024, 0.03, 2.0
#: Times t from 0 to TIMES, at so many of which, in each layer, the mapper's first layer starts.
TIMES, ANCHORS = 1000, 10
HIDDEN = 128
#: Of the bypass, in the length of what it is added to.
BYPASS_SHARE = 0.2
#: In so many samples and layers of a training only the first of the hidden numbers are left.
DROPPED = 0.5


@dataclass(frozen=True)
class NetiConfig(TrainingConfig):
    """Settings of a training, the paper's by default, which is on Stable Diffusion 1.4 (appendix A)."""

    steps: int = setting(
        1000,
        "Trains for this many steps; the paper has 1000, and shows results after 500, too.",
        usual="500 to 1000",
        low=1,
        high=100_000,
        step=1,
    )
    learning_rate: float = setting(
        8e-3,
        "Sets Adam's step for the mapper; the authors' 1e-3 is multiplied by the images of a step, which are 8.",
        usual="1e-3 to 8e-3",
        low=0,
        open=True,
        high=1,
        step=1e-5,
    )
    gradient_accumulation: int = setting(
        4,
        "Adds up the gradients of so many batches before each step; the paper has 4 of 2 images each.",
        usual="4",
        low=1,
        high=64,
        step=1,
    )


class Encoding(nn.Module):
    """Random Fourier features of (t, l), of length 1."""

    def __init__(self):
        super().__init__()
        frequencies = torch.randn(FREQUENCIES, 2) * torch.tensor([IN_TIME, OVER_LAYERS])
        self.register_buffer("frequencies", frequencies)

    def forward(self, t: Tensor, layer: Tensor) -> Tensor:
        """Return (..., 2*FREQUENCIES) of t in 0..TIMES and layers from 0, (...,) each."""
        angles = torch.stack([t, layer], dim=-1) @ self.frequencies.T
        return F.normalize(torch.cat([angles.sin(), angles.cos()], dim=-1), dim=-1)


class Mapper(nn.Module):
    """From (t, l) to so many numbers."""

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.layers = layers
        self.encoding = Encoding()
        anchors = torch.cartesian_prod(torch.arange(0, TIMES, TIMES // ANCHORS), torch.arange(layers)).float()
        self.first = nn.Linear(2 * FREQUENCIES, len(anchors))
        with torch.no_grad():
            self.first.weight.copy_(self.encoding(*anchors.unbind(-1)))
        sizes = ((len(anchors), HIDDEN), (HIDDEN, HIDDEN))
        hidden = [part for size in sizes for part in (nn.Linear(*size), nn.LayerNorm(HIDDEN), nn.LeakyReLU())]
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(HIDDEN, width)

    def forward(self, t: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Return (B, L, width) for t in 0..TIMES, (B,). random: of nested dropout; None for none."""
        layer = torch.arange(self.layers, device=t.device).to(t)
        hidden = self.hidden(self.first(self.encoding(*torch.broadcast_tensors(t[:, None], layer))))
        return self.out(hidden if random is None else hidden * kept(hidden, random))


def kept(hidden: Tensor, random: torch.Generator) -> Tensor:
    """Nested dropout (sec. 4.3): of some, only as many of the first numbers as are drawn. (B, L, H) of 0 and 1."""
    *some, count = hidden.shape
    left = torch.randint(count, some, generator=random)
    left = left.where(torch.rand(some, generator=random) < DROPPED, count)
    return (torch.arange(count) < left[..., None]).to(hidden)


class NetiWord(nn.Module):
    """The mapper while it learns."""

    title, weight_decay = "NeTI", 0.01

    def __init__(self, backbone: Backbone, start: WordVectors, layers: int, config: NetiConfig):
        """start: encoder -> (1, C), the class word's, whose length the word has."""
        super().__init__()
        self.backbone = backbone
        self.lengths = {encoder: rows.norm().item() for encoder, rows in start.items()}
        said = backbone.encode_prompt(WORD, {WORD: start}).tensors["context"]
        #: Of the word for each encoder, and of the bypass.
        self.widths = [*(rows.shape[-1] for rows in start.values()), said.shape[-1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.mapper = Mapper(layers, sum(self.widths))

    def encode(self, texts: Sequence[str], sigma: Tensor, random: torch.Generator | None = None) -> list[Conditioning]:
        """Encode for all layers the text of each sample, in which WORD stands, at its noise level.

        sigma: (B,). random: of nested dropout, while it learns.
        """
        levels = self.backbone.levels
        mapped = self.mapper(levels.nearest(sigma).float() * (TIMES / len(levels)), random)  # (B, L, width)
        return [self._encoded(text, layers) for text, layers in zip(texts, mapped, strict=True)]

    def told(self, text: str) -> Told:
        """Take a text in which WORD stands, to encode it at each noise level."""
        return Told(self, text)

    def _encoded(self, text: str, mapped: Tensor) -> Conditioning:
        """The text for all layers, by what the mapper says of each, (L, width)."""
        return layered([self._reading(text, row) for row in mapped])

    def _reading(self, text: str, mapped: Tensor) -> Reading:
        *rows, bypass = mapped.split(self.widths)
        pairs = zip(self.lengths.items(), rows, strict=True)
        word = {encoder: F.normalize(row[None], dim=-1) * length for (encoder, length), row in pairs}
        cond = self.backbone.encode_prompt(text, {WORD: word})
        tokens = self.backbone.token_positions(text, WORD, {WORD: word})
        return Reading(cond, moved(cond, tokens, bypass, BYPASS_SHARE))


class Told(NamedTuple):
    """A prompt with the word, of which the network is told something else at each noise level."""

    word: NetiWord
    text: str

    def at(self, sigma: Tensor) -> Conditioning:
        return self.word.encode([self.text], sigma)[0]
