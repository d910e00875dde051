"""Pick-and-Draw guidance: arXiv 2401.16762. A subject's look from one picture, while sampling and without training.

Before the ordinary denoising of x at noise level sigma, for the first part of the schedule:

    palette  features of the reference at this level, at the places that attend to its subject (computed once per level)
    pick     mean over generated places of the smallest cosine distance to a palette feature: relaxed EMD, one direction
    draw     distance of the subject's attention maps from those of the model without the subject, the template
    x <- x - step * (1 + sigma^2) * n * m * grad(pick_weight*pick + draw_weight*draw)

x = x0 + sigma*eps is sqrt(1 + sigma^2) times the latents of unit variance on which the paper takes its steps, hence
the factor 1 + sigma^2. n is the number of elements of one picture's latents: the losses are means, and a step is to
mean the same at every picture size. m is 1 where the subject is or is to be, else 0 (not in the paper).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import OVERFLOWS, SettingError
from ...models.attention import (
    REGION_LEVEL,
    LayerAttention,
    PromptedDenoiser,
    is_decoder,
    word_maps,
)
from ...models.noise import NoiseLevels, per_sample, sample_mean
from ...settings import check_settings, setting
from .losses import FIND_SUBJECT, draw_loss, pick_loss, reference_palette, reference_region, subject_places
from .reference import Reference, ReferenceTrajectory

KEPT_PALETTES = 2  # a sampler of higher order comes back to the level before; SDXL's take some 100 MB each
#: A map that varies by less than this share of its peak attends hardly anywhere: in the toy world, words for what a
#: photo shows have 0.87 and more, and words for what it does not show 0.33 and more.
FAINT = 0.6
LONGEST_STEP = 0.2  # rms of one step, relative to that of the latents, sqrt(1 + sigma^2)


@dataclass(frozen=True)
class PickAndDrawConfig:
    """How strongly, and when, the latents are guided."""

    pick_weight: float = setting(
        1.0,
        "Weighs the look of the reference's subject; 0 leaves it out.",
        usual="0.5 to 2",
        low=0,
        high=100,
        step=0.05,
    )
    draw_weight: float = setting(
        0.1,
        "Weighs the layout of the model without the subject; 0 leaves it out and is faster.",
        usual="0.1 to 1",
        low=0,
        high=100,
        step=0.05,
    )
    step_size: float = setting(
        0.05,
        "Sets how far a step moves the latents; more costs the prompt, and at last tears the picture.",
        usual="0.02 to 0.2",
        low=0,
        high=10,
        step=0.01,
    )
    iterations: int = setting(
        1,
        "Takes this many steps before each denoising; each costs a pass and its gradient.",
        usual="1 to 5",
        low=1,
        high=20,
        step=1,
    )
    start_percent: float = setting(
        0.0, "Starts guidance at this part of the sampling.", usual="0", low=0, high=1, step=0.01
    )
    end_percent: float = setting(
        0.8,
        "Ends guidance at this part of the sampling; later steps only refine.",
        usual="0.5 to 0.8",
        low=0,
        high=1,
        step=0.01,
    )
    threshold: float = setting(
        0.5,
        "Counts places as subject where its attention, stretched to 0..1, is above this.",
        usual="0.3 to 0.6",
        low=0,
        high=0.99,
        step=0.05,
    )
    reference: Reference = setting(
        "noise",
        "Brings the reference to each noise level: by seeded noise, or by inversion, the model's own way back (DDIM).",
    )
    seed: int = setting(0, "Fixes the reference's noise.", low=0, high=2**63 - 1, step=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.start_percent > self.end_percent:
            raise SettingError(
                f"start_percent is {self.start_percent} and end_percent {self.end_percent}; the start must not come "
                "after the end."
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to do at any level."""
        return self.step_size * (self.pick_weight + self.draw_weight) > 0 and self.start_percent < self.end_percent


class GuidanceStep(NamedTuple):
    """What one step along the gradient measured, before it was taken; means over the batch."""

    sigma: float
    pick: float  # 0 with the loss left out
    draw: float


class PickAndDraw:
    """The guidance of one sampling. It holds what is computed once per noise level, and changes no model.

    generation: the model and prompt that are sampled. reference: the same model with a prompt for the reference
    picture. template: the model without the subject, with the class word in the prompt; None leaves `draw` out.
    latents: of the reference, (1, C, ..., h, w), of any size. mask: (1, 1, ..., h, w) in 0..1, where in it the subject
    is; None: where its word attends. levels: the model's.
    """

    def __init__(
        self,
        generation: PromptedDenoiser,
        reference: PromptedDenoiser,
        template: PromptedDenoiser | None,
        latents: Tensor,
        levels: NoiseLevels,
        config: PickAndDrawConfig,
        mask: Tensor | None = None,
    ):
        self.generation, self.reference, self.template = generation, reference, template
        self.config = config
        self._region = None if mask is None else mask.view(1, 1, *mask.shape[-2:])  # of films, too
        self._region_level = levels.at(REGION_LEVEL).item()
        self.trajectory = ReferenceTrajectory(reference.denoise, latents, levels, config.reference, config.seed)
        self.history: list[GuidanceStep] = []
        self.warning = ""  # where the reference's word attends hardly anywhere: what to do about it
        self._picks = config.pick_weight > 0
        self._draws = config.draw_weight > 0 and template is not None
        self._range = levels.span(config.start_percent, config.end_percent)
        self._palettes: dict[float, dict[str, Tensor]] = {}

    def covers(self, sigma: float) -> bool:
        """Whether latents at this noise level are guided."""
        low, high = self._range
        return self.config.active and (self._picks or self._draws) and low < sigma <= high

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The latents from which the sampler goes on: x itself where they are not guided.

        x: (B, C, H, W); sigma: (B,), the same for all. Raises SettingError where the reference's word attends nowhere.
        """
        if not self.covers(sigma[0].item()):
            return x
        templates = self._template_maps(x, sigma) if self._draws else None
        palette = self.palette(sigma[:1]) if self._picks else None
        for _ in range(self.config.iterations):  # towards the layout of the latents as they came
            x = self._step(x, sigma, palette, templates)
        return x

    @torch.enable_grad()
    def _step(
        self, x: Tensor, sigma: Tensor, palette: dict[str, Tensor] | None, templates: dict[str, Tensor] | None
    ) -> Tensor:
        x = x.detach().clone().requires_grad_()
        only = is_decoder if templates is None else None  # the encoder's maps are of use to draw alone
        with self.generation.recorded(only=only, keep_features=is_decoder) as layers:
            self.generation.denoise(x, sigma)
        pick = draw = x.new_zeros(len(x), dtype=torch.float32)
        if palette is not None:
            pick = pick_loss(layers, palette, self.config.threshold)
        if templates is not None:
            draw = draw_loss(word_maps(layers), templates)
        self.history.append(GuidanceStep(sigma[0].item(), pick.mean().item(), draw.mean().item()))
        loss = self.config.pick_weight * pick + self.config.draw_weight * draw
        # Summed over the batch, so that no picture depends on another; times n before the backward pass, where a mean's
        # gradient would fall below what fp16 can hold.
        (gradient,) = torch.autograd.grad(loss.sum() * x[0].numel(), x)
        if not torch.isfinite(gradient).all():
            raise SettingError(f"the gradient of Pick-and-Draw is {OVERFLOWS}")
        places = subject_places(layers, templates or {}, tuple(x.shape[-2:]), self.config.threshold)
        where = places.view(len(x), *[1] * (x.ndim - 3), *places.shape[-2:])
        return descended(x.detach(), sigma, gradient * where, self.config.step_size)

    @torch.no_grad()
    def _template_maps(self, x: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        with self.template.recorded() as layers:
            self.template.denoise(x, sigma)
        return word_maps(layers)

    @torch.no_grad()
    def palette(self, sigma: Tensor) -> dict[str, Tensor]:
        """The reference's subject at a noise level, (1,): decoder layer -> features (K, C)."""
        if self._region is None:
            layers = self._look_at_reference(torch.full_like(sigma, self._region_level))
            self._region, contrast = reference_region(layers, self.config.threshold)
            if contrast < FAINT:
                self.warning = f"The subject's word attends hardly anywhere in the reference picture. {FIND_SUBJECT}"
                logging.warning("Pick-and-Draw: %s", self.warning)
        level = sigma.item()
        if level not in self._palettes:
            layers = self._look_at_reference(sigma)
            if len(self._palettes) == KEPT_PALETTES:
                del self._palettes[next(iter(self._palettes))]
            self._palettes[level] = reference_palette(layers, self._region)
        return self._palettes[level]

    def _look_at_reference(self, sigma: Tensor) -> dict[str, LayerAttention]:
        with self.reference.recorded(only=is_decoder, keep_features=is_decoder) as layers:
            self.reference.denoise(self.trajectory.at(sigma), sigma)
        return layers


def descended(x: Tensor, sigma: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """x - step_size * (1 + sigma^2) * gradient, no picture by more than LONGEST_STEP. (B, C, H, W), (B,)."""
    unit = per_sample((1 + sigma**2).sqrt(), x)
    step = step_size * unit**2 * gradient
    rms = per_sample(sample_mean(step.square()), x).sqrt()
    longest = LONGEST_STEP * unit
    return x - step * longest / torch.maximum(rms, longest)
