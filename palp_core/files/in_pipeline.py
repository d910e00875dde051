"""What was trained, in a diffusers pipeline: its LoRA by diffusers' own loader, its words by the names in a prompt."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from ..models.backbone import LearnedWords
from ..models.diffusers.backbone import DiffusersBackbone
from ..models.diffusers.loading import Pipeline, pipeline_family
from ..models.wording import put_words
from .embedding_file import Embedding, fitting_vectors
from .lora_file import LoraFile


def load_file_into(pipeline: Pipeline, file: LoraFile) -> tuple[str, LearnedWords]:
    """Load a saved run's LoRA by diffusers' own loader; returns the prompt to draw, and its learned words.

    A word has the names [V] and embedding:NAME there; a text stands for itself. The LoRA stays in the pipeline until it
    is unloaded. Raises ModelError for a pipeline of another family.
    """
    _check_family(pipeline, file.info.family)
    pipeline.load_lora_weights({key: tensor.float() for key, tensor in file.lora.items()})
    learned = {s.placeholder: s.embedding for s in file.info.subjects if not s.text}
    words = {spelled: file.words[name] for p, name in learned.items() for spelled in (p, f"embedding:{name}")}
    texts = {s.placeholder: s.text for s in file.info.subjects if s.text}
    return put_words(file.info.target_prompt, texts), words


def named_word(backbone: DiffusersBackbone, word: Embedding, family: str) -> LearnedWords:
    """Give a learned word its names in prompts, [V] and embedding:NAME.

    family: of the model that it was learned on. Raises ModelError for a backbone of another, FileError where its
    vectors do not fit.
    """
    _check_family(backbone.pipeline, family)
    return dict.fromkeys(("[V]", f"embedding:{Path(word.name).stem}"), fitting_vectors(word, backbone))


def _check_family(pipeline: Pipeline, family: str) -> None:
    if (found := pipeline_family(pipeline).name) != family:
        raise ModelError(f"the file was made for {family}, and the model is {found}. Use one of its family.")
