"""Where words look in the toy world, and how much of the attention each gets."""

from __future__ import annotations

import torch
from torch import Tensor

from palp_core.methods.heatmap import HeatMaps, word_share
from palp_core.models.attention import is_decoder, recorded_attention
from palp_core.models.backbone import LearnedWords
from palp_core.toyworld import LATENT_SIZE
from palp_core.toyworld.world import World

#: Shares of the schedule at which pictures are noised and looked at.
LEVELS = (0.3, 0.5, 0.7)


@torch.no_grad()
def recorded(world: World, pictures: Tensor, prompt: str, words: LearnedWords) -> HeatMaps:
    """Record maps of all words of the prompt while pictures, (B, 3, 64, 64) in -1..1, are denoised at LEVELS."""
    backbone = world.backbone
    cond = backbone.encode_prompt(prompt, words)
    latents = torch.cat([backbone.encode_image((picture.movedim(0, -1) + 1) / 2) for picture in pictures])
    latents = latents.to(backbone.device)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    tokens = content_tokens(world, prompt, words)
    heat = HeatMaps()
    for level in LEVELS:
        sigma = backbone.levels.at(level).to(latents)
        only = None if backbone.joint else is_decoder
        with recorded_attention(backbone.denoiser, tokens, only=only, joint=backbone.joint) as layers:
            backbone.denoise(latents + sigma * noise, sigma.expand(len(latents)), [cond])
        heat.add(layers, (LATENT_SIZE, LATENT_SIZE), len(latents))
    return heat


def content_tokens(world: World, prompt: str, words: LearnedWords) -> tuple[int, ...]:
    """Find all tokens but the start token and what follows the prompt."""
    return world.backbone.token_positions(prompt, prompt, words)


def numbers_of(world: World, prompt: str, word: str, words: LearnedWords) -> list[int]:
    """Find which of the content tokens are those of a word."""
    kept = content_tokens(world, prompt, words)
    return [kept.index(at) for at in world.backbone.token_positions(prompt, word, words)]


def attention_share(world: World, pictures: Tensor, prompt: str, word: str, words: LearnedWords) -> float:
    """Take the word's part of the attention that all words of the prompt get, mean over pictures, 0..1."""
    maps = recorded(world, pictures, prompt, words).maps
    return float(word_share(maps, numbers_of(world, prompt, word, words)).mean())
