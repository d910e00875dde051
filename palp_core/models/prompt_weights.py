"""What brackets in a prompt mean to ComfyUI: (word:1.3) weighs 1.3, (word) 1.1, and \\( is a bracket itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: What brackets without a number multiply the weight of what is in them by.
BRACKETED = 1.1
BRACKET = re.compile(r"(?<!\\)[()]")
ESCAPED = re.compile(r"\\([()])")


class Part(NamedTuple):
    """A stretch of a prompt as a text encoder reads it, without its brackets."""

    text: str
    weight: float


def weighted_parts(prompt: str, weight: float = 1.0) -> list[Part]:
    """Split a prompt at its brackets as ComfyUI does, which takes brackets that do not match for letters.

    weight: of what stands in no brackets.
    """
    parts: list[Part] = []
    for piece in _outermost(prompt):
        if piece.startswith("(") and piece.endswith(")") and not piece.endswith("\\)"):
            parts += weighted_parts(*_opened(piece[1:-1], weight))
        elif piece:
            parts.append(Part(without_escapes(piece), weight))
    return parts


def _outermost(text: str) -> Iterator[str]:
    """Cut a text before and behind its outermost brackets; some pieces may be empty."""
    start = depth = 0
    for bracket in BRACKET.finditer(text):
        if bracket[0] == "(":
            if depth == 0:
                yield text[start : bracket.start()]
                start = bracket.start()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                yield text[start : bracket.end()]
                start = bracket.end()
    yield text[start:]


def _opened(inside: str, outside: float) -> tuple[str, float]:
    """Return what stands in brackets without its number, and its weight. outside: the weight around them."""
    text, _, number = inside.rpartition(":")
    try:
        return (text, float(number)) if text else (inside, outside * BRACKETED)
    except ValueError:
        return inside, outside * BRACKETED


def without_escapes(prompt: str) -> str:
    """Return a prompt as language models read it: brackets weigh nothing, and \\( is a bracket itself."""
    return ESCAPED.sub(r"\1", prompt)


def plain_text(prompt: str) -> str:
    """Return the text of a prompt without its weights."""
    return "".join(part.text for part in weighted_parts(prompt))


def token_weights(prompt: str, count: Callable[[str], int]) -> list[float]:
    """Weigh each token of a prompt's plain text. count: a text -> how many tokens it is split into."""
    text, weights = "", []
    for part in weighted_parts(prompt):
        text += part.text
        tokens = count(text)
        weights = (weights + [part.weight] * tokens)[:tokens]
    return weights
