"""Pictures from a model that is being trained, by the contract alone: no pipeline, no host sampler.

DPM-Solver++(2M), arXiv 2211.01095, algorithm 2, with classifier-free guidance. In x = x0 + sigma*eps its step is

    x <- (s'/s)*x + (1 - s'/s)*D'     with D' = D + (D - D_before) * h / (2*h_before), h = log(s/s')
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .backbone import Backbone, Conditioning, guided_noise
from .noise import NoiseLevels

#: x (B, C, H, W), sigma (B,) -> x from which the sampler goes on.
Guidance = Callable[[Tensor, Tensor], Tensor]


class Said(Protocol):
    """A prompt, encoded once, as a `Conditioning`, or anew for each noise level."""

    def at(self, sigma: Tensor) -> Conditioning:
        """Return what is said at a noise level, (1,); a batch of one."""


def sampling_levels(levels: NoiseLevels, steps: int) -> list[float]:
    """Choose noise levels for so many steps, descending, spaced evenly over the schedule, and 0 at the end."""
    spaced = torch.arange(1, steps + 1) * (len(levels) // (steps + 1)) + 1
    return [*levels.sigmas.float().cpu()[spaced.flip(0)].tolist(), 0.0]


@torch.no_grad()
def sample(
    backbone: Backbone,
    noise: Tensor,
    levels: list[float],
    null: Conditioning,
    cond: Said,
    scale: float,
    guidance: Guidance | None = None,
) -> Tensor:
    """Sample latents, (B, C, H, W), from noise of variance 1 of that shape.

    levels: descending, 0 at the end. null, cond: batches of one. scale: of classifier-free guidance, 1 for none.
    guidance: moves the latents before each denoising.
    """
    x = noise.to(backbone.device, torch.float32) * (levels[0] ** 2 + 1) ** 0.5
    before: tuple[Tensor, float] | None = None
    for level, following in pairwise(levels):
        sigma = x.new_full((len(x),), level)
        if guidance is not None:
            x = guidance(x, sigma)
        denoised = x - level * guided_noise(backbone.denoise, x, sigma, null, cond.at(sigma[:1]), scale)
        estimate = denoised
        if before is not None and following > 0:
            earlier, log_ratio = before
            estimate = denoised + (denoised - earlier) * math.log(level / following) / (2 * log_ratio)
        before = (denoised, math.log(level / following)) if following > 0 else None
        x = x * (following / level) + (1 - following / level) * estimate
    return x
