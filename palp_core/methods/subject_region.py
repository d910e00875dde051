"""Where in its photo a subject is, by the attention of its class word (DAAM, arXiv 2210.04885)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ModelError
from ..models.attention import (
    FLAT,
    REGION_LEVEL,
    PromptedDenoiser,
    contrast,
    hot,
    is_decoder,
    mean_map,
    word_maps,
)
from ..models.noise import NoiseLevels

#: Noises over which the map is averaged.
DRAWS = 8
#: Of the map, stretched to 0..1. Rather too much than too little: what is missed of the subject is pulled to its class.
THRESHOLD = 0.4
#: The least share of a photo that is taken for the subject, which a word that attends to an ear alone would miss.
LEAST_AREA = 0.1


def whole(latents: Tensor) -> Tensor:
    """Count every place of latents (1, C, ..., h, w) as subject: (1, 1, ..., h, w)."""
    return torch.ones_like(latents[:, :1])


@torch.no_grad()
def subject_region(prompted: PromptedDenoiser, latents: Tensor, levels: NoiseLevels, random: torch.Generator) -> Tensor:
    """(1, 1, ..., h, w), 1 where the word attends most and 0 elsewhere; 1 everywhere if it attends to all places alike.

    It is never less than LEAST_AREA of the photo. Raises ModelError where the model's attention is no number.

    prompted: the base model with a prompt for the photo and the word's places in it. latents: of the photo,
    (1, C, ..., h, w), float32. levels: the model's.
    """
    sigma = levels.at(REGION_LEVEL).view(1).to(latents)
    size = tuple(latents.shape[-2:])
    heat = latents.new_zeros(1, *size)
    for _ in range(DRAWS):
        noise = torch.randn(latents.shape, generator=random).to(latents)
        with prompted.recorded(only=is_decoder) as layers:
            prompted.denoise(latents + sigma * noise, sigma)
        heat += mean_map(list(word_maps(layers).values()), size).to(heat)
    if not torch.isfinite(heat).all():
        raise ModelError(
            "the model's attention to the class word is not finite (NaN or infinite). Compute in another precision: "
            "bf16, or fp32."
        )
    if contrast(heat) <= FLAT:
        return whole(latents)
    least = (heat >= heat.quantile(1 - LEAST_AREA)).float()
    return torch.maximum(hot(heat, THRESHOLD)[:, 0], least).view_as(latents[:, :1])
