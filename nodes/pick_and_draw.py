"""Pick-and-Draw Guidance: the look of one reference picture on the stock samplers, without training."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig
from .host.backbone import ComfyBackbone
from .host.compat import ADVANCED
from .host.guidance_inputs import as_conditioning, read_prompts, read_reference, template_backbone
from .host.guided_sampling import GuidanceSource, guided_model
from .host.progress import show_text
from .host.reader import PromptReader
from .widgets import CATEGORY, widget

SETTINGS = ("pick_weight", "draw_weight", "step_size", "iterations", "start_percent", "end_percent")
ADVANCED_SETTINGS = ("threshold", "reference")


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
                io.Model.Output(
                    display_name="model", tooltip="Goes to a KSampler, which is then guided while it samples."
                ),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="Is the encoded prompt, for the KSampler's positive input."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, clip, vae, image, prompt, subject_word, class_word, base_model=None, mask=None, **widgets):
        resolution, reference_prompt = widgets.pop("resolution"), widgets.pop("reference_prompt")
        config = PickAndDrawConfig(**widgets)
        reader = PromptReader(model, clip)
        prompts = read_prompts(clip.tokenizer, reader.find, prompt, subject_word, class_word, reference_prompt)
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(p.text)) for p in prompts]
        if not config.active:
            return io.NodeOutput(model, encoded[0])
        with torch.inference_mode(False):
            backbone = ComfyBackbone(model, clip, vae)
            latents, latents_mask, note = read_reference(backbone, image, mask, resolution)
            draws = base_model is not None and config.draw_weight > 0
            template = template_backbone(base_model, model, clip, vae) if draws else None
            node_id = cls.hidden.unique_id
            source = GuidanceSource(backbone, template, prompts, base_model, latents, latents_mask, config, node_id)
            conds = [as_conditioning(one) for one in encoded]
        if note:
            logging.warning(note)
            show_text(node_id, note)
        return io.NodeOutput(guided_model(source, conds), encoded[0])


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        io.Model.Input(
            "model", tooltip="Takes Stable Diffusion 1.x, 2.x or SDXL, with or without LoRA. Left as it was."
        ),
        io.Clip.Input(
            "clip", tooltip="Takes the CLIP of the same checkpoint, or of Load PALP LoRA for a learned word."
        ),
        io.Vae.Input("vae", tooltip="Takes the VAE of the same checkpoint."),
        io.Image.Input("image", tooltip="Takes one reference picture: the look of its subject is taken over."),
        io.String.Input(
            "prompt",
            default="a sketch of a cat in Paris at night",
            multiline=True,
            dynamic_prompts=True,
            tooltip="Describes the picture to sample. It must hold the subject word.",
        ),
        io.String.Input(
            "subject_word",
            default="cat",
            tooltip="Names the subject as it stands in the prompt: a word, or a learned word: embedding:NAME, or [V].",
        ),
        io.String.Input(
            "class_word",
            default="",
            tooltip="Says what a learned word stands for, in a word the base model knows; empty is the subject word.",
        ),
        io.Model.Input(
            "base_model",
            optional=True,
            tooltip="Takes the model that draws the layout; without, it is the same model without its LoRA.",
        ),
        io.Mask.Input("mask", optional=True, tooltip="Is white where the reference shows the subject; of its size."),
        *(widget(PickAndDrawConfig, name) for name in SETTINGS),
        *(widget(PickAndDrawConfig, name, advanced=True) for name in ADVANCED_SETTINGS),
        io.String.Input(
            "reference_prompt",
            default="",
            tooltip='Says what the reference shows, with the subject word; empty is "a photo of a" and that word.',
            extra_dict=ADVANCED,
        ),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=2048,
            step=64,
            tooltip="Brings the reference to about this many pixels squared; 0 is the model's own resolution.",
            extra_dict=ADVANCED,
        ),
        widget(PickAndDrawConfig, "seed", advanced=True),
    ]
