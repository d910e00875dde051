"""FLUX.1 dev in diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..families import FLUX
from ..joint_attention import JointLayout
from .architecture import ADDED_QKV, QKV, Architecture, Reader, Schedule, attention_parts, packed, unpacked

DOUBLE, SINGLE = "transformer_blocks.{}.attn", "single_transformer_blocks.{}"
#: The blocks in which picture and prompt have weights of their own, FLUX.2's included.
DOUBLE_BLOCKS = {
    "double_blocks.{}.img_attn.qkv": attention_parts(DOUBLE, QKV),
    "double_blocks.{}.img_attn.proj": (f"{DOUBLE}.to_out.0",),
    "double_blocks.{}.txt_attn.qkv": attention_parts(DOUBLE, ADDED_QKV),
    "double_blocks.{}.txt_attn.proj": (f"{DOUBLE}.to_add_out",),
}
FF = "transformer_blocks.{}.ff"


def velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer at the guidance that the text comes with."""
    height, width = (side // 2 for side in x.shape[-2:])
    places = torch.cartesian_prod(
        torch.zeros(1, dtype=torch.long), torch.arange(height), torch.arange(width)
    )  # (h*w, 3)
    patches = transformer(
        hidden_states=packed(x),
        timestep=s,
        guidance=text["guidance"] if transformer.config.guidance_embeds else None,
        pooled_projections=text["pooled"],
        encoder_hidden_states=text["text"],
        txt_ids=x.new_zeros(text["text"].shape[1], 3),
        img_ids=places.to(x),
        return_dict=False,
    )[0]
    return unpacked(patches, height, width)


def encode(pipeline, prompt: str, **options) -> dict[str, Tensor]:
    """Encode with T5, and with CLIP for what is read pooled.

    At guidance 1, where the transformer was trained without guidance, and learns best.
    """
    text, pooled, _ = pipeline.encode_prompt(prompt, **options)
    return {"text": text, "pooled": pooled, "guidance": torch.ones(1, device=text.device)}


FLUX_1 = Architecture(
    family=FLUX,
    pipeline="FluxPipeline",
    velocity=velocity,
    encode=encode,
    readers=lambda pipeline: [Reader(pipeline.tokenizer_2)],
    joint=JointLayout(patch=2),
    schedule=Schedule(10_000, math.exp(1.15)),
    projections={
        **DOUBLE_BLOCKS,
        "single_blocks.{}.linear1": (*attention_parts(f"{SINGLE}.attn", QKV), f"{SINGLE}.proj_mlp"),
        "single_blocks.{}.linear2": (f"{SINGLE}.proj_out",),
        "double_blocks.{}.img_mlp.0": (f"{FF}.net.0.proj",),
        "double_blocks.{}.img_mlp.2": (f"{FF}.net.2",),
        "double_blocks.{}.txt_mlp.0": (f"{FF}_context.net.0.proj",),
        "double_blocks.{}.txt_mlp.2": (f"{FF}_context.net.2",),
    },
    reads_negative_prompt=False,
    reads_weights=True,
    step_distilled=lambda pipeline: not pipeline.transformer.config.guidance_embeds,
)
