"""Prompts with placeholders: "a sketch of [V] in Paris" names the subject [V].

A placeholder is a name in square brackets. What stands for it on its way:

    [V]               in the prompts of a training
    ohwx cat          where no word is learned: a text that means nothing to the model, and the class word
    cat               its class word, in the clean prompt y_c of PALP (arXiv 2401.06105, sec. 4.3)
    {}                in the templates and captions of Textual Inversion
    start token       one for each of its vectors, in the text that a tokenizer splits (`mark_words`)
    bundle_emb.NAME   its vectors in the saved file
    embedding:NAME    in the prompt that a user of that file types, in ComfyUI or after `palp generate`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch

from ..errors import PromptError, printable, quoted

#: Of a prompt; text encoders read far fewer.
MOST_LETTERS = 2000
#: Of brackets in each other; who reads them opens one after the other.
MOST_NESTED = 100
#: Of a word in ComfyUI's syntax, (word:1.2), where it is more or less than none; 1.5 is a strong one.
LARGEST_WEIGHT = 100.0
WEIGHT = re.compile(r":([^():]+)\)")
#: What a tokenizer reads as no text: the end of the prompt, for example.
CONTROL_TOKEN = re.compile(r"<\|\w+\|>|</?s>")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PLACEHOLDER = re.compile(r"\[[A-Za-z]\w*\]")
#: How ComfyUI's users name a learned word in the folder for embeddings, where ComfyUI sees it.
EMBEDDING = re.compile(r"(?:(?<=\s)|^)embedding:[^\s,<\[]+")
#: A placeholder with a weight inside its brackets, as A1111 has it for other words.
WEIGHT_INSIDE = re.compile(r"\[\s*([A-Za-z]\w*)\s*:\s*([-+.\d]+)\s*\]")


def find_placeholders(prompt: str) -> list[str]:
    """The placeholders of a prompt in order of appearance, repeats included."""
    return PLACEHOLDER.findall(prompt)


def check_placeholder(placeholder: str) -> None:
    """Raise PromptError unless the text is a name in square brackets."""
    if not PLACEHOLDER.fullmatch(placeholder):
        raise PromptError(f"placeholder {quoted(placeholder)} must be a name in square brackets, such as [V] or [V2].")


def check_prompt(name: str, text: str) -> None:
    """Raise PromptError for a text called `name` that no text encoder can read as it is meant."""
    if len(text) > MOST_LETTERS:
        raise PromptError(f"{name} has {len(text)} letters; {MOST_LETTERS} are the most. Shorten it.")
    if found := LONE_SURROGATE.search(text):
        raise PromptError(f"{name} holds half a letter ({printable(found[0])}), as of a damaged file. Type it anew.")
    if found := CONTROL_TOKEN.search(text):
        raise PromptError(f"{name} holds {found[0]}, by which text encoders mark the end of a text. Remove it.")
    if (depth := max(accumulate((letter == "(") - (letter == ")") for letter in text), default=0)) > MOST_NESTED:
        raise PromptError(f"{name} has brackets {depth} deep in each other; {MOST_NESTED} are the most. Remove some.")
    for weight in WEIGHT.findall(text):
        if not _is_usable(weight):
            raise PromptError(
                f"{name} has a word of weight {printable(weight.strip())}, with which no model can compute. Write a "
                "number near 1: (word:1.2)."
            )


def _is_usable(weight: str) -> bool:
    """Whether ComfyUI would read a weight that models can compute with, or none at all."""
    try:
        return abs(float(weight)) <= LARGEST_WEIGHT
    except ValueError:
        return True


def check_weights(name: str, prompt: str, known: Iterable[str]) -> None:
    """Raise PromptError when the prompt called `name` has a weight inside the brackets of a placeholder."""
    by_name = {placeholder.strip("[]").lower(): placeholder for placeholder in known}
    for found in WEIGHT_INSIDE.finditer(prompt):
        if placeholder := by_name.get(found[1].lower()):
            raise PromptError(
                f"{name} holds {printable(found[0])}, with a weight inside the brackets. Write "
                f"({placeholder}:{found[2]}) in its place."
            )


def check_known(name: str, prompt: str, known: Iterable[str]) -> None:
    """Raise PromptError when the prompt called `name` uses a placeholder that no subject has."""
    known = list(known)
    check_weights(name, prompt, known)
    for found in find_placeholders(prompt):
        if found not in known:
            raise PromptError(
                f"{name} uses {printable(found)}, but no subject has this placeholder (there are: {', '.join(known)}). "
                f"Add a subject with placeholder {found}, or correct the prompt."
            )


def substitute(prompt: str, replacements: Mapping[str, str]) -> str:
    """Replace each placeholder by its entry; one without an entry stays."""
    return PLACEHOLDER.sub(lambda m: replacements.get(m[0], m[0]), prompt)


def embedding_prompt(prompt: str, names: Mapping[str, str]) -> str:
    """The prompt with `embedding:NAME` for each placeholder that has one, set apart by spaces for ComfyUI's parser.

    ComfyUI finds `embedding:` at the start of a text or of a bracket, or after white space, and its name ends at white
    space, a comma or a bracket.
    """

    def spell(match: re.Match) -> str:
        if match[0] not in names:
            return match[0]
        before, after = prompt[: match.start()][-1:], prompt[match.end() :][:1]
        left = "" if not before or before.isspace() or before == "(" else " "
        right = "" if not after or after.isspace() or after in ",:)" else " "
        return f"{left}embedding:{names[match[0]]}{right}"

    return PLACEHOLDER.sub(spell, prompt)


def mark_words(prompt: str, counts: Mapping[str, int], pattern: re.Pattern, marker: str) -> tuple[str, list[str]]:
    """Put `marker` in place of each learned word, once per vector and set apart by a space, for a tokenizer to see.

    counts: word as `pattern` finds it -> number of its vectors; other matches stay. Returns the marked text and, for
    every marker in order, the word that it stands for.
    """
    words: list[str] = []

    def mark(match: re.Match) -> str:
        if match[0] not in counts:
            return match[0]
        words.extend([match[0]] * counts[match[0]])
        return f" {marker}" * counts[match[0]]

    return pattern.sub(mark, prompt), words


def words_pattern(words: Iterable[str]) -> re.Pattern:
    """Match each learned word where it does not go on: `embedding:cat-v2` is not `embedding:cat`.

    The bracket of a placeholder ends it. Without any word nothing is matched.
    """
    longest_first = sorted(words, key=len, reverse=True)
    ends = {word: "" if word.endswith("]") else r"(?![\w-]|\.\w)" for word in longest_first}
    return re.compile("|".join(f"{re.escape(word)}{end}" for word, end in ends.items()) or r"(?!)")


def check_embeddings(prompt: str, text: str, known: Iterable[str]) -> None:
    """Raise PromptError where a stretch of a prompt's text still names an `embedding:NAME` that no word stands for."""
    if found := EMBEDDING.search(text):
        words = ", ".join(known)
        raise PromptError(
            f"the prompt {quoted(prompt)} names {printable(found[0])}, of which there is no file here. "
            + (f"Write one of these for a learned word: {words}." if words else "Leave it out.")
        )


def vector_numbers(words: list[str], counts: Mapping[str, int]) -> list[int]:
    """For every marker of `mark_words`, which vector of its word it stands for: 0 .. count - 1 per occurrence."""
    numbers: list[int] = []
    while len(numbers) < len(words):
        numbers.extend(range(counts[words[len(numbers)]]))
    return numbers


def unknown_word(word: str) -> PromptError:
    """The error for a word that the text encoder's vocabulary does not have."""
    return PromptError(
        f"the text encoder does not know the word {quoted(word)}. Use a common word that the model knows."
    )


def too_long(prompt: str, tokens: int, limit: int) -> PromptError:
    """The error for a prompt of which the text encoder would lose the end."""
    return PromptError(
        f"the prompt {quoted(prompt)} has {tokens} tokens, but the text encoder keeps {limit}. Shorten it by at least "
        f"{tokens - limit} tokens (a token is a short word or a part of a longer one)."
    )


def find_tokens(tokens: Sequence, wanted: Sequence) -> list[int]:
    """Indices of all occurrences of one sequence of tokens in another; tokens are numbers or vectors (C,)."""
    starts = range(len(tokens) - len(wanted) + 1) if wanted else ()
    at = [s for s in starts if all(_same(a, b) for a, b in zip(tokens[s : s + len(wanted)], wanted, strict=True))]
    return sorted({start + offset for start in at for offset in range(len(wanted))})


def word_not_found(word: str, prompt: str) -> PromptError:
    """The error for a word whose attention is asked for, but which the prompt does not hold."""
    return PromptError(
        f"the word {quoted(word)} is not in the prompt {quoted(prompt)}. Write it as it stands there, a whole word or "
        "several in a row; a learned word is spelled embedding:NAME."
    )


def _same(a, b) -> bool:
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.is_tensor(a) and torch.is_tensor(b) and torch.equal(a, b)
    return a == b
