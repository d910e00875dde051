"""Inputs that several nodes have, and widgets that are made from the core's settings."""

from __future__ import annotations

import os
from collections.abc import Callable

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..palp_core.errors import PalpError
from ..palp_core.files.embedding_file import Embedding, load_embedding
from ..palp_core.methods.subjects import Subject
from ..palp_core.settings import Setting, choices_of, default_of, setting_of
from .host.compat import ADVANCED

CATEGORY = "PALP"
MOST_IMAGES = 16
NO_EMBEDDING = "none"

Subjects = io.Custom("PALP_SUBJECTS")


def checkpoint_inputs() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="Takes a base model: Z-Image, FLUX, Qwen-Image, Stable Diffusion or another of the help page.",
        ),
        io.Clip.Input("clip", tooltip="Takes the text encoder that belongs to the model."),
        io.Vae.Input("vae", tooltip="Takes the VAE that belongs to the model."),
    ]


def first_fault(*checks: tuple[Callable[[str], object], list[str | None] | None]) -> bool | str:
    """Return the first sentence that checks raise for an input's values, or True; for the host's `validate_inputs`.

    checks: each with the values of its input, None for one that is not known yet, because it is linked.
    """
    for check, values in checks:
        try:
            for value in filter(lambda value: value is not None, values or ()):
                check(value)
        except PalpError as error:
            return str(error)
    return True


def widget(config: type, key: str, name: str = "", advanced: bool = False, multiline: bool = False) -> io.Input:
    """Make the widget of a config's setting: its kind and bounds, its default, and its help as tooltip.

    name: of the widget, where it is not the setting's own.
    """
    setting, default, name = setting_of(config, key), default_of(config, key), name or key
    shared = {"default": default, "tooltip": tooltip(setting), "extra_dict": ADVANCED if advanced else None}
    if choices := choices_of(config, key):
        return io.Combo.Input(name, options=list(choices), **shared)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **shared)
    if isinstance(default, str):
        return io.String.Input(name, multiline=multiline, **shared)
    if isinstance(default, int):
        bounds = {"min": int(setting.low), "max": int(setting.high), "step": int(setting.step)}
        return io.Int.Input(name, control_after_generate=False if name == "seed" else None, **bounds, **shared)
    finest = setting.step / 10
    low = finest if setting.open else float(setting.low)
    return io.Float.Input(name, min=low, max=float(setting.high), step=setting.step, round=finest, **shared)


def tooltip(setting: Setting) -> str:
    """Write a setting's help, and what is usual."""
    return f"{setting.help} Usual: {setting.usual}." if setting.usual else setting.help


def images_input(usual: str = "1 to 8") -> io.Autogrow.Input:
    template = io.Autogrow.TemplatePrefix(
        io.Image.Input("image", tooltip="Takes one or more photos of the subject, of any sizes."),
        prefix="image",
        min=1,
        max=MOST_IMAGES,
    )
    return io.Autogrow.Input("images", template=template, tooltip=f"Takes photos of the subject; {usual} are usual.")


def masks_input() -> io.Autogrow.Input:
    template = io.Autogrow.TemplatePrefix(
        io.Mask.Input(
            "mask", tooltip="Is white where the subject is, and of the same size as its photo.", optional=True
        ),
        prefix="mask",
        min=0,
        max=MOST_IMAGES,
    )
    return io.Autogrow.Input(
        "masks",
        template=template,
        optional=True,
        tooltip="Takes one mask for each photo, in the same order: only the white part is learned.",
    )


def captions_input() -> io.String.Input:
    return io.String.Input(
        "captions",
        optional=True,
        force_input=True,
        tooltip="Takes what else each photo shows, from PALP Photos or one line for each photo. What is named is not "
        "learned with the subject.",
    )


def class_word_input(default: str) -> io.String.Input:
    return io.String.Input(
        "class_word",
        default=default,
        tooltip="Says what the subject is, in a word the model knows: cat, toy, painting. Learning starts from it.",
    )


def placeholder_input(default: str) -> io.String.Input:
    return io.String.Input(
        "placeholder",
        default=default,
        tooltip="Names the subject in prompts, in square brackets. Each subject needs a name of its own.",
    )


def trigger_input() -> io.String.Input:
    return io.String.Input(
        "trigger",
        default="",
        tooltip=(
            "Stands before the class word where no word is learned: a text that means nothing to the model. "
            "Empty means ohwx, or another for a further subject."
        ),
    )


def retrain_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "retrain",
        default=False,
        tooltip="Trains from the beginning, also where the same training is there already, finished or not.",
    )


def personalization_prompt_input() -> io.String.Input:
    return io.String.Input(
        "personalization_prompt",
        default="",
        tooltip=(
            'Describes the photos neutrally; empty means "a photo of [V]". '
            'For an artwork write "an oil painting of [V]".'
        ),
    )


def initial_embedding_input() -> io.Combo.Input:
    return io.Combo.Input(
        "initial_embedding",
        options=[NO_EMBEDDING, *folder_paths.get_filename_list("embeddings")],
        default=NO_EMBEDDING,
        tooltip="Starts from a word learned before, of the embeddings folder, in place of the class word.",
    )


def initial_embedding_time(file_name: str | None) -> float | None:
    """Return when the file chosen in `initial_embedding_input` was written: who reads it runs again then.

    file_name: None where it is linked, and not known yet.
    """
    path = file_name and folder_paths.get_full_path("embeddings", file_name)
    return os.path.getmtime(path) if path else None


def load_initial_embedding(file_name: str) -> Embedding | None:
    """Load what was chosen in `initial_embedding_input`. Raises FileError for a file that is no embedding."""
    if file_name == NO_EMBEDDING:
        return None
    return load_embedding(folder_paths.get_full_path_or_raise("embeddings", file_name))


def make_subject(
    images: dict[str, list[Tensor]],
    masks: dict[str, list[Tensor]] | None,
    class_word: str,
    placeholder: str,
    personalization_prompt: str,
    initial_embedding: Embedding | None,
    trigger: str,
    invert_masks: bool = False,
    captions: list[str] | None = None,
) -> Subject:
    """Make the core's subject from what the sockets hold: each a list of batches, (B, H, W, C) or (B, H, W)."""
    photos = tuple(unbatch(images))
    return Subject(
        images=photos,
        class_word=class_word,
        placeholder=placeholder.strip(),
        personalization_prompt=personalization_prompt,
        masks=tuple(unbatch(masks or {})),
        initial_embedding=initial_embedding,
        trigger=trigger,
        invert_masks=invert_masks,
        captions=_one_each(captions or [], len(photos)),
    )


def _one_each(captions: list[str], photos: int) -> tuple[str, ...]:
    """One text for each photo: those of a list, or the lines of a single text for several photos."""
    return tuple(captions[0].splitlines() if len(captions) == 1 and photos > 1 else captions)


def unbatch(sockets: dict[str, list[Tensor]]) -> list[Tensor]:
    return [item for batches in sockets.values() for batch in batches for item in batch]
