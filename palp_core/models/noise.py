"""Noise levels, and what a network predicts at them: noise, v or flow, each in terms of (x, sigma).

Convention of k-diffusion (arXiv 2206.00364, sec. 2): x = x0 + sigma*eps in latent units, D estimates x0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

#: Of noise in x_t of a flow; beyond it, x_t/(1 - s) holds the picture in its last digits alone.
LARGEST_SHARE = 0.99995


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Shape one number for each sample, (B,), so that it multiplies latents (B, ...) of any number of dimensions."""
    return value.view(-1, *[1] * (like.ndim - 1))


def sample_mean(values: Tensor) -> Tensor:
    """Average each sample of a batch, (B, ...) -> (B,)."""
    return values.flatten(1).mean(dim=1)


Timesteps = Literal["uniform", "logit_normal"]


class NoiseLevels:
    """The noise levels that a model was trained on, ascending, (N,), in latent units.

    timesteps: how a training draws them, uniform over the schedule or mostly from its middle.
    """

    def __init__(self, sigmas: Tensor, timesteps: Timesteps = "uniform"):
        self.sigmas, self.timesteps = sigmas, timesteps

    def __len__(self) -> int:
        return len(self.sigmas)

    def at(self, share: float) -> Tensor:
        """Return the level at a share of the schedule, 0 up to but not 1; (), float32."""
        return self.sigmas[int(share * len(self))].float()

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        """Draw levels for a training, (count,)."""
        timesteps = spread_timesteps(count, len(self), random)
        if self.timesteps == "logit_normal":
            timesteps = logit_normal(timesteps, len(self))
        return self.sigmas[timesteps.to(self.sigmas.device)]

    def nearest(self, sigma: Tensor) -> Tensor:
        """Return the index of the level that is nearest in log space. (B,) -> (B,) int64."""
        return (sigma.log()[:, None] - self.sigmas.to(sigma).log()[None]).abs().argmin(dim=1)

    def evenly(self, count: int) -> list[float]:
        """Return so many levels, ascending, from the lowest to the highest."""
        every = torch.linspace(0, len(self) - 1, count).round().long()
        return self.sigmas.float().cpu()[every].tolist()

    def span(self, start_percent: float, end_percent: float) -> tuple[float, float]:
        """Return a part of a sampling, 0..1 from its start, as (lowest, highest) level."""

        def level(percent: float) -> float:
            return self.sigmas[round((1 - percent) * (len(self) - 1))].item()

        low = 0.0 if end_percent == 1 else level(end_percent)
        return low, math.inf if start_percent == 0 else level(start_percent)


def spread_timesteps(count: int, timesteps: int, random: torch.Generator) -> Tensor:
    """Draw (count,) indices, uniform, one from each of as many equal parts (arXiv 2107.00630, app. I.1).

    Gradients at large noise are several times those at small, so that a small batch of independent draws is mostly the
    luck of its levels.
    """
    shift = torch.randint(timesteps, (1,), generator=random)
    return (torch.arange(count) * timesteps + shift) // count


def logit_normal(uniform: Tensor, timesteps: int) -> Tensor:
    """Turn uniform indices into such whose share of the schedule is the sigmoid of a normal variable.

    Flow models were trained so (arXiv 2403.03206, sec. 3.1, mean 0 and deviation 1). What was one index from each of
    several equal parts is one from each of several parts of equal probability. (N,) -> (N,) int64.
    """
    share = (uniform.double() + 0.5) / timesteps
    return (torch.special.ndtri(share).sigmoid() * timesteps).long()


def flow_levels(shares: Tensor, timesteps: Timesteps = "logit_normal") -> NoiseLevels:
    """Make the levels s/(1 - s) of a flow's table of s, (N,) in 0..1, ascending.

    Without s = 1, where nothing is left of x0.
    """
    shares = shares[shares < LARGEST_SHARE].double()
    return NoiseLevels((shares / (1 - shares)).float(), timesteps)


class Prediction(Protocol):
    """What a network predicts. sigma: (B,); all else (B, ...)."""

    name: str

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Scale x to what the network was trained on."""

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        """Turn the network's output into D, the estimate of x0."""

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of (D - x0)^2 that makes it the model's own training loss, (B,)."""


@dataclass(frozen=True)
class EpsilonPrediction:
    """The network predicts the noise (arXiv 2006.11239, eq. 14)."""

    name: str = "epsilon"

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (per_sample(sigma, x) ** 2 + 1).sqrt()

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        return x - output * per_sample(sigma, x)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2


@dataclass(frozen=True)
class VelocityPrediction:
    """The network predicts v = alpha*eps - sigma*x0 of the variance-preserving process (arXiv 2202.00512, sec. 2.4)."""

    name: str = "v"

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (per_sample(sigma, x) ** 2 + 1).sqrt()

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        column = per_sample(sigma, x)
        return x / (column**2 + 1) - output * column / (column**2 + 1).sqrt()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1) / sigma**2


@dataclass(frozen=True)
class FlowPrediction:
    """The network predicts eps - x0 at x_t = (1 - s)*x0 + s*eps (arXiv 2210.02747), with sigma = s/(1 - s)."""

    name: str = "flow"

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return x_t."""
        return x / (1 + per_sample(sigma, x))

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor) -> Tensor:
        column = per_sample(sigma, x)
        return (x - column * output) / (1 + column)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return ((1 + sigma) / sigma) ** 2


PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (EpsilonPrediction(), VelocityPrediction(), FlowPrediction())}
