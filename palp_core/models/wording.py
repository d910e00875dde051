"""Words in the place of placeholders as a person would write them: no word beside itself, no article after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .prompts import PLACEHOLDER

ARTICLE = re.compile(r"\s*(an?|the)\s+(?=\S)", re.IGNORECASE)


def without_article(words: str) -> str:
    """Return what a subject is without the article before it: a cat -> cat. The prompt has its own, or none."""
    return ARTICLE.sub("", words, count=1) if ARTICLE.match(words) else words


def counted(number: int, thing: str) -> str:
    """Say how many there are of a thing: 1 photo, 2 photos."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def put_words(prompt: str, words: Mapping[str, str]) -> str:
    """Replace each placeholder by its words, and repeat none of them beside it: "a [V] cat" with cat is "a cat"."""
    return replaced(prompt, PLACEHOLDER, lambda match: words.get(match[0]))


def naming(caption: str, placeholder: str, words: str) -> str:
    """Let a photo's caption name the subject: in the place of its words, else before all.

    >>> naming("a cat on a sofa", "[V]", "cat")
    'a [V] on a sofa'
    """
    caption = " ".join(caption.split())
    if placeholder in caption:
        return caption
    named = re.sub(rf"(?<![\w-]){_spaced(words.split())}(?![\w-])", placeholder, caption, count=1, flags=re.IGNORECASE)
    return named if placeholder in named else f"a photo of {placeholder}, {caption}"


def replaced(prompt: str, pattern: re.Pattern, words_of: Callable[[re.Match], str | None]) -> str:
    """Replace what a pattern finds by words, None leaving it; words that already stand beside it are not repeated."""
    done, at = "", 0
    for match in pattern.finditer(prompt):
        words = words_of(match)
        if words is None or match.start() < at:
            continue
        done = _without_end(done + prompt[at : match.start()], words.split()) + words
        at = match.end() + _repeated(prompt[match.end() :], words.split())
    return done + prompt[at:]


def _repeated(following: str, words: list[str]) -> int:
    """How many letters of what follows repeat the last of the words."""
    for first in range(len(words)):
        if found := re.match(rf"\s+{_spaced(words[first:])}(?![\w-])", following, re.IGNORECASE):
            return found.end()
    return 0


def _without_end(before: str, words: list[str]) -> str:
    """What stands before, without the first of the words at its end."""
    for last in range(len(words), 0, -1):
        if found := re.search(rf"(?<![\w-]){_spaced(words[:last])}\s+\Z", before, re.IGNORECASE):
            return before[: found.start()]
    return before


def _spaced(words: list[str]) -> str:
    return r"\s+".join(map(re.escape, words))
