"""The reference picture of Pick-and-Draw (arXiv 2401.16762) at the noise levels of a sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ...models.noise import NoiseLevels

Reference = Literal["noise", "inversion"]

INVERSION_LEVELS = 25


class ReferenceTrajectory:
    """The reference picture at any noise level, (1, C, h, w): the same noise at all levels, or DDIM inversion.

    Inversion (arXiv 2105.05233, app. F) goes from level to level along eps_hat = (x - D)/sigma. Each level is computed
    once, when a level at or above it is asked for first.
    """

    def __init__(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        latents: Tensor,
        levels: NoiseLevels,
        reference: Reference = "noise",
        seed: int = 0,
    ):
        self.denoise = denoise
        self.latents = latents
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        self._noise = noise if reference == "noise" else None
        self._levels = levels.evenly(INVERSION_LEVELS)
        self._inverted: list[tuple[Tensor, Tensor]] = []  # x and eps_hat at the levels so far

    @torch.no_grad()
    def at(self, sigma: Tensor) -> Tensor:
        """sigma: (1,), on the device to compute on."""
        if self._noise is not None:
            return self.latents.to(sigma) + sigma * self._noise.to(sigma)
        wanted = sigma.item()
        x, level, eps = self.latents.to(sigma), 0.0, torch.zeros_like(self.latents).to(sigma)
        for index, next_level in enumerate(self._levels):
            if next_level > wanted:
                break
            if index == len(self._inverted):
                x = x + (next_level - level) * eps
                self._inverted.append((x, (x - self.denoise(x, sigma.new_tensor([next_level]))) / next_level))
            (x, eps), level = self._inverted[index], next_level
        return x + (wanted - level) * eps
