"""One .safetensors per training: the LoRA, the learned words, and metadata that says what it is and how to use it.

Keys: `lora_unet_*` in the kohya convention, and each word as `bundle_emb.NAME.*` beside them, as A1111 defined it and
ComfyUI reads it: `string_to_param.*` for one text encoder, `clip_l` and `clip_g` for SDXL's two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError
from ..models.families import FAMILIES, Family
from ..models.prompts import PLACEHOLDER
from .checks import UP, Layout, Source, check_alphas, check_lora, check_word
from .description import MOST_PROMPT, check_model, checked_fields, damaged, read_description
from .metadata import LAYERED_KEY, LORA_KEY, kohya, model_spec, to_json
from .names import is_of_letters, printable
from .reading import opened
from .safetensors_file import Content, save_new, save_tensors

SINGLE_ENCODER_KEY = "string_to_param.*"
SAVED_DTYPE = torch.float16
MOST_SUBJECTS = 100


@dataclass(frozen=True)
class SubjectInfo:
    """What the file says of one subject."""

    placeholder: str
    class_word: str
    embedding: str  # NAME in `embedding:NAME`; empty where no word was learned
    personalization_prompt: str
    images: int
    text: str = ""  # what stands for it in prompts where no word was learned: "ohwx cat"

    @property
    def spelled(self) -> str:
        """Spell it as it is typed in ComfyUI."""
        return self.text or f"embedding:{self.embedding}"


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
    prompt: str  # the target prompt as a user types it: with embedding:NAME, or the text
    steps: int
    subjects: tuple[SubjectInfo, ...]
    settings: dict = field(default_factory=dict)
    identity: str = ""  # of all that the training depended on, but for the number of steps


@dataclass(frozen=True)
class LoraFile:
    """A file's content. words: embedding name -> encoder (clip_l, clip_g, clip_h) -> (N, C)."""

    lora: dict[str, Tensor]
    words: dict[str, dict[str, Tensor]]
    info: LoraInfo

    @property
    def names(self) -> list[str]:
        """The projections of the denoiser that it changes, by their kohya names."""
        return [key.removesuffix(UP) for key in self.lora if key.endswith(UP)]

    @property
    def projections(self) -> int:
        """How many projections of the denoiser it changes."""
        return len(self.names)


#: What a program adds to a file's metadata for its own use: (content, the file's name without its suffix) -> fields.
MoreMetadata = Callable[[LoraFile, str], dict[str, str]]


def nothing_more(content: LoraFile, title: str) -> dict[str, str]:
    """Add nothing to a file's metadata."""
    return {}


def save_lora_file(
    content: Callable[[str], LoraFile], folder: str | Path, name: str, more: MoreMetadata = nothing_more
) -> Path:
    """Write folder/NAME_00001.safetensors, at the first free number; returns the path.

    content: the file's final name, without its suffix -> what is written. The file appears whole or not at all and
    never replaces another.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def written(target: Path) -> Content:
        file = content(target.stem)
        return _tensors(file), {**more(file, target.stem), **_metadata(file, target.stem)}

    return save_new(_numbered(folder, name), written)


def write_lora_file(file: Path, content: LoraFile) -> None:
    """Write a file of this name, in the place of an earlier one, whole or not at all. Raises OSError."""
    save_tensors(file, _tensors(content), _metadata(content, file.stem))


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    return (folder / f"{name}_{number:05}.safetensors" for number in count(1))


def _tensors(content: LoraFile) -> dict[str, Tensor]:
    tensors = dict(content.lora)
    for name, word in content.words.items():
        for encoder, vectors in word.items():
            tensors[_word_key(name, encoder if len(word) > 1 else SINGLE_ENCODER_KEY)] = vectors
    return {key: tensor.to(SAVED_DTYPE) for key, tensor in tensors.items()}


def _metadata(content: LoraFile, title: str) -> dict[str, str]:
    """Ours under one key, and the fields in which other tools look for trigger words and settings."""
    info, family, resolution = content.info, FAMILIES[content.info.family], content.info.settings["resolution"]
    words = [subject.text or subject.embedding for subject in info.subjects]
    spec = model_spec(
        family,
        info.prediction,
        "lora",
        title,
        f"PALP personalization for: {info.target_prompt}",
        resolution,
        ", ".join(words),
        f"ComfyUI: {info.prompt}",
    )
    images = {subject.text or subject.embedding: subject.images for subject in info.subjects}
    trained = kohya(
        family, title, info.rank, info.alpha, info.steps, info.settings, resolution, images, comment=info.prompt
    )
    return {LORA_KEY: to_json(asdict(info)), "trained_words": to_json(words), **spec, **trained}


def load_lora_file(path: str | Path) -> LoraFile:
    """Read a file of ours. Raises FileError when it is damaged, or was made by something else."""
    with opened(Path(path)) as file:
        source = file.source
        found = read_description(source, file.metadata, LORA_KEY)
        if LAYERED_KEY in file.metadata:
            raise FileError(
                f"{source.name} holds a word of P+ or NeTI, which `palp sweep` learned for a comparison. No program "
                "draws with this file; the pictures are in the sweep's folder."
            )
        if found is None:
            raise FileError(
                f"{source.name} was not made by PALP: it says nothing of itself. Use ComfyUI's Load LoRA for it."
            )
        info = _info(source, found)
        words = _word_parts(info)
        projections = _check_layouts(source, file.layouts, info, words)
        tensors = file.tensors()
    check_alphas(source, tensors, projections)
    learned = {word: {e: tensors.pop(key).float() for e, key in parts.items()} for word, parts in words.items()}
    return LoraFile(tensors, learned, info)


def is_ours(path: str | Path) -> bool:
    """Say by its header alone whether a file says that it is one of ours."""
    try:
        with opened(Path(path)) as file:
            return LORA_KEY in file.metadata
    except FileError:
        return False


def find_trained(folders: Iterable[Path], identity: str, steps: int) -> Path | None:
    """Find a whole file in one of the folders that says that it is of this training, after so many steps."""
    for path in (path for folder in folders for path in sorted(folder.glob("*.safetensors"))):
        with suppress(FileError):
            if _training_of(path) == (identity, steps):
                load_lora_file(path)  # raises where it is damaged
                return path
    return None


def _training_of(path: Path) -> tuple[object, object]:
    """The identity and the steps of the training that a file says it is of; the header alone is read."""
    with opened(path) as file:
        says = read_description(file.source, file.metadata, LORA_KEY) or {}
        return says.get("identity"), says.get("steps")


def _info(source: Source, found: dict) -> LoraInfo:
    """What the description says, each field of its kind and as long as it may be."""
    subjects = found.get("subjects")
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= MOST_SUBJECTS:
        raise damaged(source, f"subjects is to be a list of 1 to {MOST_SUBJECTS}")
    subjects = tuple(SubjectInfo(**checked_fields(source, SubjectInfo, subject)) for subject in subjects)
    longer = sum(len(s.embedding + s.text) for s in subjects)  # which stand in the prompt for a few letters
    fields = checked_fields(source, LoraInfo, found, MOST_PROMPT + longer)
    info = LoraInfo(**{**fields, "subjects": subjects})
    check_model(source, info.family, info.prediction)
    if info.rank < 1:
        raise damaged(source, "rank is 0")
    if len(info.target_prompt) > MOST_PROMPT:
        raise damaged(source, f"target_prompt has {len(info.target_prompt)} letters, and may have {MOST_PROMPT}")
    for subject in subjects:
        _check_subject(source, subject, info)
    return info


def _check_subject(source: Source, subject: SubjectInfo, info: LoraInfo) -> None:
    name = subject.embedding
    if not PLACEHOLDER.fullmatch(subject.placeholder):
        raise damaged(source, f"placeholder '{printable(subject.placeholder)}' is no name in square brackets")
    if subject.text:
        if name or subject.text not in info.prompt:
            raise damaged(source, f"prompt does not hold '{printable(subject.text)}'")
        return
    if not is_of_letters(name):
        raise damaged(source, f"embedding '{printable(name)}' is no name")
    if [other.embedding for other in info.subjects].count(name) > 1:
        raise damaged(source, f"two subjects have the word {printable(name)}")
    if not re.search(rf"embedding:{re.escape(name)}(?![\w-])", info.prompt):
        raise damaged(source, f"prompt does not hold embedding:{printable(name)}")


def _check_layouts(source: Source, layouts: Mapping[str, Layout], info: LoraInfo, words: dict) -> list[str]:
    """Raise FileError where the LoRA or a word is not whole, or something is beside them; returns the projections."""
    for word, parts in words.items():
        check_word(source, word, parts, layouts)
    keys = {key for parts in words.values() for key in parts.values()}
    return check_lora(source, {key: layout for key, layout in layouts.items() if key not in keys}, info.rank)


def _word_parts(info: LoraInfo) -> dict[str, dict[str, str]]:
    """Word -> encoder -> key of its vectors."""
    return {
        s.embedding: {encoder: _word_key(s.embedding, key) for encoder, key in _key_ends(FAMILIES[info.family]).items()}
        for s in info.subjects
        if s.embedding
    }


def _key_ends(family: Family) -> dict[str, str]:
    """Encoder -> the last part of its key."""
    if len(family.encoders) == 1:
        return {family.encoders[0]: SINGLE_ENCODER_KEY}
    return {encoder: encoder for encoder in family.encoders}


def _word_key(name: str, end: str) -> str:
    return f"bundle_emb.{name}.{end}"
