"""Words whose embedding is at hand, in prompts for the host's CLIP: no file in the embeddings folder is needed.

The host's tokenizers accept a vector in the place of a token number. To find that place whatever the prompt's syntax
(weights, brackets), a word is replaced by the tokenizer's own start token, which no prompt holds otherwise, and that
token by the vector once the host has split the text.
"""

from __future__ import annotations

import re

from torch import Tensor

from ..palp_core.prompts import mark_words, vector_numbers

Words = dict[str, dict[str, Tensor]]  # text in the prompt -> encoder (clip_l, clip_g, clip_h) -> (N, C)


class LearnedWordsTokenizer:
    """The host's tokenizer, with further words; everything else is the host's."""

    def __init__(self, tokenizer, words: Words):
        if isinstance(tokenizer, LearnedWordsTokenizer):
            tokenizer, words = tokenizer.tokenizer, {**tokenizer.words, **words}
        self.tokenizer = tokenizer
        self.words = words
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        self.pattern = re.compile(f"(?:{'|'.join(longest_first)})(?!\\w)")

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list[list[tuple]]]:
        """Rows of (token number or vector (C,), weight, ...) for each encoder, as the host makes them."""
        if not self.pattern.search(text):
            return self.tokenizer.tokenize_with_weights(text, return_word_ids, **kwargs)
        counts = {word: len(next(iter(vectors.values()))) for word, vectors in self.words.items()}
        key, encoder = next(iter(_encoders(self.tokenizer).items()))
        marker = encoder.tokenizer.bos_token
        if marker in text:
            raise ValueError(
                f"the prompt {text!r} holds {marker}, which cannot stand beside a learned word. Remove it."
            )
        marked, found = mark_words(text, counts, self.pattern, marker)
        rows = self.tokenizer.tokenize_with_weights(marked, return_word_ids, **kwargs)
        numbers = vector_numbers(found, counts)
        for key, encoder in _encoders(self.tokenizer).items():
            vectors = [self.words[word][f"clip_{key}"][n] for word, n in zip(found, numbers, strict=True)]
            rows[key] = _put_vectors(rows[key], encoder.start_token, vectors)
        return rows

    def __getattr__(self, name: str):
        if name.startswith("__"):  # asked for by copy, before there is a tokenizer to ask
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def clip_with_words(clip, words: Words):
    """A clone of the host's CLIP that knows the words; the CLIP given is not changed."""
    clone = clip.clone()
    clone.tokenizer = LearnedWordsTokenizer(clip.tokenizer, words)
    return clone


def _encoders(tokenizer) -> dict:
    """The key of each encoder in the host's token rows (l, g, h) -> its own tokenizer."""
    return {key: getattr(tokenizer, f"clip_{key}") for key in "lgh" if hasattr(tokenizer, f"clip_{key}")}


def _put_vectors(rows: list[list[tuple]], marker: int, vectors: list[Tensor]) -> list[list[tuple]]:
    """Replace every marker but a row's own first token by the next vector."""
    waiting = iter(vectors)
    return [
        [
            (next(waiting), *entry[1:]) if at and isinstance(entry[0], int) and entry[0] == marker else entry
            for at, entry in enumerate(row)
        ]
        for row in rows
    ]
