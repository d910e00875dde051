"""Learned words as .safetensors files: how we save them, and every layout in which other tools do.

Ours is what ComfyUI and A1111 read: `emb_params` for the one text encoder of Stable Diffusion 1.x and 2.x, `clip_l` and
`clip_g` for SDXL's two, each (N, C) with N the number of vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from ..models.backbone import Backbone, WordVectors
from ..models.families import Family
from .checks import FLOATS, Layout, Source, check_word
from .description import check_model, checked_fields, read_description
from .metadata import WORD_KEY, model_spec, to_json
from .names import printable
from .reading import opened
from .safetensors_file import Content, save_new, save_tensors

SINGLE = "emb_params"
SDXL_KEYS = ("clip_l", "clip_g")
A1111_KEY = "string_to_param.*"
BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+)\.(?P<key>string_to_param\.\*|emb_params|clip_[lg]|t5xxl|t5)")
SUFFIXES = (".safetensors", ".sft")


@dataclass(frozen=True)
class Embedding:
    """A word learned before, as a file holds it."""

    #: What errors call it.
    name: str
    #: Encoder -> (N, C), float32; one whose encoder is not told, as in files for SD 1.x and 2.x, is `emb_params`.
    vectors: WordVectors


def fitting_vectors(embedding: Embedding, backbone: Backbone) -> dict[str, Tensor]:
    """An embedding's vectors by the names of the model's text encoders. Raises FileError where they do not fit."""
    vectors = {encoder: rows.clone() for encoder, rows in embedding.vectors.items()}  # the run's own
    if len(backbone.family.encoders) == 1 and vectors.keys() == {SINGLE}:
        vectors = {backbone.family.encoders[0]: vectors[SINGLE]}
    wanted = {name: table.shape[1] for name, table in backbone.token_embeddings().items()}
    found = {name: rows.shape[1] for name, rows in vectors.items()}
    if found != wanted:
        raise FileError(
            f"initial_embedding {embedding.name} holds {_widths(found)}, but the model has {_widths(wanted)}. "
            "Choose an embedding that was made for a model of the same family."
        )
    return vectors


def _widths(widths: Mapping[str, int]) -> str:
    return " and ".join(f"{name} of width {width}" for name, width in widths.items())


def load_embedding(path: str | Path) -> Embedding:
    """Read a .safetensors file of ours, of A1111, of kohya, of diffusers or sd-concepts-library, or a PALP LoRA file.

    Raises FileError for any other file; files that can hold program code are refused unread.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise FileError(
            f"{path.name} is of a kind that may hold program code, and is not opened. Save it again as .safetensors: "
            "the help page of Textual Inversion Train has the lines of Python that do it."
        )
    with opened(path) as file:
        parts = _word(file.source, file.layouts)
        check_word(file.source, path.stem, parts, file.layouts)
        tensors = file.tensors(parts.values())
    return Embedding(path.name, {encoder: rows_of(tensors[key]) for encoder, key in parts.items()})


def rows_of(vectors: Tensor) -> Tensor:
    """Return the vectors of a word as (N, C), float32; sd-concepts-library has one vector as (C,)."""
    return vectors.float().reshape(-1, vectors.shape[-1])


def _word(source: Source, layouts: Mapping[str, Layout]) -> dict[str, str]:
    """The word of a file, whatever its layout: our key -> the file's."""
    keys = _unbundled(source, list(layouts))
    fitting = {
        ours: key for ours, key in keys.items() if len(layouts[key].shape) in (1, 2) and layouts[key].dtype in FLOATS
    }
    if all(key in fitting for key in SDXL_KEYS):
        return {key: fitting[key] for key in SDXL_KEYS}
    for key in (SINGLE, A1111_KEY):
        if key in fitting:
            return {SINGLE: fitting[key]}
    if len(keys) == len(fitting) == 1:  # sd-concepts-library: the placeholder itself is the key
        return {SINGLE: next(iter(fitting.values()))}
    some = printable(", ".join(list(keys)[:4]))
    raise FileError(
        f"{source.name} is not an embedding: it holds {len(keys)} tensors ({some}). Choose a textual inversion file."
    )


def _unbundled(source: Source, keys: list[str]) -> dict[str, str]:
    """The parts of the word inside a LoRA file, else all of the file's tensors: the end of a key -> the key."""
    bundled = [match for key in keys if (match := BUNDLED.fullmatch(key))]
    names = sorted({match["name"] for match in bundled})
    if len(names) > 1:
        raise FileError(
            f"{source.name} holds several words ({printable(', '.join(names))}). Choose a file with one, to know which "
            "is meant."
        )
    return {match["key"]: match[0] for match in bundled} or {key: key for key in keys}


def save_embedding(
    vectors: WordVectors,
    describe: Callable[[str], dict[str, str]],
    folder: str | Path,
    name: str,
    overwrite: bool = False,
) -> Path:
    """Write folder/NAME.safetensors, whole or not at all; returns the path.

    vectors: encoder -> (N, C). describe: final name -> metadata. Unless told to overwrite, a name that is taken gets a
    number: NAME_2.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(vectors) if len(vectors) > 1 else {SINGLE: next(iter(vectors.values()))}
    target = folder / f"{name}.safetensors"
    if overwrite:
        save_tensors(target, tensors, describe(name))
        return target

    def written(target: Path) -> Content:
        return tensors, describe(target.stem)

    numbered = (folder / f"{name}_{number}.safetensors" for number in count(2))
    return save_new(chain([target], numbered), written)


def word_metadata(info: dict, family: Family, resolution: int, name: str) -> dict[str, str]:
    """Write ours under one key, and the fields in which other tools look. info: what the file says of its word."""
    spec = model_spec(
        family,
        info["prediction"],
        "textual-inversion",
        name,
        f"A word learned by Textual Inversion from {info['images']} images",
        resolution,
        name,
        f"ComfyUI: embedding:{name}",
    )
    return {WORD_KEY: to_json(info), **spec}


@dataclass(frozen=True)
class WordInfo:
    """What one of our files says of its word, stored as JSON under the metadata key `palp_embedding`."""

    version: str
    family: str
    prediction: str
    initial_word: str | None
    initial_embedding: str | None
    kind: str
    vectors: int
    images: int
    steps: int
    settings: dict


def described_word(path: str | Path) -> dict | None:
    """Return what one of our files says of its word; None for any other file. Raises FileError where damaged."""
    with opened(Path(path)) as file:
        found = read_description(file.source, file.metadata, WORD_KEY)
    if found is None:
        return None
    info = checked_fields(file.source, WordInfo, found)
    check_model(file.source, info["family"], info["prediction"])
    return info
