"""Inputs that several nodes have: photos, masks, and what a subject is."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import get_args

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..palp_core.files.embedding_file import Embedding, load_embedding
from ..palp_core.methods.personalization import Subject
from ..palp_core.models.backbone import Precision

CATEGORY = "PALP"
MOST_IMAGES = 16
ADVANCED = {"advanced": True}
NO_EMBEDDING = "none"

Subjects = io.Custom("PALP_SUBJECTS")


def images_input(usual: str = "1 to 8") -> io.Autogrow.Input:
    template = io.Autogrow.TemplatePrefix(
        io.Image.Input("image", tooltip="One or more photos of the subject. Sizes may differ between inputs."),
        prefix="image",
        min=1,
        max=MOST_IMAGES,
    )
    return io.Autogrow.Input("images", template=template, tooltip=f"Photos of the subject; {usual} are usual.")


def masks_input() -> io.Autogrow.Input:
    template = io.Autogrow.TemplatePrefix(
        io.Mask.Input("mask", tooltip="White where the subject is; of its image's size.", optional=True),
        prefix="mask",
        min=0,
        max=MOST_IMAGES,
    )
    return io.Autogrow.Input(
        "masks",
        template=template,
        optional=True,
        tooltip="One mask for each photo, in the same order: only the white part is learned. None: all of it is.",
    )


def class_word_input(default: str) -> io.String.Input:
    return io.String.Input(
        "class_word",
        default=default,
        tooltip="What the subject is, in a word the model knows: cat, toy, man, painting. Learning starts from it.",
    )


def placeholder_input(default: str) -> io.String.Input:
    return io.String.Input(
        "placeholder",
        default=default,
        tooltip="The subject's name in prompts, in square brackets. Each subject needs its own.",
        extra_dict=ADVANCED,
    )


def personalization_prompt_input() -> io.String.Input:
    return io.String.Input(
        "personalization_prompt",
        default="",
        tooltip=(
            'The neutral prompt under which the photos are learned. Empty: "a photo of [V]". '
            'For an artwork: "an oil painting of [V]".'
        ),
        extra_dict=ADVANCED,
    )


def seed_input(what: str) -> io.Int.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**63 - 1,
        control_after_generate=False,
        tooltip=f"Same seed, same {what}, same machine: same result, on a GPU up to rounding.",
    )


def batch_size_input(default: int) -> io.Int.Input:
    return io.Int.Input(
        "batch_size",
        default=default,
        min=1,
        max=64,
        tooltip="Images per step. More is steadier, slower, and takes more memory.",
        extra_dict=ADVANCED,
    )


def resolution_input(default: int, what: str) -> io.Int.Input:
    return io.Int.Input(
        "resolution",
        default=default,
        min=64,
        max=2048,
        step=64,
        tooltip=f"{what} are brought to about resolution x resolution pixels, keeping their aspect. SDXL: 1024.",
        extra_dict=ADVANCED,
    )


def precision_input(trained: str) -> io.Combo.Input:
    return io.Combo.Input(
        "precision",
        options=list(get_args(Precision)),
        default="auto",
        tooltip=f"What the model computes in; auto: what it would sample in. The {trained} is always trained in fp32.",
        extra_dict=ADVANCED,
    )


def gradient_checkpointing_input(default: bool) -> io.Boolean.Input:
    return io.Boolean.Input(
        "gradient_checkpointing",
        default=default,
        tooltip="Far less memory for about 30 % more time. Switch it on when memory runs out.",
        extra_dict=ADVANCED,
    )


def config_fields(config: type, widgets: dict) -> dict:
    """The widgets that carry the names of a config dataclass's fields."""
    return {field.name: widgets[field.name] for field in fields(config) if field.name in widgets}


def initial_embedding_input(word: str) -> io.Combo.Input:
    """word: what learning starts from where none is chosen. Optional, for workflows that were saved before it was."""
    return io.Combo.Input(
        "initial_embedding",
        options=[NO_EMBEDDING, *folder_paths.get_filename_list("embeddings")],
        default=NO_EMBEDDING,
        optional=True,
        tooltip=f"A word learned before, from the embeddings folder, to start from in place of the {word}.",
        extra_dict=ADVANCED,
    )


def initial_embedding_time(inputs: dict[str, list]) -> float | None:
    """When the file that was chosen in `initial_embedding_input` was written: a node that reads it runs again then.

    inputs: of a node that takes lists; what is linked is None in them.
    """
    (file_name,) = inputs.get("initial_embedding") or [None]
    path = file_name and folder_paths.get_full_path("embeddings", file_name)
    return os.path.getmtime(path) if path else None


def initial_embedding(file_name: str) -> Embedding | None:
    """What was chosen in `initial_embedding_input`. Raises ValueError for a file that is no embedding, or not safe."""
    if file_name == NO_EMBEDDING:
        return None
    return load_embedding(folder_paths.get_full_path_or_raise("embeddings", file_name))


def make_subject(
    images: dict[str, list[Tensor]],
    class_word: str,
    placeholder: str,
    personalization_prompt: str,
    masks: dict[str, list[Tensor]] | None,
    embedding_file: str,
) -> Subject:
    """The core's subject from what the sockets hold: each a list of batches, (B, H, W, C) or (B, H, W)."""
    return Subject(
        images=tuple(unbatch(images)),
        class_word=class_word,
        placeholder=placeholder.strip(),
        personalization_prompt=personalization_prompt,
        masks=tuple(unbatch(masks or {})),
        initial_embedding=initial_embedding(embedding_file),
    )


def unbatch(sockets: dict[str, list[Tensor]]) -> list[Tensor]:
    return [item for batches in sockets.values() for batch in batches for item in batch]
