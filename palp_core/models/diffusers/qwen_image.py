"""Qwen-Image in diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..families import QWEN_IMAGE
from ..joint_attention import JointLayout
from .architecture import ADDED_QKV, QKV, Architecture, Reader, Schedule, attention_parts, packed, unpacked
from .vae import LatentSpace

ATTENTION = "transformer_blocks.{}.attn"
FEED_FORWARDS = ("transformer_blocks.{}.img_mlp", "transformer_blocks.{}.txt_mlp")


def velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer. x: (B, C, 1, h, w), films of one picture."""
    height, width = (side // 2 for side in x.shape[-2:])
    patches = transformer(
        hidden_states=packed(x[:, :, 0]),
        timestep=s,
        encoder_hidden_states=text["text"],
        img_shapes=[[(1, height, width)]] * len(x),
        return_dict=False,
    )[0]
    return unpacked(patches, height, width)[:, :, None]


def encode(pipeline, prompt: str, **options) -> dict[str, Tensor]:
    """Encode with Qwen2.5-VL; one prompt alone has no padding that its mask would tell of."""
    return {"text": pipeline.encode_prompt(prompt, **options)[0]}


def standardized(raw: Tensor, vae) -> Tensor:
    """Take (B, C, 1, h, w) of the VAE to mean 0 and deviation 1."""
    mean, deviation = _statistics(vae, raw)
    return (raw - mean) / deviation


def raw(latents: Tensor, vae) -> Tensor:
    """Undo `standardized`."""
    mean, deviation = _statistics(vae, latents)
    return latents * deviation + mean


def _statistics(vae, like: Tensor) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1, 1) each."""
    config = vae.config
    mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))
    return mean, deviation


QWEN = Architecture(
    family=QWEN_IMAGE,
    pipeline="QwenImagePipeline",
    velocity=velocity,
    encode=encode,
    readers=lambda pipeline: [Reader(pipeline.tokenizer, skipped=pipeline.prompt_template_encode_start_idx)],
    template=lambda pipeline, prompt: pipeline.prompt_template_encode.format(prompt),
    joint=JointLayout(patch=2),
    schedule=Schedule(10_000, math.exp(1.15)),
    projections={
        name: (name,)
        for name in (
            *attention_parts(ATTENTION, (*QKV, "to_out.0", *ADDED_QKV, "to_add_out")),
            *(f"{part}.net.{layer}" for part in FEED_FORWARDS for layer in ("0.proj", "2")),
        )
    },
    latents=LatentSpace(standardized, raw, films=True),
    guidance_option="true_cfg_scale",
)
