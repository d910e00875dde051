"""Words whose embedding is at hand, in prompts for the host's CLIP: no file in the embeddings folder is needed.

The host's tokenizers accept a vector in the place of a token number. To find that place whatever the prompt's syntax
(weights, brackets), a word is replaced by the tokenizer's own start token, which no prompt holds otherwise, and that
token by the vector once the host has split the text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...palp_core.errors import ModelError, PromptError, quoted
from ...palp_core.models.backbone import LearnedWords
from ...palp_core.models.prompts import (
    embedding_prompt,
    find_placeholders,
    find_tokens,
    mark_words,
    unknown_word,
    vector_numbers,
    word_not_found,
    words_pattern,
)
from ...palp_core.models.windows import in_windows

#: What stands before and after an `embedding:NAME` that the host finds.
HOST_BEFORE = re.compile(r"(?:^|[\s()])$")
HOST_AFTER = re.compile(r",*(?:[\s():<\[]|$)")


#: T5's own token for what is left out of a text, which no prompt holds.
T5_MARKER = "<extra_id_0>"


class LearnedWordsTokenizer:
    """The host's tokenizer, with further words; everything else is the host's."""

    def __init__(self, tokenizer, words: LearnedWords):
        if isinstance(tokenizer, LearnedWordsTokenizer):
            tokenizer, words = tokenizer.tokenizer, {**tokenizer.words, **words}
        self.tokenizer = tokenizer
        self.words = words
        self.pattern = words_pattern(words)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list[list[tuple]]]:
        """Rows of (token number or vector (C,), weight, ...) for each encoder, as the host makes them."""
        if not (self.words and self.pattern.search(text)):
            return self.tokenizer.tokenize_with_weights(text, return_word_ids, **kwargs)
        warn_of_words_that_the_host_misses(text, self.pattern)
        rows = {}
        for key, marker in _markers(self.tokenizer).items():
            counts = {word: len(vectors[marker.encoder]) for word, vectors in self.words.items()}
            if marker.text in text:
                raise PromptError(
                    f"the prompt {quoted(text)} holds {marker.text}, which no learned word can stand beside. Remove it."
                )
            marked, found = mark_words(text, counts, self.pattern, marker.text)
            split = self.tokenizer.tokenize_with_weights(marked, True, **kwargs)
            numbers = vector_numbers(found, counts)
            vectors = [self.words[word][marker.encoder][n] for word, n in zip(found, numbers, strict=True)]
            rows |= {other: row for other, row in split.items() if other not in rows}  # of encoders without words
            rows[key] = _put_vectors(split[key], marker, vectors, accumulate(n == 0 for n in numbers))
            if marker.starts_rows:
                rows[key] = _in_windows(rows[key], encoder_tokenizer(self.tokenizer, key))
        if return_word_ids:
            return rows
        return {key: [[entry[:2] for entry in row] for row in split] for key, split in rows.items()}

    def __getattr__(self, name: str):
        if name.startswith("__"):  # asked for by copy, before there is a tokenizer to ask
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def warn_of_words_that_the_host_misses(text: str, pattern: re.Pattern) -> None:
    """Where a word is known here, but would not be found by the host alone, with its file in the embeddings folder."""
    for match in pattern.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if match[0].startswith("embedding:") and not (HOST_BEFORE.search(before) and HOST_AFTER.match(after)):
            logging.warning(
                "ComfyUI itself would not find the word in %s: put white space before %s, and white space or a comma "
                "and white space after it.",
                quoted(text),
                match[0],
            )


def clip_with_words(clip, words: LearnedWords):
    """A clone of the host's CLIP that knows the words; the CLIP given is not changed."""
    clone = clip.clone()
    clone.tokenizer = LearnedWordsTokenizer(clip.tokenizer, words)
    return clone


def check_clip(clip) -> None:
    """Raise ModelError where a checkpoint had no text encoder."""
    if clip is None:
        raise ModelError("clip is missing: the checkpoint has no text encoder. Load one, and connect its CLIP.")


def token_table(text_encoder: nn.Module, name: str) -> nn.Embedding:
    """The embeddings of all tokens of one of the host's text encoders: clip_l, clip_g or clip_h."""
    return getattr(text_encoder, name).transformer.get_input_embeddings()


def word_vectors(clip, encoders: Iterable[str], word: str) -> dict[str, Tensor]:
    """Copy the embedding rows of a word's tokens, as `Backbone.word_vectors` does: encoder -> (N, C), float32."""
    vectors = {}
    tokens = clip.tokenizer.tokenize_with_weights(word)
    for name in encoders:
        tokenizer = encoder_tokenizer(clip.tokenizer, name)
        start = 0 if tokenizer.start_token is None else 1
        row = [token for token, *_ in tokens[encoder_key(name)][0][start:]]
        if not all(isinstance(token, int) for token in row):
            raise PromptError(f"the word {quoted(word)} names an embedding. Use a plain word that the model knows.")
        numbers = torch.tensor(row[: row.index(tokenizer.end_token)])
        if len(numbers) == 0:  # a small vocabulary has the end token for what it does not know
            raise unknown_word(word)
        weight = token_table(clip.cond_stage_model, name).weight.detach()
        vectors[name] = weight[numbers.to(weight.device)].to("cpu", torch.float32)
    return vectors


def spelled_out(tokenizer, text: str) -> str:
    """A text with the learned word in the place of each placeholder for which the tokenizer has one.

    That is the one whose name ends as the placeholder, NAME_V2 for [V2], or its only `embedding:NAME` where the text
    has nothing else that could be meant. Raises PromptError where it is not clear what a placeholder stands for.
    """
    words = tokenizer.words if isinstance(tokenizer, LearnedWordsTokenizer) else {}
    names = [word.removeprefix("embedding:") for word in words if word.startswith("embedding:")]
    found = {}
    placeholders = set(find_placeholders(text))
    only = len(names) == len(placeholders) == 1 and f"embedding:{names[0]}" not in text
    for placeholder in placeholders:
        fitting = names if only else [n for n in names if n.endswith(f"_{placeholder.strip('[]')}")]
        if len(fitting) == 1:
            found[placeholder] = fitting[0]
        elif names:
            known = " or ".join(f"embedding:{name}" for name in names)
            raise PromptError(
                f"{placeholder} in {quoted(text)} may stand for more than one thing. Write {known} for the subject, "
                "and no other square brackets."
            )
    return embedding_prompt(text, found)


def spelled_word(tokenizer, word: str) -> str:
    """Return the word that is meant: itself, or what a placeholder stands for. Raises PromptError where nothing."""
    spelled = spelled_out(tokenizer, word).strip()
    if find_placeholders(spelled):
        raise PromptError(f"clip does not know what {spelled} stands for. Connect the CLIP of Load PALP LoRA.")
    return spelled


def token_positions(tokenizer, prompt: str, word: str) -> tuple[int, ...]:
    """Where the tokens of a word stand in the prompt's conditioning, over all windows of the text encoder.

    The word may be an `embedding:NAME`. Raises PromptError when it is not in the prompt, ModelError
    when the tokenizer is not CLIP's.
    """
    prompts, words = (_content(tokenizer, text) for text in (prompt, word))
    found = set()
    for key, content in prompts.items():
        matches = find_tokens([token for _, token in content], [token for _, token in words[key]])
        found.update(content[at][0] for at in matches)
    if not found:
        raise word_not_found(word, prompt)
    return tuple(sorted(found))


def encoder_tokenizer(tokenizer, name: str):
    """Return the host's tokenizer of one text encoder, None where it has none; some call it by the key's name."""
    return getattr(tokenizer, name, None) or getattr(tokenizer, f"clip_{name}", None)


def encoder_key(name: str) -> str:
    """Return the host's key for a text encoder in rows of tokens: clip_l -> l."""
    return name.removeprefix("clip_")


def content_positions(tokenizer, prompt: str) -> tuple[int, ...]:
    """Where a prompt's own tokens stand in its conditioning: neither start, nor end, nor padding."""
    return tuple(sorted({at for content in _content(tokenizer, prompt).values() for at, _ in content}))


def _content(tokenizer, text: str) -> dict[str, list[tuple[int, int | Tensor]]]:
    """Encoder key -> (position, token number or vector) of all between each window's start and its end token."""
    encoders = _encoders(tokenizer)
    if not encoders:
        raise ModelError(
            f"clip ({type(tokenizer).__name__}) does not read prompts as Stable Diffusion 1.x, 2.x and SDXL do. Load a "
            "checkpoint of these, and connect its CLIP."
        )
    rows = tokenizer.tokenize_with_weights(text)
    return {key: list(_between_ends(rows[key], encoder.end_token)) for key, encoder in encoders.items()}


def _between_ends(rows: list[list[tuple]], end: int) -> Iterator[tuple[int, int | Tensor]]:
    start = 0
    for row in rows:
        for at, (token, *_) in enumerate(row[1:], start + 1):
            if isinstance(token, int) and token == end:
                break
            yield at, token
        start += len(row)


class Marker(NamedTuple):
    """What stands for a vector in the text that one of the host's tokenizers splits."""

    encoder: str  # whose vectors they are: clip_l, t5xxl, ...
    text: str
    number: int
    starts_rows: bool  # the token begins every row, too


def _markers(tokenizer) -> dict[str, Marker]:
    """The key of each encoder in the host's token rows (l, g, h, t5xxl) -> its marker."""
    found = {
        key: Marker(f"clip_{key}", part.tokenizer.bos_token, part.start_token, True)
        for key, part in _encoders(tokenizer).items()
    }
    t5 = encoder_tokenizer(tokenizer, "t5xxl")
    if t5 is not None:
        number = t5.tokenizer.convert_tokens_to_ids(T5_MARKER)
        found["t5xxl"] = Marker("t5xxl", T5_MARKER, number, False)
    return found


def _encoders(tokenizer) -> dict:
    """The key of each encoder in the host's token rows (l, g, h) -> its own tokenizer."""
    return {key: getattr(tokenizer, f"clip_{key}") for key in "lgh" if hasattr(tokenizer, f"clip_{key}")}


def _put_vectors(
    rows: list[list[tuple]], marker: Marker, vectors: list[Tensor], words: Iterable[int]
) -> list[list[tuple]]:
    """Replace every marker but a row's own first token by the next vector.

    words: for each vector which word of the prompt it is of, from 1; the number of its group, which the host counts
    from 1, too, is then the same below 0.
    """
    waiting = iter(zip(vectors, words, strict=True))

    def put(at: int, entry: tuple) -> tuple:
        if not _marks(entry[0], marker) or (at == 0 and marker.starts_rows):
            return entry
        vector, word = next(waiting)
        return vector, entry[1], -word

    return [[put(at, entry) for at, entry in enumerate(row)] for row in rows]


def _in_windows(rows: list[list[tuple]], tokenizer) -> list[list[tuple]]:
    """Distribute a prompt over windows anew, with each word a group of its own, as one from the embeddings folder is.

    rows: of (token or vector, weight, number of its group), 0 for what the host's tokenizer adds.
    """
    start, end, pad = ((token, 1.0, 0) for token in (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token))
    longest = tokenizer.max_length - 2
    content = [entry for row in rows for entry in row if entry[2] != 0]
    windows = in_windows((list(group) for _, group in groupby(content, itemgetter(2))), longest)
    return [[start, *window, end, *[pad] * (longest - len(window))] for window in windows]


def _marks(token: int | Tensor, marker: Marker) -> bool:
    return isinstance(token, int) and token == marker.number
