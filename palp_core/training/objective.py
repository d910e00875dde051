"""What all training by the model's own denoising loss has in common: encoded images, random samples, the loss, a step.

The loss is that of latent diffusion (arXiv 2112.10752, eq. 2), on eps or on v as the model was trained; it is eq. 1 of
PALP (arXiv 2401.06105) and eq. 2 of Textual Inversion (arXiv 2208.01618).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.backbone import Backbone
from .data import latent_mask, resize_to_cover, training_size

OUT_OF_MEMORY = "Out of memory. Switch on gradient_checkpointing, then lower batch_size, then resolution."


class NonFiniteLossError(RuntimeError):
    """Training diverged in this step, counted from 1. The weights before it are still good, and kept."""

    def __init__(self, step: int):
        super().__init__(
            f"the loss is not finite at step {step}. Lower the learning rate, or the weight of PALP's alignment or of "
            "Textual Inversion's regularization, or choose precision bf16 or fp32."
        )
        self.step = step


class Example(NamedTuple):
    """An image that is learned from."""

    number: int  # its place among the images of its subject, from 0
    latents: Tensor  # (1, C, h, w)
    mask: Tensor | None  # (1, 1, h, w) in 0..1, where the loss counts
    region: Tensor | None = None  # (1, 1, h, w) in 0..1, where the subject is; None where nobody asks


@torch.no_grad()
def encode_examples(
    backbone: Backbone, images: tuple[Tensor, ...], masks: tuple[Tensor, ...], resolution: int
) -> list[Example]:
    """Latents and masks of images (H, W, 3), once for all steps. masks: (H, W), one for each image, or none at all."""
    examples = []
    for number, image in enumerate(images):
        size = training_size(*image.shape[:2], resolution)
        latents = backbone.encode_image(resize_to_cover(image, size))
        mask = latent_mask(masks[number], size, latents) if masks else None
        examples.append(Example(number, latents, mask))
    return examples


def random_index(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=random))


def draw_batch(examples: list[Example], batch_size: int, random: torch.Generator) -> list[Example]:
    """Random examples whose latents are of one size, with repeats."""
    first = examples[random_index(len(examples), random)]
    alike = [e for e in examples if e.latents.shape == first.latents.shape]
    return [first] + [alike[random_index(len(alike), random)] for _ in range(batch_size - 1)]


def stack_batch(batch: list[Example], device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Latents (B, C, h, w), masks and regions (B, 1, h, w) of a batch, float32."""
    x0 = torch.cat([e.latents for e in batch]).to(device, torch.float32)
    mask = None if batch[0].mask is None else torch.cat([e.mask for e in batch]).to(x0)
    region = None if batch[0].region is None else torch.cat([e.region for e in batch]).to(x0)
    return x0, mask, region


def draw_noise(backbone: Backbone, x0: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise levels uniform over those of the model's training, (B,), and noise like x0."""
    levels = spread_timesteps(len(x0), len(backbone.sigmas), random)
    noise = torch.randn(x0.shape, generator=random)
    return backbone.sigmas[levels.to(backbone.sigmas.device)].to(x0), noise.to(x0)


def spread_timesteps(count: int, timesteps: int, random: torch.Generator) -> Tensor:
    """(count,), uniform, one from each of as many equal parts of the schedule (arXiv 2107.00630, app. I.1).

    Gradients at large noise are several times those at small, so that a small batch of independent draws is mostly the
    luck of its levels.
    """
    shift = torch.randint(timesteps, (1,), generator=random)
    return (torch.arange(count) * timesteps + shift) // count


def denoising_loss(denoised: Tensor, x0: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """The model's own training loss: mean of weight * (D - x0)^2, over the masked part if there is a mask.

    denoised, x0: (B, C, H, W); weight: (B,); mask: (B, 1, H, W) in 0..1, each sample counting the same; returns ().
    """
    error = (denoised - x0).square()
    if mask is None:
        per_sample = error.mean(dim=(1, 2, 3))
    else:
        per_sample = (error * mask).sum(dim=(1, 2, 3)) / (mask.sum(dim=(1, 2, 3)) * error.shape[1])
    return (weight * per_sample).mean()


def loss_scaler(backbone: Backbone) -> torch.amp.GradScaler:
    """Keeps half-precision gradients from underflowing; does nothing where the model computes in another type."""
    return torch.amp.GradScaler(backbone.device.type, enabled=backbone.compute_dtype == torch.float16)


def backpropagate(scaler: torch.amp.GradScaler, loss: Tensor, step: int) -> None:
    """Add a loss's gradients to those of the step.

    step: its number from 1, for the error. Raises NonFiniteLossError.
    """
    if not math.isfinite(loss.item()):
        raise NonFiniteLossError(step)
    scaler.scale(loss).backward()


def optimizer_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_grad_norm: float, step: int
) -> None:
    """One step along the gradients, those of all that is trained cut to this norm together; then they are gone.

    step: its number from 1, for the error. Raises NonFiniteLossError before anything is changed.
    """
    scaler.unscale_(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, max_grad_norm)
    if not scaler.is_enabled() and not math.isfinite(norm.item()):
        raise NonFiniteLossError(step)
    scaler.step(optimizer)  # leaves out a step whose half-precision gradients overflowed
    scaler.update()
    if scaler.get_scale() < 1:  # halved again and again: half precision overflows in every step
        raise NonFiniteLossError(step)
    optimizer.zero_grad(set_to_none=True)
