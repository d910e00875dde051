"""Pick-and-Draw inside the host's samplers: the wrappers around a sampling and around each look at the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...palp_core.errors import ModelError
from ...palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from ...palp_core.models.attention import PromptedDenoiser, with_conditioning
from ...palp_core.models.backbone import Conditioning
from ...palp_core.models.noise import LARGEST_SHARE, per_sample
from .backbone import ComfyBackbone
from .compat import is_out_of_memory, out_of_memory
from .gradients import make_differentiable
from .guidance_inputs import Prompts
from .lora import base_weights, check_lora_is_in_weights, merges, with_weights
from .progress import show_text

KEY = "palp_pick_and_draw"
#: Levels that differ by less, relative to their size, are one that was rounded twice.
SAME_LEVEL = 1e-4
#: Of a level to the one before; steps that are smaller than that hardly move anything.
LARGEST_RATIO = 0.999
#: About how many times a sampling step's memory a step along the gradient takes.
GRADIENT_BATCH = 4
#: Where the host's model options list functions that are called with what guidance has made of the predictions.
POST_CFG = "sampler_post_cfg_function"
OWN_LAYOUT = "The layout is the model's own already, so that draw_weight does nothing: there is no LoRA to leave out."
OUT_OF_MEMORY = (
    "Out of memory in Pick-and-Draw Guidance, whose gradients need more of it than sampling does. Lower the batch size "
    "of the latents, set draw_weight to 0, then lower the size of the picture. A guided model must fit on the GPU as a "
    "whole."
)


class GuidanceSource(NamedTuple):
    """What the node was given, ready to be used at every sampling."""

    backbone: ComfyBackbone
    template: ComfyBackbone | None  # where the base model has weights of its own
    prompts: Prompts
    base_model: object | None  # the host's MODEL
    latents: Tensor  # (1, C, h, w)
    mask: Tensor | None  # (1, 1, h, w)
    config: PickAndDrawConfig
    node_id: str | None  # under which warnings are shown


class GuidedSampling:
    """The host's wrappers. Between two samplings it holds nothing that a sampling has made."""

    def __init__(self, source: GuidanceSource, conds: list[Conditioning]):
        self.source = source
        self.conds = conds
        self.guidance: PickAndDraw | None = None
        self.levels: list[float] = []  # of the sampling, descending, as the sampler has them
        self.post_cfg = 0  # how many POST_CFG functions are not the sampler's

    def sample(self, executor, guider, sigmas: Tensor, extra_args: dict, *args, **kwargs):
        """Around a whole sampling, once the host has loaded the model."""
        with torch.inference_mode(False), _out_of_memory_named():
            self.guidance, self.levels = self._prepare(guider), sigmas.tolist()
        self.post_cfg = len(extra_args["model_options"].get(POST_CFG, []))
        try:
            return executor(guider, sigmas, extra_args, *args, **kwargs)
        finally:
            self.guidance = None

    def predict_noise(self, executor, x: Tensor, timestep: Tensor, model_options: dict, *args, **kwargs):
        """Around each evaluation of the model, D. The sampler's latents, (B, C, ..., H, W), are left as they are.

        Samplers differ in what they do with them: some hand over a copy, some look again within a step. All of them
        follow D, Euler's method as x' = (1 - r)*D + r*x with r = sigma'/sigma. It goes from x + d to the same place as
        from x with D(x + d) + r/(1 - r)*d, which is therefore what they are given. CFG++ (arXiv 2406.08070) has
        x' = D + r*(x - U) with U, D under the empty prompt: the weights of D and U add up to 1 - r again, so that U
        moves as D does. A method that looks twice in a step, as Heun's, takes a part of it from each look: both are
        guided, or half of the step would be lost.
        """
        if self.guidance is None or not self.guidance.covers(self._unit_level(timestep)[0].item()):
            return executor(x, timestep, model_options, *args, **kwargs)
        step = self._step(x, timestep)
        ratio = next_ratio(self.levels, timestep[0].item())
        shift = ratio / (1 - ratio) * step
        options = with_moved_uncond(model_options, self.post_cfg, shift)
        return executor(x + step, timestep, options, *args, **kwargs) + shift

    def _unit_level(self, timestep: Tensor) -> Tensor:
        """Turn the host's noise level into sigma of x = x0 + sigma*eps; a flow's is a share of noise."""
        if self.source.backbone.prediction.name != "flow":
            return timestep
        share = timestep.clamp(max=LARGEST_SHARE)
        return share / (1 - share)

    def _step(self, x: Tensor, timestep: Tensor) -> Tensor:
        """The step along the gradient, in the sampler's units."""
        with torch.inference_mode(False), _out_of_memory_named(), self.source.backbone.differentiable():
            sigma = self._unit_level(timestep.clone())  # clones: no inference tensors
            scale = per_sample(1 + sigma if self.source.backbone.prediction.name == "flow" else sigma.new_ones(()), x)
            latents = x.clone() * scale
            step = (self.guidance(latents, sigma) - latents) / scale
        logging.debug("Pick-and-Draw: %s", self.guidance.history[-1])
        if self.guidance.warning:
            show_text(self.source.node_id, self.guidance.warning)
            self.guidance.warning = ""
        return step.to(x)

    def _prepare(self, guider) -> PickAndDraw:
        source = self.source
        if guider.inner_model is not source.backbone.model:
            raise ModelError(
                "the sampler's model is another copy than the one that Pick-and-Draw Guidance patched. Connect the "
                "node's MODEL to the sampler without nodes that copy models between them."
            )
        check_lora_is_in_weights("the sampler's model", guider.model_patcher)
        make_differentiable(guider.inner_model, source.backbone.device)
        generation, reference = (
            with_conditioning(source.backbone, cond, prompt.tokens)
            for cond, prompt in zip(self.conds[:2], source.prompts[:2], strict=True)
        )
        template = self._template(guider.model_patcher) if source.config.draw_weight > 0 else None
        if template is None and source.config.draw_weight > 0:
            show_text(source.node_id, OWN_LAYOUT)
        return PickAndDraw(
            generation,
            reference,
            template,
            source.latents,
            source.backbone.levels,
            source.config,
            source.mask,
        )

    def _template(self, patcher) -> PromptedDenoiser | None:
        """The base model with the class word; None where that is what is sampled, and has no layout of its own."""
        source, cond, prompt = self.source, self.conds[2], self.source.prompts.template
        if source.template is not None:
            return with_conditioning(source.template, cond, prompt.tokens)
        patches = merges(patcher.patches) if source.base_model is None else source.base_model.patches
        weights = base_weights(patcher, patches)
        plain = with_conditioning(source.backbone, cond, prompt.tokens)
        if not weights:
            return None if self._same_prompt() else plain

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with with_weights(patcher.model, weights):
                return plain.denoise(x, sigma)

        return plain._replace(denoise=denoise)

    def _same_prompt(self) -> bool:
        """Whether the template's prompt means what is sampled, however it is spelled."""
        sampled, template = (self.conds[at].tensors["cross_attn"] for at in (0, 2))
        same_word = self.source.prompts.generation.tokens == self.source.prompts.template.tokens
        return same_word and sampled.shape == template.shape and torch.equal(sampled, template)


def next_ratio(levels: list[float], level: float) -> float:
    """Return the noise level that the step at this level leads to, as a share of the one that it begins with, 0..1.

    levels: of a sampling, descending. A level between two of them belongs to the step from the higher one. 0 where
    levels ascend, as when a picture is led back to noise.
    """
    for higher, lower in pairwise(levels):
        if lower < min(higher, level * (1 - SAME_LEVEL)):
            return min(lower / higher, LARGEST_RATIO)
    return 0.0


def with_moved_uncond(model_options: dict, others: int, shift: Tensor) -> dict:
    """Return options under which a sampler's own POST_CFG functions see U + shift; the first ones, of others, see U."""

    def moved(function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
        return lambda args: function({**args, "uncond_denoised": args["uncond_denoised"] + shift})

    functions = model_options.get(POST_CFG, [])
    return {**model_options, POST_CFG: [*functions[:others], *map(moved, functions[others:])]}


def guided_model(source: GuidanceSource, conds: list[Conditioning]):
    """Return a clone of the host's MODEL that is guided while it is sampled. conds: of the source's prompts."""
    sampling = GuidedSampling(source, conds)
    patched = source.backbone.patcher.clone()
    if source.template is not None:
        earlier = patched.get_additional_models_with_key(KEY)  # of another guidance of the same model
        patched.set_additional_models(KEY, [*earlier, source.template.patcher])
    patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, load_for_gradients)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sampling.sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, sampling.predict_noise)
    return patched


def load_for_gradients(executor, model, noise_shape, conds, *args, **kwargs):
    """The host's wrapper around the loading of a model that is to be sampled: all of it, and with room for a graph.

    Parts that the host would stream in are kept by the graph until the backward pass, so that they win nothing.
    """
    room = [noise_shape[0] * GRADIENT_BATCH, *noise_shape[1:]]
    with _out_of_memory_named():
        return executor(model, room, conds, *args, **{**kwargs, "force_full_load": True})


@contextmanager
def _out_of_memory_named() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(OUT_OF_MEMORY) from error
