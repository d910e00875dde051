"""One .safetensors per training: the LoRA, the learned words, and metadata that says what it is and how to use it.

Keys: `lora_unet_*` in the kohya convention, and each word as `bundle_emb.NAME.*` beside them, as A1111 defined it and
ComfyUI reads it: `string_to_param.*` for one text encoder, `clip_l` and `clip_g` for SDXL's two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError
from ..models.families import FAMILIES, Family
from .metadata import LORA_KEY, damaged, kohya, model_spec, read_description, to_json
from .safetensors_file import claimed, read_tensors, save_tensors

SINGLE_ENCODER_KEY = "string_to_param.*"
SAVED_DTYPE = torch.float16


@dataclass(frozen=True)
class SubjectInfo:
    """What the file says of one subject."""

    placeholder: str
    class_word: str
    embedding: str  # NAME in `embedding:NAME`
    personalization_prompt: str
    images: int


@dataclass(frozen=True)
class LoraInfo:
    """The file's own description, stored as JSON under the metadata key `palp`."""

    version: str
    family: str
    prediction: str
    rank: int
    alpha: float
    target_prompt: str
    clean_prompt: str
    prompt: str  # the target prompt as a user types it: with embedding:NAME
    steps: int
    subjects: tuple[SubjectInfo, ...]
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class LoraFile:
    """A file's content. words: embedding name -> encoder (clip_l, clip_g, clip_h) -> (N, C)."""

    lora: dict[str, Tensor]
    words: dict[str, dict[str, Tensor]]
    info: LoraInfo

    @property
    def projections(self) -> int:
        """How many projections of the denoiser it changes."""
        return sum(key.endswith(".lora_up.weight") for key in self.lora)


def save_lora_file(content: Callable[[str], LoraFile], folder: str | Path, name: str) -> Path:
    """Write folder/NAME_00001.safetensors, at the first free number; returns the path.

    content: the file's final name, without its suffix -> what is written. The file appears whole or not at all and
    never replaces another.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(_numbered(folder, name)) as target:
        file = content(target.stem)
        save_tensors(target, _tensors(file), _metadata(file, target.stem))
    return target


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    return (folder / f"{name}_{number:05}.safetensors" for number in count(1))


def _tensors(content: LoraFile) -> dict[str, Tensor]:
    tensors = dict(content.lora)
    for name, word in content.words.items():
        for encoder, vectors in word.items():
            key = encoder if len(word) > 1 else SINGLE_ENCODER_KEY
            tensors[f"bundle_emb.{name}.{key}"] = vectors
    return {key: tensor.to(SAVED_DTYPE) for key, tensor in tensors.items()}


def _metadata(content: LoraFile, title: str) -> dict[str, str]:
    """Ours under one key, and the fields in which other tools look for trigger words and settings."""
    info, family, resolution = content.info, FAMILIES[content.info.family], content.info.settings["resolution"]
    spec = model_spec(
        family,
        info.prediction,
        "lora",
        title,
        f"PALP personalization for: {info.target_prompt}",
        resolution,
        ", ".join(content.words),
        f"ComfyUI: {info.prompt}",
    )
    images = {subject.embedding: subject.images for subject in info.subjects}
    trained = kohya(
        family, title, info.rank, info.alpha, info.steps, info.settings, resolution, images, comment=info.prompt
    )
    return {LORA_KEY: to_json(asdict(info)), "trained_words": to_json(list(content.words)), **spec, **trained}


def load_lora_file(path: str | Path) -> LoraFile:
    """Read a file of ours. Raises FileError when it is corrupt, or was made by something else."""
    path = Path(path)
    tensors, metadata = read_tensors(path)
    found = read_description(metadata, LORA_KEY, path.name)
    if found is None:
        raise FileError(f"{path.name} was not made by PALP: it says nothing of itself. Use ComfyUI's Load LoRA for it.")
    try:
        info = _info(found)
        words = _words(tensors, info)
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path.name, error) from error
    return LoraFile({k: v for k, v in tensors.items() if not k.startswith("bundle_emb.")}, words, info)


def _info(found: dict) -> LoraInfo:
    """Fields that a later version added are passed over."""
    known = {k: v for k, v in found.items() if k in LoraInfo.__dataclass_fields__}
    subject_fields = SubjectInfo.__dataclass_fields__
    subjects = tuple(SubjectInfo(**{k: v for k, v in s.items() if k in subject_fields}) for s in known["subjects"])
    return LoraInfo(**{**known, "subjects": subjects})


def _word_keys(family: Family) -> dict[str, str]:
    """Encoder -> the last part of its key."""
    if len(family.encoders) == 1:
        return {family.encoders[0]: SINGLE_ENCODER_KEY}
    return {encoder: encoder for encoder in family.encoders}


def _words(tensors: dict[str, Tensor], info: LoraInfo) -> dict[str, dict[str, Tensor]]:
    keys = _word_keys(FAMILIES[info.family])
    return {
        s.embedding: {encoder: tensors[f"bundle_emb.{s.embedding}.{key}"].float() for encoder, key in keys.items()}
        for s in info.subjects
    }
