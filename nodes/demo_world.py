"""PALP Demo World: a small model of a small world, to try the other nodes on any machine."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..palp_core.toyworld import MODEL_FOLDER, scenes
from ..palp_core.toyworld.pictures import photos as photos_of
from ..palp_core.toyworld.scenes import caption, new_individual
from .host.demo_model import load_clip, load_model, load_vae
from .host.demo_transformer import load_transformer
from .widgets import CATEGORY

NONE = "none"
MODELS = {"unet": load_model, "transformer": load_transformer}


class PalpDemoWorld(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_DemoWorld",
            display_name="PALP Demo World",
            category=CATEGORY,
            description=(
                "A tiny diffusion model that comes with this pack, and photos of one of its inhabitants: everything to "
                "try PALP in two minutes, on any machine, with nothing to download. It draws 64 x 64 pixels of a world "
                "of its own and understands no other words than those of this node's choices."
            ),
            search_aliases=["palp", "demo", "toy world", "try", "example"],
            inputs=[
                io.Combo.Input(
                    "subject", options=list(scenes.CLASSES), tooltip="Chooses what kind of thing the photos show."
                ),
                io.Int.Input(
                    "individual",
                    default=1,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Chooses one of its kind: another number is another color, pattern and shape.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(scenes.STYLES),
                    default="sketch",
                    tooltip="Chooses the style that the prompt names.",
                ),
                io.Combo.Input(
                    "accessory",
                    options=[NONE, *scenes.ACCESSORIES],
                    default="hat",
                    tooltip="Chooses what else the prompt names.",
                ),
                io.Combo.Input(
                    "place",
                    options=[NONE, *scenes.PLACES],
                    default="beach",
                    tooltip="Chooses the place that the prompt names.",
                ),
                io.Int.Input("photos", default=1, min=1, max=4, tooltip="Makes so many photos of the subject."),
                io.Combo.Input(
                    "network",
                    options=list(MODELS),
                    tooltip="Chooses the kind of model: a UNet that predicts v, as Stable Diffusion's, or a "
                    "flow-matching transformer, as Z-Image's.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Is the demo world's base model."),
                io.Clip.Output(display_name="clip", tooltip="Knows the words of this node's choices."),
                io.Vae.Output(display_name="vae", tooltip="Makes 16 x 16 latents of 64 x 64 pixels."),
                io.Image.Output(display_name="images", tooltip="Shows photos of the individual, 64 x 64 pixels."),
                io.String.Output(display_name="class_word", tooltip="Goes to PALP Personalize."),
                io.String.Output(
                    display_name="target_prompt", tooltip="Goes to PALP Personalize, with [V] for the subject."
                ),
            ],
        )

    @classmethod
    def execute(cls, subject, individual, style, accessory, place, photos, network):
        named = [None if choice == NONE else choice for choice in (style, place, accessory)]
        return io.NodeOutput(
            MODELS[network](MODEL_FOLDER),
            load_clip(MODEL_FOLDER),
            load_vae(MODEL_FOLDER),
            torch.stack(photos_of(new_individual(individual, subject), photos)),
            subject,
            caption("a [V]", *named),
        )
