"""Prompts in a script that a text encoder does not read: nothing fails, and the words mean nothing to the model."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from ..errors import quoted
from .personalization import Personalization
from .textual_inversion import TextualInversion

#: CLIP's and T5's vocabularies have words in Latin letters alone.
LATIN_ONLY = {"clip_l", "clip_g", "clip_h", "t5xxl"}
#: How Unicode begins the names of letters that they have words of.
READ = ("LATIN", "MODIFIER", "MASCULINE", "FEMININE", "MICRO")
#: Of scripts whose name is no name of a language.
LANGUAGES = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


def unread(method: Personalization | TextualInversion) -> str:
    """Say in a sentence which prompt the model's text encoder cannot read; nothing where it reads all."""
    family = method.backbone.family
    if not LATIN_ONLY.issuperset(family.encoders):
        return ""
    for name, text in _texts(method):
        if found := next((letter for letter in text if _is_unread(letter)), None):
            return (
                f"{name} {quoted(text)} is in a script ({_script(found)}) that the text encoder of {family.title} "
                "does not read, so that it has no meaning there: write it in English."
            )
    return ""


def _texts(method: Personalization | TextualInversion) -> Iterator[tuple[str, str]]:
    """What the text encoder reads of what a user has written, each with its name."""
    if isinstance(method, TextualInversion):
        concept = method.concept
        yield "initial_word", concept.initial_word
        yield from (("templates", text) for text in concept.templates)
        yield from (("captions", text) for text in concept.captions)
        return
    yield "target_prompt", method.target_prompt
    for subject in method.subjects.values():
        yield "class_word", subject.class_word
        yield from (
            ("captions" if subject.captions else "personalization_prompt", y_P) for y_P in subject.photo_prompts
        )
    yield "clean_prompt", method.clean_prompt


def _is_unread(letter: str) -> bool:
    return letter.isalpha() and not letter.isascii() and not unicodedata.name(letter, "").startswith(READ)


def _script(letter: str) -> str:
    script = unicodedata.name(letter, "an unknown one").split()[0]
    return LANGUAGES.get(script, script.capitalize())
