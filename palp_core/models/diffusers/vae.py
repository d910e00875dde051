"""A pipeline's VAE: pictures to the latents that the denoiser was trained on, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .placing import placed


class LatentSpace(NamedTuple):
    """How a VAE's own numbers become those that the denoiser was trained on."""

    #: The VAE's own, (B, C, ..., h, w), and the VAE -> latents.
    from_raw: Callable[..., Tensor]
    #: Latents, and the VAE -> the VAE's own.
    to_raw: Callable[..., Tensor]
    #: Whether the VAE is one of films, of which a picture is one of one frame.
    films: bool = False


@torch.no_grad()
def encode(vae, image: Tensor, device: torch.device, space: LatentSpace) -> Tensor:
    """Encode (H, W, 3) in 0..1 to (1, C, ..., h, w), the mean of the posterior."""
    pixels = image.movedim(-1, 0)[None] * 2 - 1  # (1, 3, H, W) in -1..1
    pixels = pixels[:, :, None] if space.films else pixels
    with _without_overflow(vae), placed(device, [vae]):
        mean = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
        return space.from_raw(mean.float(), vae)


@torch.no_grad()
def decode(vae, latents: Tensor, device: torch.device, space: LatentSpace) -> Tensor:
    """Decode (B, C, ..., h, w) to (B, H, W, 3) in 0..1, on the CPU."""
    with _without_overflow(vae), placed(device, [vae]):
        pixels = vae.decode(space.to_raw(latents, vae).to(device, vae.dtype)).sample
    pixels = pixels[:, :, 0] if space.films else pixels
    return ((pixels.float().clamp(-1, 1) + 1) / 2).movedim(1, -1).cpu()


@contextmanager
def _without_overflow(vae) -> Iterator[None]:
    """Inside, a VAE that overflows in half precision, as SDXL's does, computes in float32."""
    dtype = vae.dtype
    overflows = dtype == torch.float16 and vae.config.get("force_upcast", False)
    try:
        if overflows:
            vae.to(torch.float32)
        yield
    finally:
        if overflows:
            vae.to(dtype)


def _scaled(raw: Tensor, vae) -> Tensor:
    shift, factor = _shift_and_factor(vae.config, raw)
    return (raw - shift) * factor


def _unscaled(latents: Tensor, vae) -> Tensor:
    shift, factor = _shift_and_factor(vae.config, latents)
    return latents / factor + shift


def _shift_and_factor(config, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Of raw VAE latents: (raw - shift) * factor are those of the denoiser."""
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(like) for v in (config.latents_mean, config.latents_std))
        return mean, config.scaling_factor / std
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor


#: By a shift and a factor, as the VAE's configuration tells.
SCALED = LatentSpace(_scaled, _unscaled)
