"""The VAE's training: on crops first, then on whole pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from palp_core.toyworld.drawing.shapes import SIZE

from .pictures import as_pixels
from .plan import TrainingPlan
from .steps import (
    MAX_GRAD_NORM,
    SAVE_EVERY,
    learning_rate_factor,
    load_checkpoint,
    save_checkpoint,
    step_generators,
    take_step,
)

CROP = 32  # pixels; the VAE's convolutions do not care, and four times as many steps fit in the same time


def train_vae(vae: AutoencoderKL, pictures: np.ndarray, plan: TrainingPlan, work: Path) -> None:
    """Train the VAE from its last checkpoint to the end of the plan."""
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    file = work / "vae.safetensors"
    start = load_checkpoint(file, {"vae": vae}, optimizer)
    progress = tqdm(total=plan.vae_steps, initial=start, desc="VAE", mininterval=30)
    for step, rng, torch_rng in step_generators(plan.seed, 1, range(start, plan.vae_steps)):
        pixels = vae_batch(pictures, step, plan, rng)
        latents = vae.encode(pixels).latent_dist
        decoded = vae.decode(latents.sample(torch_rng)).sample
        loss = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + plan.kl_weight * latents.kl().mean()
        take_step(optimizer, loss, vae_learning_rate(step, plan), MAX_GRAD_NORM)
        progress.update()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.vae_steps:
            save_checkpoint(file, step + 1, {"vae": vae}, optimizer)
            tqdm.write(f"VAE {step + 1}: loss {loss.item():.4f}, {psnr(vae, pictures[-64:]):.2f} dB")


def vae_batch(pictures: np.ndarray, step: int, plan: TrainingPlan, rng: np.random.Generator) -> Tensor:
    """Choose pictures for a step, or crops of them, (B, 3, H, W) in -1..1."""
    if step >= plan.vae_crop_steps:
        return as_pixels(pictures[rng.integers(len(pictures), size=plan.vae_batch // 2)])
    chosen = rng.integers(len(pictures), size=plan.vae_batch)
    y, x = rng.integers(SIZE - CROP + 1, size=2)
    return as_pixels(pictures[chosen, y : y + CROP, x : x + CROP])


def vae_learning_rate(step: int, plan: TrainingPlan) -> float:
    """Choose the learning rate: each part of the training ends at 0; the second starts lower."""
    first, second = plan.vae_crop_steps, plan.vae_steps - plan.vae_crop_steps
    if step < first:
        return plan.vae_learning_rate * learning_rate_factor(step, first, plan.vae_warmup, 0.5)
    return plan.vae_learning_rate * 0.4 * learning_rate_factor(step - first, second, plan.vae_warmup, 0.7)


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Measure the reconstruction's peak signal-to-noise ratio, dB, mean over pictures."""
    pixels = as_pixels(pictures)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    errors = ((decoded - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())
