"""Stable Diffusion's UNet in diffusers: how its blocks are called elsewhere, and what else SDXL's reads."""

from __future__ import annotations

import re

import torch
from torch import Tensor


def original_block_name(name: str, layers_per_block: int) -> str:
    """diffusers' name of an attention module -> the original code's: down_blocks.1.attentions.0 -> input_blocks.4.1."""
    if name.startswith("mid_block.attentions.0."):
        return name.replace("mid_block.attentions.0.", "middle_block.1.", 1)
    part, block, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", name).groups()
    index = int(block) * (layers_per_block + 1) + int(layer)
    return f"input_blocks.{index + 1}.1.{rest}" if part == "down" else f"output_blocks.{index}.1.{rest}"


def size_conditioning(pipeline, x: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """Tell SDXL (arXiv 2307.01952, sec. 2.2) the pictures' true size, not cropped. x: (B, C, h, w); pooled: (B, P)."""
    height, width = (side * pipeline.vae_scale_factor for side in x.shape[-2:])
    sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=pooled.dtype)
    return {"text_embeds": pooled.to(pipeline.unet.dtype), "time_ids": sizes.expand(len(x), -1)}
