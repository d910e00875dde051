"""What the UNet and its text encoder learn from: noisy latents, a teacher, and an error that is weighed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from palp_core.models.noise import spread_timesteps

from .captions import JOIN, apart, encode_captions
from .pictures import Drawn
from .plan import Stage


class Noised(NamedTuple):
    """Holds a batch at its noise levels."""

    latents: Tensor  # (B, 8, 16, 16)
    timesteps: Tensor  # (B,)
    velocity: Tensor  # (B, 8, 16, 16), what is to be predicted


def noised(pipeline: StableDiffusionPipeline, latents: Tensor, lowest_level: float, rng: torch.Generator) -> Noised:
    """Add noise to latents, at levels by chance.

    lowest_level: share of the noise levels, from the lowest, that is left out.
    """
    levels = len(pipeline.scheduler.alphas_cumprod)
    lowest = round(lowest_level * levels)
    timesteps = lowest + spread_timesteps(len(latents), levels - lowest, rng)
    noise = torch.randn(latents.shape, generator=rng)
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    return Noised(noisy, timesteps, pipeline.scheduler.get_velocity(latents, noise, timesteps))


@torch.no_grad()
def taught(teacher: StableDiffusionPipeline, batch: Noised, captions: list[str]) -> Noised:
    """Replace the velocity where a caption has a joined word, by what the teacher predicts with its words apart."""
    rows = [row for row, caption in enumerate(captions) if JOIN in caption]
    if not rows:
        return batch
    context = encode_captions(teacher, [apart(captions[row]) for row in rows])
    velocity = batch.velocity.clone()
    velocity[rows] = teacher.unet(batch.latents[rows], batch.timesteps[rows], context).sample
    return batch._replace(velocity=velocity)


def denoising_loss(
    pipeline: StableDiffusionPipeline, batch: Noised, context: Tensor, weights: Tensor, weight_limit: float
) -> Tensor:
    """Measure the squared error of v; its weight in terms of x0, SNR + 1, is limited.

    In the manner of arXiv 2303.09556, sec. 3.4.

    context: (B, 32, 128). weights: of the latent pixels, (B, 1, 16, 16).
    """
    error = (pipeline.unet(batch.latents, batch.timesteps, context).sample - batch.velocity).square()
    of_x0 = 1 / (1 - pipeline.scheduler.alphas_cumprod[batch.timesteps])  # SNR + 1
    return ((error * weights).mean(dim=(1, 2, 3)) * of_x0.clamp(max=weight_limit) / of_x0).mean()


def pixel_weights(drawn: Drawn, stage: Stage, share: float) -> Tensor:
    """Weigh the latent pixels, (B, 1, 16, 16) with mean 1.

    share: 1 for the stage's weights, 0 for equal ones. Weights that depend on the picture draw the prediction towards
    pictures with more of a subject, so that a training has to end with equal ones.
    """
    more = (stage.subject_weight - 1) * drawn.subject + (stage.accessory_weight - 1) * drawn.accessory
    weights = 1 + share * more / 255
    return torch.from_numpy(weights / weights.mean()).float()[:, None]


@torch.no_grad()
def follow(averages: dict[str, nn.Module], modules: dict[str, nn.Module], step: int, decay: float) -> None:
    """Move the averages of the weights towards the weights, exponentially, quickly at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, module in modules.items():
        theirs, ours = list(averages[name].parameters()), list(module.parameters())
        torch._foreach_lerp_(theirs, ours, 1 - decay)
