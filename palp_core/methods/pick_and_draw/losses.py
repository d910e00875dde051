"""What Pick-and-Draw (arXiv 2401.16762) measures in the cross-attention layers: the subject's place, look, layout."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import OVERFLOWS, PromptError, SettingError
from ...models.attention import FLAT, LayerAttention, contrast, hot, is_decoder, mean_map, saliency, word_maps

BLUR = 0.5  # standard deviation of the smoothing of maps, in places of a layer
PALETTE_SIZE = 1024  # features of a layer, at most; more are thinned out evenly
FIND_SUBJECT = "Connect a mask, white where the subject is, or use a word that names what the picture shows."


def subject_places(
    layers: Mapping[str, LayerAttention], templates: Mapping[str, Tensor], size: tuple[int, int], threshold: float
) -> Tensor:
    """Where the subject is, or is to be by the template: (B, 1, *size), 0 or 1.

    Not in the paper, which moves all of the latents. A feature sees far beyond its own place, so that the gradient
    takes the surroundings along, away from the prompt's and towards those of the reference.
    """
    both = [
        {name: m.detach() for name, m in maps.items() if is_decoder(name)} for maps in (word_maps(layers), templates)
    ]
    found = [saliency(list(maps.values()), size) > threshold for maps in both if maps]
    return torch.stack(found).any(dim=0).float()[:, None]


def reference_region(layers: Mapping[str, LayerAttention], threshold: float) -> tuple[Tensor, float]:
    """Where a word attends by more than the threshold, (1, 1, h, w), 0 or 1, on the finest of the layers' grids.

    And the contrast of its map, 0..1: by what share of the peak it varies. Raises PromptError where that is nothing,
    and SettingError where the model overflows.
    """
    maps = list(word_maps(layers).values())
    finest = max((tuple(m.shape[-2:]) for m in maps), key=math.prod)
    heat = mean_map(maps, finest)
    varies = contrast(heat)
    if math.isnan(varies):
        raise SettingError(f"what the model makes of the reference picture of Pick-and-Draw is {OVERFLOWS}")
    if not varies > FLAT:
        raise PromptError(
            "the subject's word attends nowhere in the reference picture of Pick-and-Draw, so its look cannot be found "
            f"there. {FIND_SUBJECT}"
        )
    return hot(heat, threshold), varies


def reference_palette(layers: Mapping[str, LayerAttention], region: Tensor) -> dict[str, Tensor]:
    """The subject's features in each layer, (1, h*w, C) -> (K, C) with 1 <= K <= PALETTE_SIZE.

    region: (1, 1, h, w) in 0..1, where it is.
    """
    palette = {}
    for name, layer in layers.items():
        inside = _inside(region.to(layer.maps), tuple(layer.maps.shape[-2:]))
        features = layer.features[0, inside.flatten()]  # (K, C)
        thin = torch.linspace(0, len(features) - 1, min(len(features), PALETTE_SIZE), device=features.device)
        palette[name] = features[thin.round().long()]
    return palette


def pick_loss(layers: Mapping[str, LayerAttention], palette: Mapping[str, Tensor], threshold: float) -> Tensor:
    """Appearance: relaxed EMD to the palette of each layer, at the places that attend to the word. Returns (B,)."""
    maps = [layers[name].maps.detach().sum(dim=1) for name in palette]
    inside: dict[tuple[int, int], Tensor] = {}
    losses = []
    for name, colors in palette.items():
        size = tuple(layers[name].maps.shape[-2:])
        if size not in inside:
            inside[size] = (saliency(maps, size) > threshold).flatten(1).float()  # (B, h*w)
        losses.append(relaxed_emd(layers[name].features, colors, inside[size]))
    return torch.stack(losses).mean(dim=0)


def relaxed_emd(features: Tensor, palette: Tensor, weights: Tensor) -> Tensor:
    """Unidirectional relaxed earth mover's distance with the cosine distance, a lower bound of the exact one.

    (B, N, C), (K, C), (B, N) -> (B,): the mean by weights of each feature's distance to the nearest of the palette.
    """
    features, palette = (F.normalize(t.float(), dim=-1) for t in (features, palette))
    nearest = 1 - (features @ palette.T).amax(dim=-1)  # (B, N)
    return (nearest * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)


def draw_loss(maps: Mapping[str, Tensor], templates: Mapping[str, Tensor]) -> Tensor:
    """Layout: mean over all layers of the Frobenius norm between smoothed maps (B, h, w). Returns (B,).

    Each map is brought to mean 1, because a learned word may get more attention than its class word without lying
    elsewhere, and the norm is divided by sqrt(h*w), so that fine layers do not outweigh coarse ones.
    """
    losses = []
    for name, template in templates.items():
        difference = smoothed(_mean_one(maps[name])) - smoothed(_mean_one(template))
        losses.append(torch.linalg.vector_norm(difference, dim=(-2, -1)) / math.sqrt(difference[0].numel()))
    return torch.stack(losses).mean(dim=0)


def smoothed(maps: Tensor) -> Tensor:
    """(B, h, w) through a Gaussian of BLUR places, 3 by 3; beyond the edge it goes on as at the edge."""
    at = torch.tensor([-1.0, 0.0, 1.0], device=maps.device)
    kernel = torch.exp(-(at**2) / (2 * BLUR**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    return F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), kernel[None, None])[:, 0]


def _mean_one(maps: Tensor) -> Tensor:
    return maps / maps.mean(dim=(-2, -1), keepdim=True)


def _inside(region: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 1, h, w) -> (*size) bool: places of which the region covers the most, at least half of that."""
    covered = F.adaptive_avg_pool2d(region, size)[0, 0]
    return covered >= covered.max() / 2
