"""What was trained, in a diffusers pipeline: by diffusers' own loaders, ready to generate with."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from ..models.backbone import WordVectors
from ..models.diffusers.loading import Pipeline, pipeline_family
from ..models.prompts import find_placeholders, substitute, too_long
from ..models.wording import put_words
from .embedding_file import Embedding
from .lora_file import LoraFile


def load_file_into(pipeline: Pipeline, file: LoraFile) -> str:
    """Load a saved run's LoRA and words by diffusers' own loaders; returns the prompt to draw.

    Each word becomes a token of its name, and stays in the pipeline, as the LoRA does, until they are unloaded; a text
    stands for itself. Raises ModelError for a pipeline of another family.
    """
    _check_family(pipeline, file.info.family)
    pipeline.load_lora_weights({key: tensor.float() for key, tensor in file.lora.items()})
    tokens = {
        s.placeholder: _load_word(pipeline, s.embedding, file.words[s.embedding])
        for s in file.info.subjects
        if not s.text
    }
    texts = {s.placeholder: s.text for s in file.info.subjects if s.text}
    return put_words(substitute(file.info.target_prompt, tokens), texts)


def load_word_into(pipeline: Pipeline, word: Embedding, family: str, prompt: str) -> str:
    """Load a learned word by diffusers' own loader; returns the prompt with its token for each placeholder.

    family: of the model that it was learned on. Raises ModelError for a pipeline of another.
    """
    _check_family(pipeline, family)
    token = _load_word(pipeline, Path(word.name).stem, word.vectors)
    return substitute(prompt, dict.fromkeys(find_placeholders(prompt), token))


def check_length(pipeline: Pipeline, prompt: str) -> None:
    """Raise ModelError for a prompt of which the pipeline would lose the end."""
    tokens = len(pipeline.tokenizer(pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer)).input_ids)
    longest = pipeline.text_encoder.config.max_position_embeddings
    if tokens > longest:
        raise too_long(prompt, tokens - 2, longest - 2)


def _check_family(pipeline: Pipeline, family: str) -> None:
    if (found := pipeline_family(pipeline).name) != family:
        raise ModelError(f"the file was made for {family}, and the model is {found}. Use one of its family.")


def _load_word(pipeline: Pipeline, name: str, vectors: WordVectors) -> str:
    """Returns its token. vectors: encoder -> (N, C)."""
    token = f"<{name}>"
    for encoder, rows in vectors.items():
        second = "_2" if encoder == "clip_g" else ""
        tokenizer, text_encoder = (getattr(pipeline, f"{part}{second}") for part in ("tokenizer", "text_encoder"))
        pipeline.load_textual_inversion({token: rows}, token=token, tokenizer=tokenizer, text_encoder=text_encoder)
    return token
