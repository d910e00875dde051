"""Textual Inversion Train: learn a word from a few images, for any prompt (arXiv 2208.01618)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import get_args

import folder_paths
import torch
from comfy_api.latest import io

from ..palp_core.errors import FileError
from ..palp_core.files.embedding_file import fitting_vectors, load_embedding
from ..palp_core.files.names import check_file_name
from ..palp_core.files.run_folder import is_result
from ..palp_core.files.safetensors_file import first_writable_folder, reserve
from ..palp_core.methods.concept import Concept
from ..palp_core.methods.memory import fit_memory
from ..palp_core.methods.recording import Recording
from ..palp_core.methods.result import save_word, word_folder
from ..palp_core.methods.templates import Kind
from ..palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from ..palp_core.training.loop import Training
from .host.backbone import ComfyBackbone
from .host.session import runs_folder, trained
from .host.text import clip_with_words
from .options import Options, options_input
from .widgets import CATEGORY, checkpoint_inputs, first_fault, images_input, masks_input, unbatch, widget

HOST_SUFFIXES = (".safetensors", ".pt", ".bin")  # with which the host looks for embedding:NAME
NAME = "Textual Inversion Train"
SETTINGS = ("vectors", "steps", "learning_rate", "hold_norm", "regularization", "seed")


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
                io.Image.Output(display_name="loss_chart", tooltip="Shows the history of the loss."),
                io.Image.Output(
                    display_name="previews",
                    tooltip="Shows the pictures that were drawn while it trained, first with the word as it started.",
                ),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="Shows what of each image is learned: bright, and all else dark.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, name=None, images=None, masks=None):
        """Let the page mark the node before anything is loaded; a name that is linked is not known yet, and None.

        The host hands over growing inputs, too, and leaves its own checks of numbers out where it may hand over all.
        """
        return first_fault((partial(check_file_name, folder="embeddings"), name))

    @classmethod
    def execute(cls, model, clip, vae, images, masks=None, options=None, **widgets):
        model, clip, vae = model[0], clip[0], vae[0]
        widgets = {name: value[0] for name, value in widgets.items()}
        chosen = options[0] if options else Options()
        folder, overwrite = first_writable_folder(folder_paths.get_folder_paths("embeddings")), widgets["overwrite"]
        name = reserve(folder, widgets["name"], overwrite or is_result(runs_folder(), widgets["name"]))
        _check_no_namesake(folder, name)
        with torch.inference_mode(False):
            concept = _concept(images, masks, widgets, chosen)
            own = {name: widgets[name] for name in SETTINGS}
            config = TextualInversionConfig(**own, **chosen.shared)
            backbone = ComfyBackbone(model, clip, vae, chosen.precision, chosen.offloading)
            run = Training(TextualInversion(backbone, concept, config))
            fit_memory(run.method, chosen.memory, backbone.free_memory())
            kept = word_folder(run.method, runs_folder(), name, chosen.retrain)
            if kept.result(config.steps, [folder]) is None:
                reserve(folder, name, overwrite)
            recording = Recording(kept, run.method, chosen.previews)

            def save(where: Path) -> Path:
                return save_word(run, where, name, overwrite=overwrite and where == folder)

            done = trained(cls, run, recording, save, folder, [folder])
        word = f"embedding:{done.path.stem}"
        done.tell(f"Write {word} in any prompt, a space or comma after it.", *concept.notes)
        chart, pictures, overlay, shown = done.progress.ending(cls)
        known = clip_with_words(clip, {word: fitting_vectors(load_embedding(done.path), backbone)})
        return io.NodeOutput(known, word, chart, pictures, overlay, ui=shown)


def _concept(images: dict, masks: dict | None, widgets: dict, chosen: Options) -> Concept:
    return Concept(
        images=tuple(unbatch(images)),
        initial_word=widgets["initial_word"],
        kind=widgets["kind"],
        masks=tuple(unbatch(masks or {})),
        templates=_lines(widgets["templates"]),
        captions=_lines(widgets["captions"]),
        initial_embedding=chosen.initial_embedding,
        invert_masks=chosen.invert_masks,
    )


def _check_no_namesake(folder: Path, name: str) -> None:
    """The host looks in several folders, and takes .pt and .bin files too: another file of the name may come first."""
    ours = folder / f"{name}.safetensors"
    for place in map(Path, folder_paths.get_folder_paths("embeddings")):
        for path in place.rglob(f"{name}.*"):
            if path.suffix in HOST_SUFFIXES and path.resolve() != ours.resolve():
                raise FileError(f"name: embedding:{name} would also mean {path}. Choose another name.")


def _lines(text: str) -> tuple[str, ...]:
    """One text a line; empty lines do not count."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _inputs() -> list[io.Input]:
    """New ones go to the end: saved workflows hold widget values by position."""
    return [
        *checkpoint_inputs(),
        images_input(usual="3 to 5"),
        io.String.Input(
            "name",
            default="my_word",
            tooltip="Names the word and its file in the embeddings folder: you write embedding:NAME in prompts.",
        ),
        io.String.Input(
            "initial_word",
            default="cat",
            tooltip="Says coarsely what it is, in one word the model knows: cat, toy, painting. Learning starts there.",
        ),
        io.Combo.Input(
            "kind",
            options=list(get_args(Kind)),
            tooltip="Learns an object, which the images show, or a style, which is how they are made. For a style the "
            "initial word is for example painting.",
        ),
        *(widget(TextualInversionConfig, name) for name in SETTINGS),
        io.Boolean.Input(
            "overwrite",
            default=False,
            tooltip="Replaces the file if the embeddings folder has one of this name; without, the run is refused.",
        ),
        io.String.Input(
            "templates",
            default="",
            multiline=True,
            tooltip="Holds sentences of your own to learn with, one a line, {} for the word; empty takes neutral ones.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            tooltip="Describes each image in order, one a line, {} for the word. What a line names is not learned.",
        ),
        masks_input(),
        options_input(),
    ]
