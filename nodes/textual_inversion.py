"""Textual Inversion Train: learn a word from a few images, for any prompt (arXiv 2208.01618)."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..palp_core.files.embedding_file import check_can_save, first_writable_folder
from ..palp_core.methods.textual_inversion import (
    MOST_VECTORS,
    Concept,
    Kind,
    TextualInversion,
    TextualInversionConfig,
    save_word,
)
from ..palp_core.training.chart import loss_chart
from .host.backbone import ComfyBackbone
from .host.progress import TrainingProgress, show_text
from .host.session import train
from .host.text import clip_with_words
from .widgets import (
    ADVANCED,
    CATEGORY,
    NO_EMBEDDING,
    batch_size_input,
    config_fields,
    gradient_checkpointing_input,
    images_input,
    initial_embedding,
    initial_embedding_input,
    initial_embedding_time,
    masks_input,
    precision_input,
    resolution_input,
    seed_input,
    unbatch,
)

HOST_SUFFIXES = (".safetensors", ".pt", ".bin")  # with which the host looks for embedding:NAME
NAME = "Textual Inversion Train"
DEFAULT = TextualInversionConfig()


class TextualInversionTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_TextualInversionTrain",
            display_name=NAME,
            category=CATEGORY,
            description=(
                "Learns a word for your subject or style from 3 to 5 images; the model itself is not changed. Saves it "
                "in the embeddings folder: write embedding:NAME in any prompt, in this run and later."
            ),
            search_aliases=["palp", "textual inversion", "train embedding", "learn word", "embedding", "style"],
            is_input_list=True,
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="Knows the word, for CLIP Text Encode in the same run."),
                io.String.Output(display_name="embedding", tooltip="embedding:NAME, as it is written in prompts."),
                io.Image.Output(display_name="loss_chart", tooltip="The history of the loss as a picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, model, clip, vae, images, masks=None, **widgets):
        model, clip, vae = model[0], clip[0], vae[0]
        widgets = {name: value[0] for name, value in widgets.items()}
        overwrite = widgets["overwrite"]
        folder = first_writable_folder(folder_paths.get_folder_paths("embeddings"))
        name = check_can_save(folder, widgets["name"], overwrite)
        _check_no_namesake(folder, name)
        with torch.inference_mode(False):
            concept = Concept(
                images=tuple(unbatch(images)),
                initial_word=widgets["initial_word"],
                kind=widgets["learn"],
                masks=tuple(unbatch(masks or {})),
                templates=_lines(widgets["templates"]),
                captions=_lines(widgets["captions"]),
                initial_embedding=initial_embedding(widgets.get("initial_embedding", NO_EMBEDDING)),
            )
            config = TextualInversionConfig(**config_fields(TextualInversionConfig, widgets))
            backbone = ComfyBackbone(model, clip, vae, widgets["precision"])
            run = TextualInversion(backbone, concept, config)
            progress = TrainingProgress(cls.hidden.unique_id, config.steps)

            def save(where: Path) -> Path:
                return save_word(run, where, name, overwrite=overwrite and where == folder)

            path = train(run, progress, save, folder, NAME)
        word = f"embedding:{path.stem}"
        show_text(cls.hidden.unique_id, f"saved as {path.name}. Write {word} in any prompt, a space or comma after it.")
        chart = loss_chart(progress.history)[None]
        preview = ui.PreviewImage(chart, cls=cls)
        return io.NodeOutput(clip_with_words(clip, {word: run.weights.vectors}), word, chart, ui=preview)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Run again when the initial embedding has been replaced, but not where this node itself did that."""
        own = [f"{name.strip().removesuffix('.safetensors')}.safetensors" for name in inputs.get("name") or [] if name]
        return None if inputs.get("initial_embedding") == own else initial_embedding_time(inputs)


def _check_no_namesake(folder: Path, name: str) -> None:
    """The host looks in several folders, and takes .pt and .bin files too: another file of the name may come first."""
    ours = folder / f"{name}.safetensors"
    for place in map(Path, folder_paths.get_folder_paths("embeddings")):
        for path in place.rglob(f"{name}.*"):
            if path.suffix in HOST_SUFFIXES and path.resolve() != ours.resolve():
                raise ValueError(f"name: embedding:{name} would also mean {path}. Choose another name.")


def _lines(text: str) -> tuple[str, ...]:
    """One text a line; empty lines do not count."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. It is left as it was."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint. It is left as it was."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        images_input(usual="3 to 5"),
        io.String.Input(
            "name",
            default="my_word",
            tooltip="Of the word and its file in the embeddings folder: you write embedding:NAME in prompts.",
        ),
        io.String.Input(
            "initial_word",
            default="cat",
            tooltip="Coarsely what it is, in one word the model knows: cat, toy, man, painting. Learning starts there.",
        ),
        io.Combo.Input(
            "learn",
            options=list(get_args(Kind)),
            tooltip="object: what the images show. style: how they are made; initial word then for example painting.",
        ),
        io.Int.Input(
            "vectors",
            default=DEFAULT.vectors,
            min=1,
            max=MOST_VECTORS,
            tooltip="Tokens the word takes up. 1 follows prompts best; more copy the images better.",
        ),
        io.Int.Input(
            "steps",
            default=DEFAULT.steps,
            min=1,
            max=100_000,
            tooltip="500 to 5000. More: more like the images, less like the rest of the prompt.",
        ),
        io.Float.Input(
            "learning_rate",
            default=DEFAULT.learning_rate,
            min=1e-6,
            max=1e-1,
            step=1e-5,
            round=1e-6,
            tooltip="5e-4 to 5e-3. Larger is faster and less steady.",
        ),
        seed_input("images"),
        masks_input(),
        io.Boolean.Input(
            "overwrite",
            default=False,
            tooltip="Replace the file if the embeddings folder has one of this name. Off: the run is refused.",
            extra_dict=ADVANCED,
        ),
        io.String.Input(
            "templates",
            default="",
            multiline=True,
            tooltip="Own sentences to learn with, one a line, {} for the word: a photo of a {}. Empty: neutral ones.",
            extra_dict=ADVANCED,
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            tooltip="A line for each image in order, {} for the word: {} on a sofa. What they name is not learned.",
            extra_dict=ADVANCED,
        ),
        batch_size_input(DEFAULT.batch_size),
        resolution_input(DEFAULT.resolution, "Images"),
        io.Boolean.Input(
            "hold_norm",
            default=DEFAULT.hold_norm,
            tooltip="Keep the word no stronger than the model's own words, so that it leaves room for the others.",
            extra_dict=ADVANCED,
        ),
        io.Float.Input(
            "regularization",
            default=DEFAULT.regularization,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="Pull towards the initial word: 0 is off, up to 1. More follows prompts better, copies less.",
            extra_dict=ADVANCED,
        ),
        precision_input("word"),
        gradient_checkpointing_input(DEFAULT.gradient_checkpointing),
        initial_embedding_input("initial word"),
    ]
