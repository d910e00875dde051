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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .alignment import Denoiser
from .attention import LayerAttention, is_decoder, min_max, recorded_attention, resized
from .backbone import Backbone, Conditioning, Placeholders

Reference = Literal["noise", "inversion"]

BLUR = 0.5  # standard deviation of the smoothing of maps, in places of a layer
PALETTE_SIZE = 1024  # features of a layer, at most; more are thinned out evenly
KEPT_PALETTES = 2  # a sampler of higher order comes back to the level before; SDXL's take some 100 MB each
#: Share of the schedule at which the reference is looked at for where its subject is. In the toy world the place found
#: hardly depends on it.
REGION_LEVEL = 0.4
FLAT = 1e-3  # a map that varies by less than this share of its peak attends nowhere
#: And by less than this, hardly anywhere: in the toy world, words for what a photo shows have 0.87 and more, and words
#: for what it does not show 0.33 and more.
FAINT = 0.6
FIND_SUBJECT = "Connect a mask, white where the subject is, or use a word that names what the picture shows."
LONGEST_STEP = 0.2  # rms of one step, relative to that of the latents, sqrt(1 + sigma^2)
INVERSION_LEVELS = 25


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
        self._region_level = sigmas[round(REGION_LEVEL * (len(sigmas) - 1))].item()
        self.trajectory = ReferenceTrajectory(reference.denoise, latents, sigmas, config)
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


def guided(denoise: Denoiser, guidance: PickAndDraw) -> Denoiser:
    """A denoiser that first moves the latents it is given, in place, so that a sampler goes on from the moved ones."""

    def denoise_moved(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        x.copy_(guidance(x, sigma))
        return denoise(x, sigma, cond)

    return denoise_moved


class ReferenceTrajectory:
    """The reference picture at any noise level, (1, C, h, w): the same noise at all levels, or DDIM inversion.

    Inversion (arXiv 2105.05233, app. F) goes from level to level along eps_hat = (x - D)/sigma. Each level is computed
    once, when a level at or above it is asked for first.
    """

    def __init__(
        self, denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, sigmas: Tensor, config: PickAndDrawConfig
    ):
        self.denoise = denoise
        self.latents = latents
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(config.seed))
        self._noise = noise if config.reference == "noise" else None
        every = torch.linspace(0, len(sigmas) - 1, INVERSION_LEVELS).round().long()
        self._levels = sigmas.float().cpu()[every].tolist()
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


def sigma_range(sigmas: Tensor, start_percent: float, end_percent: float) -> tuple[float, float]:
    """Parts of the schedule, 0..1, as (lowest, highest) noise level. sigmas: ascending, (N,)."""

    def level(percent: float) -> float:
        return sigmas[round((1 - percent) * (len(sigmas) - 1))].item()

    return (0.0 if end_percent == 1 else level(end_percent), math.inf if start_percent == 0 else level(start_percent))


def subject_places(
    layers: Mapping[str, LayerAttention], templates: Mapping[str, Tensor], size: tuple[int, int], threshold: float
) -> Tensor:
    """Where the subject is, or is to be by the template: (B, 1, *size), 0 or 1.

    Not in the paper, which moves all of the latents. A feature sees far beyond its own place, so that the gradient
    takes the surroundings along, away from the prompt's and towards those of the reference.
    """
    both = [
        {name: m.detach() for name, m in maps.items() if is_decoder(name)} for maps in (word_maps(layers), templates)
    ]
    found = [saliency(list(maps.values()), size) > threshold for maps in both if maps]
    return torch.stack(found).any(dim=0).float()[:, None]


def word_maps(layers: Mapping[str, LayerAttention]) -> dict[str, Tensor]:
    """Layer -> (B, h, w): the attention to all tokens of the word together."""
    return {name: layer.maps.sum(dim=1) for name, layer in layers.items()}


def mean_map(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Of several layers' maps (B, h, w): (B, *size)."""
    return torch.stack([resized(m, size) for m in maps]).mean(dim=0)


def saliency(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Where a word attends, by the mean of several layers' maps (B, h, w), stretched to 0..1. Returns (B, *size)."""
    return min_max(mean_map(maps, size))


def reference_region(layers: Mapping[str, LayerAttention], threshold: float) -> tuple[Tensor, float]:
    """Where a word attends by more than the threshold, (1, 1, h, w), 0 or 1, on the finest of the layers' grids.

    And the contrast of its map, 0..1: by what share of the peak it varies. Raises ValueError where that is nothing.
    """
    maps = list(word_maps(layers).values())
    finest = max((tuple(m.shape[-2:]) for m in maps), key=math.prod)
    heat = mean_map(maps, finest)
    contrast = ((heat.max() - heat.min()) / heat.max()).item()
    if not contrast > FLAT:
        raise ValueError(
            "the subject's word attends nowhere in the reference picture of Pick-and-Draw, so its look cannot be found "
            f"there. {FIND_SUBJECT}"
        )
    return (min_max(heat) > threshold).float()[:, None], contrast


def reference_palette(layers: Mapping[str, LayerAttention], region: Tensor) -> dict[str, Tensor]:
    """The subject's features in each layer, (1, h*w, C) -> (K, C) with 1 <= K <= PALETTE_SIZE.

    region: (1, 1, h, w) in 0..1, where it is.
    """
    palette = {}
    for name, layer in layers.items():
        inside = _inside(region.to(layer.maps), tuple(layer.maps.shape[-2:]))
        features = layer.features[0, inside.flatten()]  # (K, C)
        thin = torch.linspace(0, len(features) - 1, min(len(features), PALETTE_SIZE), device=features.device)
        palette[name] = features[thin.round().long()]
    return palette


def pick_loss(layers: Mapping[str, LayerAttention], palette: Mapping[str, Tensor], threshold: float) -> Tensor:
    """Appearance: relaxed EMD to the palette of each layer, at the places that attend to the word. Returns (B,)."""
    maps = [layers[name].maps.detach().sum(dim=1) for name in palette]
    inside: dict[tuple[int, int], Tensor] = {}
    losses = []
    for name, colours in palette.items():
        size = tuple(layers[name].maps.shape[-2:])
        if size not in inside:
            inside[size] = (saliency(maps, size) > threshold).flatten(1).float()  # (B, h*w)
        losses.append(relaxed_emd(layers[name].features, colours, inside[size]))
    return torch.stack(losses).mean(dim=0)


def relaxed_emd(features: Tensor, palette: Tensor, weights: Tensor) -> Tensor:
    """Unidirectional relaxed earth mover's distance with the cosine distance, a lower bound of the exact one.

    (B, N, C), (K, C), (B, N) -> (B,): the mean by weights of each feature's distance to the nearest of the palette.
    """
    features, palette = (F.normalize(t.float(), dim=-1) for t in (features, palette))
    nearest = 1 - (features @ palette.T).amax(dim=-1)  # (B, N)
    return (nearest * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)


def draw_loss(maps: Mapping[str, Tensor], templates: Mapping[str, Tensor]) -> Tensor:
    """Layout: mean over all layers of the Frobenius norm between smoothed maps (B, h, w). Returns (B,).

    Each map is brought to mean 1, because a learned word may get more attention than its class word without lying
    elsewhere, and the norm is divided by sqrt(h*w), so that fine layers do not outweigh coarse ones.
    """
    losses = []
    for name, template in templates.items():
        difference = smoothed(_mean_one(maps[name])) - smoothed(_mean_one(template))
        losses.append(torch.linalg.vector_norm(difference, dim=(-2, -1)) / math.sqrt(difference[0].numel()))
    return torch.stack(losses).mean(dim=0)


def smoothed(maps: Tensor) -> Tensor:
    """(B, h, w) through a Gaussian of BLUR places, 3 by 3; beyond the edge it goes on as at the edge."""
    at = torch.tensor([-1.0, 0.0, 1.0], device=maps.device)
    kernel = torch.exp(-(at**2) / (2 * BLUR**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    return F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), kernel[None, None])[:, 0]


def descended(x: Tensor, sigma: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """x - step_size * (1 + sigma^2) * gradient, no picture by more than LONGEST_STEP. (B, C, H, W), (B,)."""
    unit = (1 + sigma**2).sqrt().view(-1, 1, 1, 1)
    step = step_size * unit**2 * gradient
    rms = step.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    longest = LONGEST_STEP * unit
    return x - step * longest / torch.maximum(rms, longest)


def _mean_one(maps: Tensor) -> Tensor:
    return maps / maps.mean(dim=(-2, -1), keepdim=True)


def _inside(region: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 1, h, w) -> (*size) bool: places of which the region covers the most, at least half of that."""
    covered = F.adaptive_avg_pool2d(region, size)[0, 0]
    return covered >= covered.max() / 2
