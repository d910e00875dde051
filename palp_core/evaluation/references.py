"""What pictures are compared with: each subject's photos, and the words that CLIP reads in the place of its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, PromptError, printable, quoted
from ..files.photos import find_photos
from ..models.prompt_weights import plain_text
from ..models.prompts import EMBEDDING, PLACEHOLDER
from ..models.wording import replaced, with_article, without_article
from .class_words import CLASS_WORDS, read_class_words

NAMED = re.compile(f"{PLACEHOLDER.pattern}|{EMBEDDING.pattern}")


@dataclass(frozen=True)
class Reference:
    """What is known of one subject."""

    #: Empty where none are given.
    photos: tuple[Path, ...]
    #: What it is, in a word that CLIP knows; may be empty.
    class_word: str
    #: What is to be said of its folder, in sentences.
    notes: tuple[str, ...] = ()


def find_references(folder: Path | None, subjects: Iterable[str], class_word: str) -> dict[str, Reference]:
    """Find each subject's photos: in FOLDER/SUBJECT, or in FOLDER itself where there is but one subject.

    class_word: of subjects of whom the folder does not say it (class_words.py). Raises FileError where photos are
    missing.
    """
    subjects = list(dict.fromkeys(subjects))
    if folder is None:
        return {subject: Reference((), class_word) for subject in subjects}
    if not folder.is_dir():
        raise FileError(f"there is no folder of photos {folder}.")
    words = {told.subject: told.class_word for told in read_class_words(folder)}
    found = {subject: find_photos([_folder_of(folder, subject, len(subjects) == 1)]) for subject in subjects}
    return {name: Reference(of.images, words.get(name, class_word), of.notes) for name, of in found.items()}


def _folder_of(folder: Path, subject: str, alone: bool) -> Path:
    inside = folder / subject
    if inside.is_dir():
        return inside
    if alone:
        return folder
    raise FileError(f"there are no photos of {quoted(subject)}: {inside} is missing. Each subject needs its folder.")


def text_of(prompt: str, class_word: str) -> str:
    """Write a prompt as CLIP reads it: without weights, and with the class word for [V] or embedding:NAME.

    Raises PromptError where the class word is missing, and for a prompt with several subjects.

    >>> text_of("a (sketch:1.2) of a [V] in Paris", "cat")
    'a sketch of a cat in Paris'
    """
    text = plain_text(prompt)
    names = list(dict.fromkeys(match[0] for match in NAMED.finditer(text)))
    if len(names) > 1:
        raise PromptError(
            f"the prompt {quoted(prompt)} names {' and '.join(map(printable, names))}, and one class word cannot stand "
            "for both. Write class words in their places."
        )
    if names and not class_word:
        raise PromptError(
            f"the prompt {quoted(prompt)} names {printable(names[0])}, which CLIP does not know. Say with --class-word "
            f"what it is, or in {CLASS_WORDS} in the folder of photos."
        )
    return replaced(text, NAMED, lambda _: without_article(class_word), with_article)
