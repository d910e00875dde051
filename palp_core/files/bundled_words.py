"""LoRA files of other tools with their words inside: `bundle_emb.NAME.KEY`, as A1111 defined it.

ComfyUI reads the LoRA of such a file and passes over the words, without which its prompts do not work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from .checks import Source, check_word
from .embedding_file import A1111_KEY, BUNDLED, SINGLE, rows_of
from .names import printable
from .reading import opened

#: The end of a word's key -> the text encoder, where it is called otherwise; SINGLE where the file does not tell it.
ENCODERS = {A1111_KEY: SINGLE, "t5": "t5xxl"}
PREFIX = "bundle_emb."
MOST_WORDS = 100


@dataclass(frozen=True)
class Bundle:
    """A LoRA in whatever convention its maker has, and its words: name -> encoder -> (N, C), float32."""

    lora: dict[str, Tensor]
    words: dict[str, dict[str, Tensor]]

    @property
    def spelled(self) -> list[str]:
        """Spell its words as they are typed in ComfyUI."""
        return [f"embedding:{name}" for name in self.words]


def load_bundle(path: str | Path) -> Bundle:
    """Read a file of another tool. Raises FileError where it is damaged, or has no words."""
    with opened(Path(path)) as file:
        parts = _words(file.source, list(file.layouts))
        for name, keys in parts.items():
            check_word(file.source, name, keys, file.layouts)
        tensors = file.tensors()
    words = {name: {e: rows_of(tensors[key]) for e, key in keys.items()} for name, keys in parts.items()}
    return Bundle({key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}, words)


def _words(source: Source, keys: list[str]) -> dict[str, dict[str, str]]:
    """Name -> encoder -> key. What else is bundled, as the outputs of text encoders, is passed over."""
    words: dict[str, dict[str, str]] = {}
    for match in filter(None, map(BUNDLED.fullmatch, keys)):
        words.setdefault(match["name"], {})[ENCODERS.get(match["key"], match["key"])] = match[0]
    if not words:
        raise FileError(f"{source.name} was not made by PALP, and has no words inside. Use ComfyUI's Load LoRA for it.")
    if len(words) > MOST_WORDS:
        raise source.refusal(f"holds {len(words)} words; {MOST_WORDS} are the most that are read")
    for name in words:
        if re.search(r"[\s,()<>\[\]:]", name):
            raise source.refusal(f"holds the word {printable(name)}, which no prompt can name")
    return words
