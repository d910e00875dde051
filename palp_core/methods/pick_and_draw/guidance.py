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
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...models.attention import LayerAttention, is_decoder, recorded_attention
from ...models.backbone import Backbone, Conditioning, Placeholders
from .losses import FIND_SUBJECT, draw_loss, pick_loss, reference_palette, reference_region, subject_places, word_maps
from .reference import Reference, ReferenceTrajectory

KEPT_PALETTES = 2  # a sampler of higher order comes back to the level before; SDXL's take some 100 MB each
#: Share of the schedule at which a picture is looked at for where its subject is. In the toy world the place found
#: hardly depends on it.
REGION_LEVEL = 0.4
#: A map that varies by less than this share of its peak attends hardly anywhere: in the toy world, words for what a
#: photo shows have 0.87 and more, and words for what it does not show 0.33 and more.
FAINT = 0.6
LONGEST_STEP = 0.2  # rms of one step, relative to that of the latents, sqrt(1 + sigma^2)


@dataclass(frozen=True)
class PickAndDrawConfig:
    """How strongly, and when, the latents are guided."""

    #: Weight of the appearance loss; 0 leaves it out. Typical 0.5 to 2.
    pick_weight: float = 1.0
    #: Weight of the layout loss; 0 leaves it out, and saves the template's forward pass. Typical 0.1 to 1; more costs
    #: likeness.
    draw_weight: float = 0.1
    #: Length of a step along the gradient. Typical 0.02 to 0.2; more costs the prompt, and at last tears the picture.
    step_size: float = 0.05
    #: Steps along the gradient before each denoising. 1 to 5, each costs a forward and a backward pass.
    iterations: int = 1
    #: Part of the schedule at which guidance starts, 0..1.
    start_percent: float = 0.0
    #: Part of the schedule at which it ends, 0..1. Later steps only refine.
    end_percent: float = 0.8
    #: Places count as subject where its attention, stretched to 0..1, is above this. Typical 0.3 to 0.6.
    threshold: float = 0.5
    #: noise: the reference with seeded noise; inversion: on the way back to noise that the model itself takes (DDIM).
    reference: Reference = "noise"
    #: Of the reference's noise.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pick_weight", "draw_weight", "step_size"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 (off) or a positive number.")
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; it must be 1 or more.")
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent is {self.start_percent} and end_percent {self.end_percent}; they must lie between 0 "
                "and 1, the start not after the end."
            )
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; it must be at least 0 and below 1, typically 0.5.")
        if self.reference not in get_args(Reference):
            raise ValueError(f"reference is {self.reference!r}; it must be one of {', '.join(get_args(Reference))}.")

    @property
    def active(self) -> bool:
        """Whether there is anything to do at any level."""
        return self.step_size * (self.pick_weight + self.draw_weight) > 0 and self.start_percent < self.end_percent


class PromptedDenoiser(NamedTuple):
    """A model with a prompt, and where in the prompt the subject's word stands."""

    denoise: Callable[[Tensor, Tensor], Tensor]  # x (B, C, H, W), sigma (B,) -> D (B, C, H, W), differentiable in x
    network: nn.Module  # holds the cross-attention layers
    tokens: tuple[int, ...]


class GuidanceStep(NamedTuple):
    """What one step along the gradient measured, before it was taken; means over the batch."""

    sigma: float
    pick: float  # 0 with the loss left out
    draw: float


def region_sigma(sigmas: Tensor) -> Tensor:
    """The noise level at which a picture is looked at for where its subject is, (); sigmas: ascending, (N,)."""
    return sigmas[round(REGION_LEVEL * (len(sigmas) - 1))]


def prompted(backbone: Backbone, prompt: str, word: str, placeholders: Placeholders | None = None) -> PromptedDenoiser:
    """A backbone with a prompt that holds a word or placeholder. Raises ValueError where it does not."""
    placeholders = placeholders or {}
    with torch.no_grad():
        cond = backbone.encode_prompt(prompt, placeholders)
    return with_conditioning(backbone, cond, backbone.token_positions(prompt, word, placeholders))


def with_conditioning(backbone: Backbone, cond: Conditioning, tokens: tuple[int, ...]) -> PromptedDenoiser:
    """A backbone with an encoded prompt, batch of one."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return backbone.denoise(x, sigma, cond.expand(len(x)))

    return PromptedDenoiser(denoise, backbone.denoiser, tokens)


class PickAndDraw:
    """The guidance of one sampling. It holds what is computed once per noise level, and changes no model.

    generation: the model and prompt that are sampled. reference: the same model with a prompt for the reference
    picture. template: the model without the subject, with the class word in the prompt; None leaves `draw` out.
    latents: of the reference, (1, C, h, w), of any size. mask: (1, 1, h, w) in 0..1, where in the reference the subject
    is; None: where its word attends. sigmas: the model's noise levels, ascending, (N,).
    """

    def __init__(
        self,
        generation: PromptedDenoiser,
        reference: PromptedDenoiser,
        template: PromptedDenoiser | None,
        latents: Tensor,
        sigmas: Tensor,
        config: PickAndDrawConfig,
        mask: Tensor | None = None,
    ):
        self.generation, self.reference, self.template = generation, reference, template
        self.config = config
        self._region = mask
        self._region_level = region_sigma(sigmas).item()
        self.trajectory = ReferenceTrajectory(reference.denoise, latents, sigmas, config.reference, config.seed)
        self.history: list[GuidanceStep] = []
        self.warning = ""  # where the reference's word attends hardly anywhere: what to do about it
        self._picks = config.pick_weight > 0
        self._draws = config.draw_weight > 0 and template is not None
        self._range = sigma_range(sigmas, config.start_percent, config.end_percent)
        self._palettes: dict[float, dict[str, Tensor]] = {}

    def covers(self, sigma: float) -> bool:
        """Whether latents at this noise level are guided."""
        low, high = self._range
        return self.config.active and (self._picks or self._draws) and low < sigma <= high

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The latents from which the sampler goes on: x itself where they are not guided.

        x: (B, C, H, W); sigma: (B,), the same for all. Raises ValueError where the reference's word attends nowhere.
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
        network, tokens = self.generation.network, self.generation.tokens
        only = is_decoder if templates is None else None  # the encoder's maps are of use to draw alone
        with recorded_attention(network, tokens, only=only, keep_features=is_decoder) as layers:
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
            raise ValueError(
                "the gradient of Pick-and-Draw is not finite: the model overflows in half precision. Run it in bf16 "
                "or fp32 (ComfyUI: --bf16-unet or --fp32-unet)."
            )
        places = subject_places(layers, templates or {}, tuple(x.shape[-2:]), self.config.threshold)
        return descended(x.detach(), sigma, gradient * places, self.config.step_size)

    @torch.no_grad()
    def _template_maps(self, x: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        with recorded_attention(self.template.network, self.template.tokens) as layers:
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
        network, tokens = self.reference.network, self.reference.tokens
        with recorded_attention(network, tokens, only=is_decoder, keep_features=is_decoder) as layers:
            self.reference.denoise(self.trajectory.at(sigma), sigma)
        return layers


def sigma_range(sigmas: Tensor, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Parts of the schedule, 0..1, as (lowest, highest) noise level. sigmas: ascending, (N,)."""

    def level(percent: float) -> float:
        return sigmas[round((1 - percent) * (len(sigmas) - 1))].item()

    return (0.0 if end_percent == 1 else level(end_percent), math.inf if start_percent == 0 else level(start_percent))


def descended(x: Tensor, sigma: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """x - step_size * (1 + sigma^2) * gradient, no picture by more than LONGEST_STEP. (B, C, H, W), (B,)."""
    unit = (1 + sigma**2).sqrt().view(-1, 1, 1, 1)
    step = step_size * unit**2 * gradient
    rms = step.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    longest = LONGEST_STEP * unit
    return x - step * longest / torch.maximum(rms, longest)
