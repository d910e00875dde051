"""Where a word's tokens stand in the sequences that transformers read, whatever their text encoders do to a prompt."""

from __future__ import annotations

import re

from ...palp_core.models.families import Family
from ...palp_core.models.prompts import find_tokens, word_not_found
from .text import encoder_key, encoder_tokenizer

#: What counts as a word of a prompt whose attention is recorded, and what is none: weights.
WORD = re.compile(r"[^\W\d_]+")
EMBEDDED = re.compile(r"embedding:\S+")


def sequence_positions(
    tokenizer, family: Family, prompt: str, word: str, length: int, missing_ok: bool = False
) -> tuple[int, ...]:
    """Find a word's tokens in the conditioning of a transformer, (1, length, C).

    Of the tokens that a text encoder reads, a template's first ones may be cut off. Language models spell a word with
    the space before it. Raises PromptError when the word is not in the prompt.
    """
    rows = tokenizer.tokenize_with_weights(prompt)
    found = set()
    for encoder, start in family.text_starts.items():
        if encoder_key(encoder) not in rows:
            continue
        tokens = [token for row in rows[encoder_key(encoder)] for token, *_ in row]
        tokens = tokens[max(0, len(tokens) - length) :]
        split = encoder_tokenizer(tokenizer, encoder).tokenizer
        for spelled in (word, f" {word}"):
            wanted = split(spelled, add_special_tokens=False)["input_ids"]
            found.update(start + at for at in find_tokens(tokens, wanted))
    found = {at for at in found if at < length}
    if not found and not missing_ok:
        raise word_not_found(word, prompt)
    return tuple(sorted(found))


def sequence_content(tokenizer, family: Family, prompt: str, length: int) -> tuple[int, ...]:
    """Find a prompt's own tokens in the conditioning of a transformer, (1, length, C): those of each of its words."""
    words = dict.fromkeys(WORD.findall(EMBEDDED.sub(" ", prompt)))
    found = [sequence_positions(tokenizer, family, prompt, word, length, missing_ok=True) for word in words]
    return tuple(sorted({at for places in found for at in places}))
