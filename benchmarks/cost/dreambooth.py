"""A step of diffusers' DreamBooth LoRA recipe, as its example scripts have it, to stand beside ours.

The photo goes through the VAE in every step, and its prompt through the text encoders; a second form has both at hand,
as ours has, and as the scripts have with their options. Adapters are on the same layers, of the same rank.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from peft import LoraConfig

from devtools.random_models import pictures
from palp_core.models.diffusers.backbone import DiffusersBackbone

PROMPT = "a photo of sks cat"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def dreambooth(backbone: DiffusersBackbone, args: argparse.Namespace, rank: int, cached: bool) -> Iterator[None]:
    """Take the steps of the recipe's loop."""
    pipeline, device = backbone.pipeline.to(backbone.device), backbone.device
    unet = pipeline.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    trained = [parameter.requires_grad_(True) for name, parameter in unet.named_parameters() if "lora_" in name]
    for parameter in trained:  # as the scripts do with --mixed_precision
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    (picture,) = pictures((args.resolution, args.resolution))
    pixels = (picture.movedim(-1, 0)[None] * 2 - 1).repeat(args.batch_size, 1, 1, 1).to(device, pipeline.vae.dtype)
    kept = _encoded(pipeline, pixels, args)
    try:
        while True:
            x0, text, more = kept if cached else _encoded(pipeline, pixels, args)
            noise = torch.randn_like(x0)
            timesteps = torch.randint(1000, (len(x0),), device=device)
            noisy = pipeline.scheduler.add_noise(x0, noise, timesteps)
            with backbone.autocast():
                predicted = unet(noisy, timesteps, text, added_cond_kwargs=more).sample
            F.mse_loss(predicted.float(), noise.float()).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield
    finally:
        unet.unload_lora()


@torch.no_grad()
def _encoded(pipeline, pixels: torch.Tensor, args: argparse.Namespace) -> tuple:
    """Latents, text and, for SDXL, the rest of the conditioning, for a batch."""
    latents = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
    latents = latents.to(pipeline.unet.dtype)
    how = {"device": latents.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    text, _, *of_sdxl = pipeline.encode_prompt([PROMPT] * len(latents), **how)
    if not of_sdxl:
        return latents, text, None
    sides = [args.resolution, args.resolution, 0, 0, args.resolution, args.resolution]
    pooled = of_sdxl[0]
    return latents, text, {"text_embeds": pooled, "time_ids": torch.tensor([sides] * len(latents)).to(pooled)}
