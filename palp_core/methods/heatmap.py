"""Heat maps of words: DAAM, arXiv 2210.04885, sec. 3. The maps of layers and steps as one, over the picture.

The paper takes all layers. We take the decoder's: against the toy world's masks, the encoder's tell places apart little
better than chance (area under the curve 0.5 to 0.6 for a subject's word, where the decoder's together have 0.92), and
blur the mean of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib import colormaps
from torch import Tensor

from ..models.attention import LayerAttention, min_max, resized

COLORS = "inferno"  # dark where the word gets no attention


class HeatMaps:
    """The running mean of a sampling's maps over layers and steps, at one common size."""

    def __init__(self) -> None:
        self.runs = 0
        self._total: Tensor | None = None

    def add(self, layers: Mapping[str, LayerAttention], size: tuple[int, int], batch: int) -> None:
        """One run of the network. Its rows are the pictures of a batch, once or several times over."""
        mean = mean_over_layers(layers, size)  # (n*B, K, H, W)
        mean = mean.unflatten(0, (-1, batch)).mean(dim=0)
        self._total = mean if self._total is None else self._total + mean
        self.runs += 1

    @property
    def maps(self) -> Tensor:
        """(B, K, H, W): the share of its attention that each place gave to each token. Raises where runs is 0."""
        return self._total / self.runs

    def to(self, device: torch.device | str) -> None:
        if self._total is not None:
            self._total = self._total.to(device)


def mean_over_layers(layers: Mapping[str, LayerAttention], size: tuple[int, int]) -> Tensor:
    """Mean of the layers' maps at a common size. Returns (R, K, *size)."""
    sums: dict[tuple[int, int], Tensor] = {}  # by grid, so that each grid is resized once
    for layer in layers.values():
        grid = tuple(layer.maps.shape[-2:])
        sums[grid] = sums.get(grid, 0) + layer.maps
    total = sum(resized(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2]) for maps in sums.values())
    return total / len(layers)


def word_heat(maps: Tensor, tokens: list[int], size: tuple[int, int], against: Sequence[int] = ()) -> Tensor:
    """(B, K, h, w) and which of the K tokens are the word -> (B, *size): 0 at its coldest place, 1 at its hottest.

    against: tokens of other words. The heat is then the word's share of what all of them get at a place, which finds
    what fills a background: its word gets no more attention there than elsewhere, but the others get less.
    """
    heat = maps[:, tokens].sum(dim=1)
    if against:
        heat = heat / (heat + maps[:, list(against)].sum(dim=1)).clamp(min=torch.finfo(heat.dtype).tiny)
    return min_max(resized(heat, size))


def word_share(maps: Tensor, tokens: list[int]) -> Tensor:
    """(B, K, h, w) -> (B,) in 0..1: the word's part of the attention that all K tokens get."""
    totals = maps.sum(dim=(-2, -1))
    return totals[:, tokens].sum(dim=1) / totals.sum(dim=1)


def overlay(images: Tensor, heat: Tensor, opacity: float) -> Tensor:
    """Colors of heat, (B, H, W) in 0..1, over images (B, H, W, 3) in 0..1. Returns (B, H, W, 3)."""
    table = torch.tensor(colormaps[COLORS].colors, dtype=images.dtype)  # (256, 3)
    colors = table[(heat.cpu() * (len(table) - 1)).round().long()]
    return torch.lerp(images[..., :3].cpu(), colors, opacity)
