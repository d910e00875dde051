"""Words in the place of placeholders as a person would write them: no word beside itself, no article after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from operator import add

from .prompts import PLACEHOLDER

ARTICLE = re.compile(r"\s*(an?|the)\s+(?=\S)", re.IGNORECASE)
#: An article at the end of what stands before a word, also before the brackets of its weight: a (cat:1.2).
A_BEFORE = re.compile(r"(?<![\w:-])(a)n?(\s[\s(]*)\Z", re.IGNORECASE)
#: After these a noun begins, and has an article; after other words, such as "my" or "red", it has gone on already.
NOUN_BEGINS = re.compile(
    r"(?:\A|[,.;:!?]|(?<![\w-])(?:about|above|across|after|against|alongside|among|and|around|as|at|atop|before|behind|"
    r"below|beneath|beside|between|beyond|by|depicting|featuring|for|from|holding|in|inside|into|is|like|near|of|on|onto|"
    r"or|over|past|riding|showing|than|through|to|towards?|under|underneath|upon|versus|vs|wearing|with|within|without)"
    r"(?=[\s(]))[\s(]*\Z",
    re.IGNORECASE,
)
#: After these it has none: in the style of painting, a kind of cat.
KIND_OF = re.compile(r"(?<![\w-])(?:breed|kind|look|manner|sort|style|type)\s+of[\s(]+\Z", re.IGNORECASE)
#: Words that bring a determiner, and plurals and nouns without number, which take no "a".
TAKES_NO_A = re.compile(
    r"(?:(?:an?|the|my|your|his|her|its|our|their|this|that|these|those|some|any|no|every|each|one|two|three|four|both|"
    r"many|several|\d+|[\w-]+['’]s)\s.*|(?:.*\s)?(?!(?:atlas|canvas|christmas|cosmos|gas|ibis|iris|lens|mantis|"
    r"rhinoceros|thermos|trellis)\Z)(?:\w*(?<![su])s|people|(?:\w*wo)?men|children|mice|geese|feet|teeth|"
    r"clothing|food|fur|furniture|hair|jewell?e?ry|water))",
    re.IGNORECASE | re.DOTALL,
)
#: Words that sound as if they began with a vowel: an umbrella, an hour, an SUV, but a unicorn, a USB stick.
SAYS_AN = re.compile(
    r"(?!eu|ewe|one(?![a-z])|once|u[bfkst][aeiou]|uni(?![mn])|(?:usb|usa|us|uk|uv)(?![a-z]))[aeiou]|heir|hon(?:est|ou?r)|"
    r"hour|(?:suv|led|rv|mp\d|x)(?![a-z])",
    re.IGNORECASE,
)


def without_article(words: str) -> str:
    """Return what a subject is without the article before it: a cat -> cat. The prompt has its own, or none."""
    return ARTICLE.sub("", words, count=1) if ARTICLE.match(words) else words


def counted(number: int, thing: str) -> str:
    """Say how many there are of a thing: 1 photo, 2 photos."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def put_words(prompt: str, words: Mapping[str, str]) -> str:
    """Replace each placeholder by its words, and repeat none of them beside it: "a [V] cat" with cat is "a cat"."""
    return replaced(prompt, PLACEHOLDER, lambda match: words.get(match[0]))


def put_class_words(prompt: str, words: Mapping[str, str]) -> str:
    """Replace each placeholder by its class word as `put_words` does, with an article where the prompt has none.

    >>> put_class_words("a sketch of [V] beside my red [V2]", {"[V]": "owl", "[V2]": "cup"})
    'a sketch of an owl beside my red cup'
    """
    return replaced(prompt, PLACEHOLDER, lambda match: words.get(match[0]), with_article)


def with_article(before: str, noun: str) -> str:
    """Put a noun behind what stands before it, with an article where a noun begins there, and "a" or "an" as it sounds.

    Words that bring a determiner, plurals and nouns without number get none.
    """
    article = "an" if SAYS_AN.match(noun) else "a"
    if found := A_BEFORE.search(before):
        return before[: found.start()] + found[1] + article[1:] + found[2] + noun
    if TAKES_NO_A.fullmatch(noun) or KIND_OF.search(before) or not NOUN_BEGINS.search(before):
        return before + noun
    return f"{before}{article} {noun}"


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


def replaced(
    prompt: str,
    pattern: re.Pattern,
    words_of: Callable[[re.Match], str | None],
    put: Callable[[str, str], str] = add,
) -> str:
    """Replace what a pattern finds by words, None leaving it; words that already stand beside it are not repeated.

    put: joins the words to all that stands before them.
    """
    done, at = "", 0
    for match in pattern.finditer(prompt):
        words = words_of(match)
        if words is None or match.start() < at:
            continue
        done = put(_without_end(done + prompt[at : match.start()], words.split()), words)
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
