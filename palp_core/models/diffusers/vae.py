"""A pipeline's VAE: pictures to the latents that the UNet was trained on, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .placing import placed


@torch.no_grad()
def encode(vae, image: Tensor, device: torch.device) -> Tensor:
    """Encode (H, W, 3) in 0..1 to (1, C, h, w), the mean of the posterior."""
    pixels = image.movedim(-1, 0)[None] * 2 - 1  # (1, 3, H, W) in -1..1
    with _without_overflow(vae), placed(device, [vae]):
        mean = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
    shift, factor = _shift_and_factor(vae.config, mean.float())
    return (mean.float() - shift) * factor


@torch.no_grad()
def decode(vae, latents: Tensor, device: torch.device) -> Tensor:
    """Decode (B, C, h, w) to (B, H, W, 3) in 0..1, on the CPU."""
    shift, factor = _shift_and_factor(vae.config, latents)
    with _without_overflow(vae), placed(device, [vae]):
        pixels = vae.decode((latents / factor + shift).to(device, vae.dtype)).sample
    return ((pixels.float().clamp(-1, 1) + 1) / 2).movedim(1, -1).cpu()


@contextmanager
def _without_overflow(vae) -> Iterator[None]:
    """Inside, a VAE that overflows in half precision, as SDXL's does, computes in float32."""
    dtype = vae.dtype
    overflows = dtype == torch.float16 and vae.config.force_upcast
    try:
        if overflows:
            vae.to(torch.float32)
        yield
    finally:
        if overflows:
            vae.to(dtype)


def _shift_and_factor(config, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Of raw VAE latents: (raw - shift) * factor are those of the UNet."""
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))
        return mean, config.scaling_factor / std
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
