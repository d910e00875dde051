"""FLUX.2 Klein in diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from ..families import KLEIN
from ..joint_attention import JointLayout
from .architecture import Architecture, Reader, Schedule, chat_template
from .flux import DOUBLE_BLOCKS, FF, SINGLE
from .vae import LatentSpace


def velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer, each latent a patch of its own."""
    height, width = x.shape[-2:]
    nothing = torch.zeros(1, dtype=torch.long)
    places = torch.cartesian_prod(nothing, torch.arange(height), torch.arange(width), nothing)  # (h*w, 4)
    words = torch.cartesian_prod(nothing, nothing, nothing, torch.arange(text["text"].shape[1]))  # (T, 4)
    patches = transformer(
        hidden_states=rearrange(x, "b c h w -> b (h w) c"),
        timestep=s,
        encoder_hidden_states=text["text"],
        txt_ids=words.to(x.device),
        img_ids=places.to(x.device),
        return_dict=False,
    )[0]
    return rearrange(patches, "b (h w) c -> b c h w", h=height)


def encode(pipeline, prompt: str, **options) -> dict[str, Tensor]:
    """Encode with Qwen3, of which three layers are read."""
    return {"text": pipeline.encode_prompt(prompt, **options)[0]}


def normalized(raw: Tensor, vae) -> Tensor:
    """(B, C, 2h, 2w) of the VAE -> (B, 4*C, h, w), by the mean and deviation that the VAE keeps of each channel."""
    patches = rearrange(raw, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
    mean, deviation = _statistics(vae, raw)
    return (patches - mean) / deviation


def raw(latents: Tensor, vae) -> Tensor:
    """Undo `normalized`."""
    mean, deviation = _statistics(vae, latents)
    return rearrange(latents * deviation + mean, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)


def _statistics(vae, like: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 4*C, 1, 1) each."""
    mean, variance = (t.view(1, -1, 1, 1).to(like) for t in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


FLUX_2_KLEIN = Architecture(
    family=KLEIN,
    pipeline="Flux2KleinPipeline",
    velocity=velocity,
    encode=encode,
    readers=lambda pipeline: [Reader(pipeline.tokenizer)],
    template=lambda pipeline, prompt: chat_template(pipeline, prompt, thinking=False),
    joint=JointLayout(patch=1),
    schedule=Schedule(10_000, math.exp(2.02)),
    projections={
        **DOUBLE_BLOCKS,
        "single_blocks.{}.linear1": (f"{SINGLE}.attn.to_qkv_mlp_proj",),
        "single_blocks.{}.linear2": (f"{SINGLE}.attn.to_out",),
        "double_blocks.{}.img_mlp.0": (f"{FF}.linear_in",),
        "double_blocks.{}.img_mlp.2": (f"{FF}.linear_out",),
        "double_blocks.{}.txt_mlp.0": (f"{FF}_context.linear_in",),
        "double_blocks.{}.txt_mlp.2": (f"{FF}_context.linear_out",),
    },
    latents=LatentSpace(normalized, raw),
    reads_negative_prompt=False,
    step_distilled=lambda pipeline: bool(pipeline.config.get("is_distilled")),
)
