"""The model families that can be trained, as records of data: what is special about each stands here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One family of models."""

    #: Its name in saved files.
    name: str
    #: Its name in messages.
    title: str
    #: Names of the text encoders, in the order in which their outputs are joined.
    encoders: tuple[str, ...]
    #: What its members predict -> the side of the square pictures that they were trained on, pixels.
    native_resolutions: Mapping[str, int]
    #: Whether the denoiser reads a pooled text embedding and the picture's size (arXiv 2307.01952, sec. 2.2).
    pooled: bool
    #: The layer of the text encoders that is read, counted from the end; -1 with the final norm, others without.
    text_layer: int
    #: Whether kohya names its blocks as the original code does, and not as diffusers does.
    original_block_names: bool
    #: ModelSpec's name of the architecture; {size} is 512, or 768-v where the model predicts v.
    architecture: str
    #: What kohya's `ss_base_model_version` calls it.
    base_model_version: str
    #: Sides of pictures are multiples of it: three halvings of the UNet on latents of 1/8 size.
    side_multiple: int = 64
    #: The attention projections that LoRA is attached to: q, k, v and out of self- and cross-attention.
    lora_targets: str = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    encoders=("clip_l",),
    native_resolutions={"epsilon": 512, "v": 512},
    pooled=False,
    text_layer=-1,
    original_block_names=False,
    architecture="stable-diffusion-v1",
    base_model_version="sd_v1",
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    encoders=("clip_h",),
    native_resolutions={"epsilon": 512, "v": 768},
    pooled=False,
    text_layer=-1,
    original_block_names=False,
    architecture="stable-diffusion-v2-{size}",
    base_model_version="sd_v2",
)
SDXL = Family(
    name="sdxl",
    title="SDXL",
    encoders=("clip_l", "clip_g"),
    native_resolutions={"epsilon": 1024, "v": 1024},
    pooled=True,
    text_layer=-2,
    original_block_names=True,
    architecture="stable-diffusion-xl-v1-base",
    base_model_version="sdxl_base_v1-0",
)

FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL)}
SUPPORTED = "PALP works with Stable Diffusion 1.x, 2.x and SDXL text-to-image models"
