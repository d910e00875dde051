"""Stable Diffusion's UNet in diffusers: how it is called, and how its blocks are called elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..backbone import Conditioning
from ..families import Family, Targets
from ..noise import PREDICTIONS, NoiseLevels, Prediction
from ..windows import of_one_length
from .flow import stacked

#: Noise level that stands for "no signal left" in schedules with zero terminal SNR; finite, as samplers use it.
SMALLEST_ALPHA_CUMPROD = 4.8973451890853435e-08


class UNet:
    """A pipeline's UNet as `DiffusersBackbone` asks for it."""

    joint = None

    def __init__(self, pipeline, family: Family):
        self.pipeline, self.family, self.module = pipeline, family, pipeline.unet
        self.dtype = pipeline.unet.dtype  # once: to answer, diffusers looks at every module of the UNet
        self.prediction = _prediction(pipeline)
        self.native_resolution = _native_resolution(pipeline, family, self.prediction)
        self.levels = _levels(pipeline)

    def predict(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        """Return what the UNet says of x, (B, C, h, w)."""
        contexts = of_one_length([cond.tensors["context"] for cond in conds])
        pairs, size = zip(conds, contexts, strict=True), uncropped(self.pipeline, x)
        told = [Conditioning({"size": size, **cond.tensors, "context": context}) for cond, context in pairs]
        text = stacked(told, len(x))
        extra = None
        if self.family.pooled:
            extra = {"text_embeds": text["pooled"].to(self.dtype), "time_ids": text["size"].to(x.device, torch.float32)}
        context = text["context"].to(self.dtype)
        return self.module(x.to(self.dtype), self.levels.nearest(sigma), context, added_cond_kwargs=extra).sample

    def projections(self, targets: Targets) -> dict[str, tuple[str, ...]]:
        """Name the projections as the contract says."""
        layers = self.family.lora_layers(targets)
        names = [n for n, _ in self.module.named_modules() if layers.fullmatch(n)]
        return {self._kohya_name(name): (name,) for name in names}

    def _kohya_name(self, module_name: str) -> str:
        if self.family.original_block_names:
            module_name = original_block_name(module_name, self.module.config.layers_per_block)
        return f"lora_unet_{module_name.replace('.', '_')}"

    def checkpointed_modules(self) -> list[nn.Module]:
        """List the UNet's blocks."""
        kinds = ("BasicTransformerBlock", "ResnetBlock2D")
        return [m for m in self.module.modules() if type(m).__name__ in kinds]


def original_block_name(name: str, layers_per_block: int) -> str:
    """diffusers' name in a block of attention -> the original's: down_blocks.1.attentions.0 -> input_blocks.4.1."""
    if name.startswith("mid_block.attentions.0."):
        return name.replace("mid_block.attentions.0.", "middle_block.1.", 1)
    part, block, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", name).groups()
    index = int(block) * (layers_per_block + 1) + int(layer)
    return f"input_blocks.{index + 1}.1.{rest}" if part == "down" else f"output_blocks.{index}.1.{rest}"


def uncropped(pipeline, x: Tensor) -> Tensor:
    """What SDXL is told (arXiv 2307.01952, sec. 2.2) of whole pictures of latents (B, C, h, w): (1, 6)."""
    height, width = (side * pipeline.vae_scale_factor for side in x.shape[-2:])
    return torch.tensor([[height, width, 0, 0, height, width]])


def _native_resolution(pipeline, family: Family, prediction: Prediction) -> int:
    """The configuration's, where it is told as a square, else the family's; pixels."""
    size = pipeline.unet.config.sample_size  # of latents
    return size * pipeline.vae_scale_factor if isinstance(size, int) else family.native_resolutions[prediction.name]


def _prediction(pipeline) -> Prediction:
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    names = {"epsilon": "epsilon", "v_prediction": "v"}
    if kind not in names:
        raise ModelError(f"the model predicts {kind!r}; PALP trains models that predict epsilon or v_prediction.")
    return PREDICTIONS[names[kind]]


def _levels(pipeline) -> NoiseLevels:
    """Raises ModelError for a scheduler that has no discrete levels, as those of EDM (arXiv 2206.00364)."""
    alphas = getattr(pipeline.scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ModelError(
            f"the model's scheduler ({type(pipeline.scheduler).__name__}) has no discrete noise levels. PALP trains "
            "models of the usual schedule, as Stable Diffusion 1.x, 2.x and SDXL have it."
        )
    alphas = alphas.double().clamp(min=SMALLEST_ALPHA_CUMPROD)
    return NoiseLevels(((1 - alphas) / alphas).sqrt().float())
