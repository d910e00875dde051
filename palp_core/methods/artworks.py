"""Artworks as subjects (PALP, arXiv 2401.06105, sec. 5): they are how a picture is made, and not what it shows.

Where a prompt has a placeholder in words of style alone, as in "a cat on a rock in the style of [V2]", it stands for an
artwork. The base model is told the scene in the artwork's medium, without it: "an oil painting of a cat on a rock".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..models.prompts import PLACEHOLDER
from ..models.wording import with_article

#: A placeholder, also with a weight: ([V]:1.2).
NAMED = rf"(?:\(({PLACEHOLDER.pattern})(?::[^()]*)?\)|({PLACEHOLDER.pattern}))"
AN = r"(?:(?:an?|the)\s+)?"
IN = r"(?:(?:done|drawn|made|painted|rendered|sketched)\s+)?in"
#: After one of these "by" says who made it, and after other words where something is: a cat by [V2].
WORKS = "art artwork drawing engraving etching illustration painting picture poster print sketch watercolor".split()
AFTER_WORK = "|".join(rf"(?<=\b{work})" for work in WORKS)
MENTION = re.compile(
    rf"(?<![\w-])(?:(?:{IN}|with|after|of)\s+(?:(?:a|the)\s+)?(?:style|manner|look)\s+of\s+{AN}{NAMED}"
    rf"|(?:inspired|painted|drawn|illustrated|sketched)\s+by\s+{AN}{NAMED}"
    rf"|(?:{IN}\s+{AN})?{NAMED}(?:['’]s)?[\s-]+style(?!\w))"
    rf"|,\s*{AN}style\s+of\s+{AN}{NAMED}"
    rf"|(?:\A|,)\s*(?:(?:[\w-]+\s+){{0,2}}art(?:work)?\s+)?by\s+{NAMED}"
    rf"|(?:{AFTER_WORK})\s+by\s+{NAMED}",
    re.IGNORECASE,
)
#: What is left of brackets when the words in them are.
EMPTY = re.compile(r",?\s*\((?::[^()]*)?\)")
CAPITAL_ARTICLE = re.compile(r"\A(?:An?|The)(?=\s)")
PHOTO_OF = re.compile(r"(?:(?:an?|the)\s+)?(?:photo|photograph|picture|image)\s+of\s+", re.IGNORECASE)


def artworks_in(prompt: str) -> set[str]:
    """Find the placeholders that stand for artworks: those in words of style alone."""
    named = {next(filter(None, mention.groups())) for mention in MENTION.finditer(prompt)}
    return named - set(PLACEHOLDER.findall(MENTION.sub("", prompt)))


def without_artworks(prompt: str) -> str:
    """Leave out the words that name artworks."""
    artworks = artworks_in(prompt)
    return EMPTY.sub("", "".join(_other_than(prompt, artworks))).rstrip(" ,:;").lstrip(" ,:;.")


def _other_than(prompt: str, artworks: set[str]) -> Iterator[str]:
    at = 0
    for mention in MENTION.finditer(prompt):
        if next(filter(None, mention.groups())) in artworks:
            yield (before := prompt[at : mention.start()].rstrip().removesuffix(","))
            ended_twice = before.endswith(tuple(".!?")) and prompt[mention.end() :].startswith(".")
            at = mention.end() + ended_twice
    yield prompt[at:]


def medium_of(photo_prompt: str, placeholder: str, class_word: str) -> str:
    """Say what an artwork is, by the prompt that describes it, else by its class word.

    >>> medium_of("an oil painting of [V2]", "[V2]", "painting")
    'an oil painting'
    """
    said = _before_its_name(without_artworks(photo_prompt), placeholder)
    if placeholder in said or photo_prompt == f"a photo of {placeholder}":
        return with_article("", class_word)
    return said


def medium_alone(photo_prompt: str, placeholder: str) -> str:
    """Return the medium where a photo's prompt says no more of an artwork: of "an etching of [V2]". Else nothing."""
    named = without_artworks(photo_prompt)
    said = _before_its_name(named, placeholder)
    return "" if said == named or PHOTO_OF.match(photo_prompt) or PLACEHOLDER.search(said) else said


def _before_its_name(photo_prompt: str, placeholder: str) -> str:
    return re.sub(rf"\s+of\s+{AN}{re.escape(placeholder)}\s*\Z", "", photo_prompt)


def in_medium(scene: str, medium: str) -> str:
    """Let a prompt say its medium, unless it does: "a cat" in "an oil painting" is "an oil painting of a cat"."""
    if re.search(rf"(?<![\w-]){re.escape(medium.split()[-1])}(?![\w-])", scene, re.IGNORECASE):
        return scene
    scene = PHOTO_OF.sub("", scene, count=1) if PHOTO_OF.match(scene) else scene
    scene = CAPITAL_ARTICLE.sub(lambda article: article[0].lower(), scene)
    return f"{medium} of {scene}" if scene else medium
