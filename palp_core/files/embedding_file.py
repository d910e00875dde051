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

import torch
from torch import Tensor

from ..errors import FileError
from ..models.backbone import Backbone, WordVectors
from ..models.families import Family
from .metadata import WORD_KEY, model_spec, read_description, to_json
from .safetensors_file import claimed, read_metadata, read_tensors, save_tensors

SINGLE = "emb_params"
SDXL_KEYS = ("clip_l", "clip_g")
A1111_KEY = "string_to_param.*"
BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+)\.(?P<key>string_to_param\.\*|clip_[lg])")
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
    tensors, _ = read_tensors(path)
    vectors = {  # copies: what safetensors gives keeps the file open, which Windows then does not let be replaced
        key: rows.to(torch.float32, copy=True).reshape(-1, rows.shape[-1])
        for key, rows in _words(path.name, tensors).items()
    }
    counts = {len(rows) for rows in vectors.values()}
    if len(counts) > 1 or 0 in counts or not all(torch.isfinite(rows).all() for rows in vectors.values()):
        raise FileError(f"{path.name} holds no usable vectors. Copy or download it again.")
    return Embedding(path.name, vectors)


def _words(file_name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of a file, whatever their layout, under our keys."""
    tensors = _unbundled(file_name, tensors)
    fitting = {key: tensor for key, tensor in tensors.items() if tensor.ndim in (1, 2) and tensor.is_floating_point()}
    if all(key in fitting for key in SDXL_KEYS):
        return {key: fitting[key] for key in SDXL_KEYS}
    for key in (SINGLE, A1111_KEY):
        if key in fitting:
            return {SINGLE: fitting[key]}
    if len(tensors) == len(fitting) == 1:  # sd-concepts-library: the placeholder itself is the key
        return {SINGLE: next(iter(fitting.values()))}
    keys = ", ".join(list(tensors)[:4])
    raise FileError(
        f"{file_name} is not an embedding: it holds {len(tensors)} tensors ({keys}). Choose a textual inversion file."
    )


def _unbundled(file_name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The word inside a LoRA file; another file's tensors as they are."""
    matches = [(BUNDLED.fullmatch(key), tensor) for key, tensor in tensors.items()]
    bundled = [(match["name"], match["key"], tensor) for match, tensor in matches if match]
    names = sorted({name for name, _, _ in bundled})
    if len(names) > 1:
        raise FileError(
            f"{file_name} holds several words ({', '.join(names)}). Choose a file with one, to know which is meant."
        )
    return {key: tensor for _, key, tensor in bundled} or tensors


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
    numbered = (folder / f"{name}_{number}.safetensors" for number in count(2))
    with claimed(chain([target], numbered)) as target:
        save_tensors(target, tensors, describe(target.stem))
    return target


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


def described_word(path: str | Path) -> dict | None:
    """Return what one of our files says of its word; None for any other file. Raises FileError where damaged."""
    path = Path(path)
    return read_description(read_metadata(path), WORD_KEY, path.name)
