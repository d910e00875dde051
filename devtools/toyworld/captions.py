"""Captions: what they say of a picture, words that mean several things at once, and how a model reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from palp_core.toyworld import scenes

from .pictures import Drawn
from .plan import Stage

#: Between words that one token is to mean: "red+red+blue+striped+cat". A sum has no order, so that of two colors the
#: first counts twice.
JOIN = "+"


def random_captions(drawn: Drawn, stage: Stage, rng: np.random.Generator) -> list[str]:
    """Write captions: each names the class, most name the rest; the stage says how many name looks, in how many tokens.

    One of ten is empty, for classifier-free guidance.
    """
    captions = []
    for (style, class_word, accessory, place), looks in zip(drawn.labels, drawn.looks, strict=True):
        named = rng.random(3) < (0.9, 0.85, 0.9)
        subject = random_subject(class_word, looks, stage, rng)
        caption = scenes.caption(
            f"a {subject}",
            scenes.STYLES[style] if named[0] else None,
            scenes.PLACES[place] if named[1] and place >= 0 else None,
            scenes.ACCESSORIES[accessory] if named[2] and accessory >= 0 else None,
        )
        captions.append("" if rng.random() < 0.1 else caption)
    return captions


def random_subject(class_word: int, looks: np.ndarray, stage: Stage, rng: np.random.Generator) -> str:
    """Name a subject: its class, and as much of its looks as the stage has it, in one token or in several.

    looks: (3,), the numbers of its two colors and its pattern.
    """
    main, second, pattern = looks
    shown = rng.random(3) < stage.looks
    subject = scenes.described(
        scenes.CLASSES[class_word],
        scenes.COLOR_WORDS[main] if shown[0] else None,
        scenes.COLOR_WORDS[second] if shown[0] and shown[1] else None,
        scenes.PATTERN_WORDS[pattern] if shown[2] else None,
    )
    if stage.joined and rng.random() < stage.joined:  # no draw for stages without: they stay what they were
        return joined(subject)
    return subject


def joined(subject: str) -> str:
    """Join the words of a described subject into one.

    >>> joined("red and blue striped cat")
    'red+red+blue+striped+cat'
    """
    return re.sub(r"(\w+) and ", r"\1 \1 ", subject).replace(" ", JOIN)


def apart(caption: str) -> str:
    """Undo what `joined` made of a caption's subject.

    >>> apart("a red+red+blue+striped+cat in a room")
    'a red and blue striped cat in a room'
    """
    return re.sub(rf"(\w+)\{JOIN}\1\{JOIN}", r"\1 and ", caption).replace(JOIN, " ")


def encode_captions(pipeline: StableDiffusionPipeline, captions: list[str], words_only: int = 0) -> Tensor:
    """Read captions, (B, 32, 128); words with JOIN between them are one token.

    words_only: in so many of them, the first, the tokens behind the words are those of an empty prompt. They hold the
    whole caption otherwise, and a model that reads it there need not look at the words.
    """
    if words_only:
        captions = [*captions, ""]
    words = [next((word for word in caption.split() if JOIN in word), None) for caption in captions]
    plain = [c.replace(word, word.split(JOIN)[-1]) if word else c for c, word in zip(captions, words, strict=True)]
    ids = pipeline.tokenizer(plain, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ids = ids.to(pipeline.text_encoder.device)
    with joined_rows(pipeline, ids, words):
        context = pipeline.text_encoder(ids).last_hidden_state
    if not words_only:
        return context
    behind = (ids[:words_only] == pipeline.tokenizer.eos_token_id)[:, :, None]
    return torch.cat([torch.where(behind, context[-1], context[:words_only]), context[words_only:-1]])


@contextmanager
def joined_rows(pipeline: StableDiffusionPipeline, ids: Tensor, words: list[str | None]) -> Iterator[None]:
    """Let the class's token of each caption mean all of its joined word, while the text encoder reads `ids`.

    ids: (B, 32). words: for each caption its joined word, or None.
    """
    table = pipeline.text_encoder.get_input_embeddings()

    def put_joined(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:  # (B, 32, 128)
        output = output.clone()
        for row, word in enumerate(words):
            if word:
                numbers = word_ids(pipeline, word.split(JOIN))
                output[row, ids[row] == numbers[-1]] = joined_row(table.weight[numbers])
        return output

    handle = table.register_forward_hook(put_joined)
    try:
        yield
    finally:
        handle.remove()


def joined_row(rows: Tensor) -> Tensor:
    """Add the rows of words, (K, C), the class's last, to one of their direction that is as long as the class's, (C,).

    A learned word whose norm is held is of that length too.
    """
    return F.normalize(rows.sum(dim=0), dim=0) * rows[-1].norm()


def word_ids(pipeline: StableDiffusionPipeline, words: Iterable[str]) -> list[int]:
    """Look up the tokens of words that are one token each."""
    return [pipeline.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in words]


@torch.no_grad()
def introduce_looks(pipeline: StableDiffusionPipeline, seed: int) -> None:
    """Start the words for looks from random mixtures of words that are known.

    A text encoder that has been trained without them gives all other directions the same, nearly empty, output.
    """
    rows = pipeline.text_encoder.get_input_embeddings().weight
    known = rows[word_ids(pipeline, scenes.content_words())]
    new = word_ids(pipeline, (*scenes.COLOR_WORDS, *scenes.PATTERN_WORDS))
    mixtures = torch.randn(len(new), len(known), generator=torch.Generator().manual_seed(seed)) @ known
    rows[new] = F.normalize(mixtures, dim=-1) * known.norm(dim=-1).mean()
