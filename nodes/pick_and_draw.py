"""Pick-and-Draw Guidance: the look of one reference picture on the stock samplers, without training."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, get_args

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ..palp_core.methods.pick_and_draw.guidance import (
    PickAndDraw,
    PickAndDrawConfig,
    PromptedDenoiser,
    with_conditioning,
)
from ..palp_core.methods.pick_and_draw.reference import Reference
from ..palp_core.models.attention import cross_attention_layers
from ..palp_core.models.backbone import Conditioning, Family
from ..palp_core.training.data import check_image, check_mask, latent_mask, resize_to_cover, training_size
from .host.backbone import ComfyBackbone, make_differentiable
from .host.progress import show_text
from .host.session import is_out_of_memory
from .host.text import check_clip, spelled_out, spelled_word, token_positions
from .host.vanilla_weights import merges, vanilla_weights, with_weights
from .widgets import ADVANCED, CATEGORY

KEY = "palp_pick_and_draw"
#: At which a family draws, pixels.
RESOLUTIONS: dict[Family, int] = {"sd1": 512, "sd2": 768, "sdxl": 1024}
DEFAULT = PickAndDrawConfig()
#: About how many times a sampling step's memory a step along the gradient takes.
GRADIENT_BATCH = 4
OWN_LAYOUT = "The layout is the model's own already, so that draw_weight does nothing: there is no LoRA to leave out."
OUT_OF_MEMORY = (
    "Out of memory in Pick-and-Draw Guidance, whose gradients need more of it than sampling does. Lower the batch size "
    "of the latents, set draw_weight to 0, then lower the size of the picture. A guided model must fit on the GPU as a "
    "whole."
)


class PickAndDrawGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_PickAndDraw",
            display_name="Pick-and-Draw Guidance",
            category=CATEGORY,
            description=(
                "Guides any sampler towards the look of one reference picture, without training. Works on a plain "
                "checkpoint, and on a model with a LoRA, whose layout it then takes from the model without it."
            ),
            search_aliases=["pick and draw", "palp", "reference", "ip adapter", "training-free", "my subject"],
            inputs=_inputs(),
            outputs=[
                io.Model.Output(display_name="model", tooltip="For a KSampler: it is guided while it samples."),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The encoded prompt: the KSampler's positive input."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, image, prompt, subject_word, class_word, vanilla_model=None, mask=None, **widgets
    ):
        resolution, reference_prompt = widgets.pop("resolution"), widgets.pop("reference_prompt")
        config = PickAndDrawConfig(**widgets)
        cross_attention_layers(model.model.diffusion_model)  # raises where there is none
        check_clip(clip)
        prompts = _prompts(clip.tokenizer, prompt, subject_word, class_word, reference_prompt)
        conditioning, *others = (clip.encode_from_tokens_scheduled(clip.tokenize(p.text)) for p in prompts)
        if not config.active:
            return io.NodeOutput(model, conditioning)
        with torch.inference_mode(False):
            backbone = ComfyBackbone(model, clip, vae)
            latents, latents_mask = _reference_latents(backbone, image, mask, resolution)
            draws = vanilla_model is not None and config.draw_weight > 0
            template = _other_backbone(vanilla_model, model, clip, vae) if draws else None
            node_id = cls.hidden.unique_id
            source = _Source(backbone, template, prompts, vanilla_model, latents, latents_mask, config, node_id)
            conds = [_conditioning(encoded, backbone.family) for encoded in (conditioning, *others)]
        sampling = GuidedSampling(source, conds)
        patched = backbone.patcher.clone()
        if template is not None:
            earlier = patched.get_additional_models_with_key(KEY)  # of another guidance of the same model
            patched.set_additional_models(KEY, [*earlier, template.patcher])
        patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, load_for_gradients)
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sampling.sample)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, sampling.predict_noise)
        return io.NodeOutput(patched, conditioning)


class _Prompt(NamedTuple):
    text: str
    tokens: tuple[int, ...]  # of the word that stands for the subject


class _Prompts(NamedTuple):
    generation: _Prompt
    reference: _Prompt
    template: _Prompt


class _Source(NamedTuple):
    """What the node was given, ready to be used at every sampling."""

    backbone: ComfyBackbone
    template: ComfyBackbone | None  # where the vanilla model has weights of its own
    prompts: _Prompts
    vanilla_model: object | None  # the host's MODEL
    latents: Tensor  # (1, C, h, w)
    mask: Tensor | None  # (1, 1, h, w)
    config: PickAndDrawConfig
    node_id: str | None  # under which warnings are shown


class GuidedSampling:
    """The host's wrappers. Between two samplings it holds nothing that a sampling has made."""

    def __init__(self, source: _Source, conds: list[Conditioning]):
        self.source = source
        self.conds = conds
        self.guidance: PickAndDraw | None = None

    def sample(self, executor, guider, *args, **kwargs):
        """Around a whole sampling, once the host has loaded the model."""
        with torch.inference_mode(False), _out_of_memory_named():
            self.guidance = self._prepare(guider)
        try:
            return executor(guider, *args, **kwargs)
        finally:
            self.guidance = None

    def predict_noise(self, executor, x: Tensor, timestep: Tensor, *args, **kwargs):
        """Around each evaluation of the model. The sampler's own latents, (B, C, H, W), are moved, in place."""
        if self.guidance is not None and self.guidance.covers(timestep[0].item()):
            x.copy_(self._moved(x, timestep))
        return executor(x, timestep, *args, **kwargs)

    def _moved(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode(False), _out_of_memory_named():
            moved = self.guidance(x.clone(), sigma.clone())  # clones: no inference tensors
        logging.debug("Pick-and-Draw: %s", self.guidance.history[-1])
        if self.guidance.warning:
            show_text(self.source.node_id, self.guidance.warning)
            self.guidance.warning = ""
        return moved

    def _prepare(self, guider) -> PickAndDraw:
        source = self.source
        if guider.inner_model is not source.backbone.model:
            raise ValueError(
                "the sampler's model is another copy than the one that Pick-and-Draw Guidance patched. Connect the "
                "node's MODEL to the sampler without nodes that copy models between them."
            )
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
            source.backbone.sigmas,
            source.config,
            source.mask,
        )

    def _template(self, patcher) -> PromptedDenoiser | None:
        """The vanilla model with the class word; None where that is what is sampled, and has no layout of its own."""
        source, cond, prompt = self.source, self.conds[2], self.source.prompts.template
        if source.template is not None:
            return with_conditioning(source.template, cond, prompt.tokens)
        patches = merges(patcher.patches) if source.vanilla_model is None else source.vanilla_model.patches
        weights = vanilla_weights(patcher, patches)
        plain = with_conditioning(source.backbone, cond, prompt.tokens)
        if not weights:
            return None if self._same_prompt() else plain

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with with_weights(patcher.model, weights):
                return plain.denoise(x, sigma)

        return plain._replace(denoise=denoise)

    def _same_prompt(self) -> bool:
        """Whether the template's prompt means what is sampled, however it is spelled."""
        sampled, template = (self.conds[at].context for at in (0, 2))
        same_word = self.source.prompts.generation.tokens == self.source.prompts.template.tokens
        return same_word and sampled.shape == template.shape and torch.equal(sampled, template)


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
        raise RuntimeError(OUT_OF_MEMORY) from error


def _prompts(tokenizer, prompt: str, subject_word: str, class_word: str, reference_prompt: str) -> _Prompts:
    """Raises ValueError where a prompt does not hold its word."""
    text, word = spelled_out(tokenizer, prompt), spelled_word(tokenizer, subject_word)
    if word.startswith("embedding:") and not class_word.strip():
        raise ValueError(f"class_word is empty. Say what {word} is, in a word that the plain model knows: cat.")
    class_word = class_word.strip() or word
    reference = spelled_out(tokenizer, reference_prompt).strip() or f"a photo of a {word}"

    def found(text: str, word: str) -> _Prompt:
        return _Prompt(text, token_positions(tokenizer, text, word))

    generation, plain = found(text, word), class_prompt(text, word, class_word)
    if plain == text and class_word != word:
        raise ValueError(
            f"subject_word {word!r} is in the prompt {text!r} by its tokens, but not as it is written. Write it alike."
        )
    return _Prompts(generation, found(reference, word), found(plain, class_word))


def class_prompt(prompt: str, word: str, class_word: str) -> str:
    """The prompt with the class word in the place of the subject's, wherever that stands as a word.

    The names of learned words are left alone: a cat beside embedding:my-cat.
    """
    pattern = rf"(?P<subject>(?<!\w){re.escape(word)}(?!\w))|embedding:\S+"
    return re.sub(pattern, lambda m: class_word if m["subject"] else m[0], prompt, flags=re.IGNORECASE)


def _conditioning(encoded: list, family: str) -> Conditioning:
    """The host's CONDITIONING as the core's, with no inference tensors in it."""
    if len(encoded) > 1:
        raise ValueError(
            "clip has LoRA or other hooks that change along the schedule, which guidance cannot follow. Remove their "
            "keyframes."
        )
    ((context, extra),) = encoded
    return Conditioning(context.clone(), extra["pooled_output"].clone() if family == "sdxl" else None)


def _reference_latents(
    backbone: ComfyBackbone, image: Tensor, mask: Tensor | None, resolution: int
) -> tuple[Tensor, Tensor | None]:
    """image: (1, H, W, C); mask: (1, H, W). Returns (1, C, h, w) and (1, 1, h, w)."""
    if len(image) != 1:
        raise ValueError(
            f"image holds {len(image)} pictures; the guidance takes one. Choose one, for example with ImageFromBatch."
        )
    if mask is not None and len(mask) != 1:
        raise ValueError(f"mask holds {len(mask)} masks; connect the one that belongs to the reference picture.")
    picture = check_image("image", image[0])
    size = training_size(*picture.shape[:2], resolution or RESOLUTIONS[backbone.family])
    latents = backbone.encode_image(resize_to_cover(picture, size))
    if mask is None:
        return latents, None
    return latents, latent_mask(check_mask("mask", mask[0], picture), size, latents)


def _other_backbone(vanilla_model, model, clip, vae) -> ComfyBackbone | None:
    """For a vanilla model with weights of its own; None where it shares the model's and differs in its LoRA only."""
    if vanilla_model.is_clone(model):
        return None
    try:
        return ComfyBackbone(vanilla_model, clip, vae)
    except ValueError as error:
        raise ValueError(f"vanilla_model does not fit. {error}") from error


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL, with or without LoRA. Left as it was."),
        io.Clip.Input("clip", tooltip="Of the same checkpoint, or of Load PALP LoRA for a learned word."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input("image", tooltip="One reference picture: the look of its subject is taken over."),
        io.String.Input(
            "prompt",
            default="a sketch of a cat in Paris at night",
            multiline=True,
            dynamic_prompts=True,
            tooltip="The picture to sample. It must hold the subject word.",
        ),
        io.String.Input(
            "subject_word",
            default="cat",
            tooltip="The word for the subject as it stands in the prompt, or a learned word: embedding:NAME, or [V].",
        ),
        io.String.Input(
            "class_word",
            default="",
            tooltip="What a learned word stands for, in a word the plain model knows: cat. Empty: the subject word.",
        ),
        io.Model.Input(
            "vanilla_model",
            optional=True,
            tooltip="The model that draws the layout. Not connected: the same model without its LoRA.",
        ),
        io.Mask.Input("mask", optional=True, tooltip="White where the reference shows the subject; of its size."),
        io.Float.Input(
            "pick_weight",
            default=DEFAULT.pick_weight,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="How strongly the subject's look is taken from the reference. 0: not at all. Typical 0.5 to 2.",
        ),
        io.Float.Input(
            "draw_weight",
            default=DEFAULT.draw_weight,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="How strongly the layout is taken from the vanilla model. 0: not at all. Typical 0.1 to 1.",
        ),
        io.Float.Input(
            "step_size",
            default=DEFAULT.step_size,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Guidance scale: how far the latents move at each guided step. Typical 0.02 to 0.2; 0 is off.",
        ),
        io.Int.Input(
            "iterations",
            default=DEFAULT.iterations,
            min=1,
            max=50,
            tooltip="Moves before each guided sampler step: 1 to 5. The first makes it as long as three or four.",
        ),
        io.Float.Input(
            "start_percent",
            default=DEFAULT.start_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the schedule guidance starts; 0 is the first step.",
        ),
        io.Float.Input(
            "end_percent",
            default=DEFAULT.end_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the schedule it ends. Later steps are not guided and cost nothing more.",
        ),
        io.Float.Input(
            "threshold",
            default=DEFAULT.threshold,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="Attention, from 0 to 1, above which a place belongs to the subject. Typical 0.3 to 0.6.",
            extra_dict=ADVANCED,
        ),
        io.Combo.Input(
            "reference",
            options=list(get_args(Reference)),
            default=DEFAULT.reference,
            tooltip="noise: the reference with plain noise. inversion: DDIM inversion; 25 more evaluations in a run.",
            extra_dict=ADVANCED,
        ),
        io.String.Input(
            "reference_prompt",
            default="",
            tooltip='What the reference shows, with the subject word. Empty: "a photo of a" and the subject word.',
            extra_dict=ADVANCED,
        ),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=2048,
            step=64,
            tooltip="The reference is brought to about this size squared, pixels. 0: 512 for SD 1.x, 768 for 2.x, "
            "1024 for SDXL.",
            extra_dict=ADVANCED,
        ),
        io.Int.Input(
            "seed",
            default=DEFAULT.seed,
            min=0,
            max=2**63 - 1,
            control_after_generate=False,
            tooltip="Of the reference's noise. On a GPU the same seed repeats a picture up to its kernels' rounding.",
            extra_dict=ADVANCED,
        ),
    ]
