"""What every training minimizes: the model's own denoising loss, at noise levels of its own.

The loss is that of latent diffusion (arXiv 2112.10752, eq. 2), on eps or on v as the model was trained; it is eq. 1 of
PALP (arXiv 2401.06105) and eq. 2 of Textual Inversion (arXiv 2208.01618).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.noise import NoiseLevels, sample_mean
from .workers import ALONE, Workers


def draw_noise(
    levels: NoiseLevels, x0: Tensor, random: torch.Generator, workers: Workers = ALONE
) -> tuple[Tensor, Tensor]:
    """Draw noise levels uniform over those of the model's training, (B,), and noise like x0.

    x0: this process's share of a batch. The levels are strata of the whole batch.
    """
    sigma = workers.share(levels.sample(len(x0) * workers.count, random))
    return sigma.to(x0), noise_like(x0, random, workers)


def noise_like(x: Tensor, random: torch.Generator, workers: Workers = ALONE) -> Tensor:
    """Draw noise for this process's share x of a batch, (B, C, ...), out of that of the whole batch."""
    whole = torch.randn((len(x) * workers.count, *x.shape[1:]), generator=random)
    return workers.share(whole).to(x)


def denoising_loss(denoised: Tensor, x0: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the model's own training loss: the mean of weight * (D - x0)^2, over the masked part if there is a mask.

    denoised, x0: (B, C, ...); weight: (B,); mask: (B, 1, ...) in 0..1, each sample counting the same; returns ().
    """
    error = (denoised - x0).square()
    if mask is None:
        each = sample_mean(error)
    else:
        each = (error * mask).flatten(1).sum(dim=1) / (mask.flatten(1).sum(dim=1) * error.shape[1])
    return (weight * each).mean()


def outside_loss(denoised: Tensor, base: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Return how far the prediction is from the base model's where the mask is not, in the model's own loss.

    denoised, base: (B, C, ...), the base model's without gradients; weight: (B,); mask: (B, 1, ...) in 0..1. Each pixel
    counts as one of the whole picture, so that a mask that leaves nothing out has no part in it; returns ().
    """
    return (weight * sample_mean((1 - mask) * (denoised - base).square())).mean()
