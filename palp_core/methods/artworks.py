"""Artworks as subjects (PALP, arXiv 2401.06105, sec. 5): they are how a picture is made, and not what it shows.

Where a prompt has a placeholder in words of style alone, as in "a cat on a rock in the style of [V2]", it stands for an
artwork. The base model is told the scene in the artwork's medium, without it: "an oil painting of a cat on a rock".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..models.prompts import PLACEHOLDER

#: A placeholder, also with a weight: ([V]:1.2).
NAMED = rf"(?:\(({PLACEHOLDER.pattern})(?::[^()]*)?\)|({PLACEHOLDER.pattern}))"
STYLE_OF = r"(?:in|with|after|of)\s+(?:the|a)\s+(?:style|manner|look)\s+of|(?:inspired|painted|drawn)\s+by"
MENTION = re.compile(
    rf",?\s*\b(?:(?:{STYLE_OF})\s+(?:(?:an?|the)\s+)?{NAMED}|in\s+{NAMED}(?:'s)?\s+style)", re.IGNORECASE
)
PHOTO_OF = re.compile(r"(?:(?:an?|the)\s+)?(?:photo|photograph|picture|image)\s+of\s+", re.IGNORECASE)


def artworks_in(prompt: str) -> set[str]:
    """Find the placeholders that stand for artworks: those in words of style alone."""
    named = {next(filter(None, mention.groups())) for mention in MENTION.finditer(prompt)}
    return named - set(PLACEHOLDER.findall(MENTION.sub("", prompt)))


def without_artworks(prompt: str) -> str:
    """Leave out the words that name artworks."""
    artworks = artworks_in(prompt)
    return "".join(_other_than(prompt, artworks)).strip(" ,")


def _other_than(prompt: str, artworks: set[str]) -> Iterator[str]:
    at = 0
    for mention in MENTION.finditer(prompt):
        if next(filter(None, mention.groups())) in artworks:
            yield prompt[at : mention.start()]
            at = mention.end()
    yield prompt[at:]


def medium_of(photo_prompt: str, placeholder: str, class_word: str) -> str:
    """Say what an artwork is, by the prompt that describes it, else by its class word.

    >>> medium_of("an oil painting of [V2]", "[V2]", "painting")
    'an oil painting'
    """
    said = re.sub(rf"\s+of\s+(?:(?:an?|the)\s+)?{re.escape(placeholder)}\s*\Z", "", without_artworks(photo_prompt))
    if placeholder in said or photo_prompt == f"a photo of {placeholder}":
        return f"{'an' if class_word[:1].lower() in set('aeiou') else 'a'} {class_word}"
    return said


def in_medium(scene: str, medium: str) -> str:
    """Let a prompt say its medium, unless it does: "a cat" in "an oil painting" is "an oil painting of a cat"."""
    if re.search(rf"(?<![\w-]){re.escape(medium.split()[-1])}(?![\w-])", scene, re.IGNORECASE):
        return scene
    scene = PHOTO_OF.sub("", scene, count=1) if PHOTO_OF.match(scene) else scene
    return f"{medium} of {scene}" if scene else medium
