"""A pipeline's tokenizers and text encoders, with learned words in the place of placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..backbone import Conditioning, LearnedWords
from ..families import Family
from ..prompts import PLACEHOLDER, find_tokens, mark_words, too_long, unknown_word, vector_numbers, word_not_found
from .loading import Pipeline
from .placing import placed


class TextEncoders:
    """The text encoders of a pipeline, by the names that its family gives them."""

    def __init__(self, pipeline: Pipeline, family: Family, device: torch.device):
        self.pipeline, self.family, self.device = pipeline, family, device

    def parts(self, name: str) -> tuple:
        """Return transformers' own tokenizer and text encoder of this name."""
        if name == "clip_g":
            return self.pipeline.tokenizer_2, self.pipeline.text_encoder_2
        return self.pipeline.tokenizer, self.pipeline.text_encoder

    def modules(self) -> list[nn.Module]:
        """List the text encoders in the family's order."""
        return [self.parts(name)[1] for name in self.family.encoders]

    def encode(self, prompt: str, words: LearnedWords) -> Conditioning:
        """Encode a prompt as the contract says."""
        with placed(self.device, self.modules()):
            outputs = [self._encode(name, prompt, words) for name in self.family.encoders]
        context = torch.cat([context for context, _ in outputs], dim=-1)
        return Conditioning({"context": context, **({"pooled": outputs[-1][1]} if self.family.pooled else {})})

    def _encode(self, name: str, prompt: str, words: LearnedWords) -> tuple[Tensor, Tensor]:
        _, encoder = self.parts(name)
        ids, learned = self._tokenize(name, prompt, words)
        rows = {at: words[word][name][number] for at, (word, number) in learned.items()}
        inner = self.family.text_layer != -1
        with _embedding_rows(encoder, rows):
            out = encoder(ids.to(self.device), output_hidden_states=inner)
        if inner:  # without the final norm
            return out.hidden_states[self.family.text_layer].float(), out[0].float()
        return out.last_hidden_state.float(), out.pooler_output

    def _tokenize(self, name: str, prompt: str, words: LearnedWords) -> tuple[Tensor, dict[int, tuple[str, int]]]:
        """Token numbers (1, T), and for each position of a learned vector its placeholder and its number there."""
        tokenizer, encoder = self.parts(name)
        counts = {placeholder: len(vectors[name]) for placeholder, vectors in words.items()}
        text, marked_words = mark_words(prompt, counts, PLACEHOLDER, tokenizer.bos_token)
        longest = encoder.config.max_position_embeddings
        ids = tokenizer(text, padding="max_length", max_length=longest, return_tensors="pt").input_ids  # (1, T)
        if ids.shape[1] > longest:
            raise too_long(prompt, ids.shape[1] - 2, longest - 2)
        marked = (ids[0] == tokenizer.bos_token_id).nonzero()[1:, 0].tolist()
        numbered = zip(marked_words, vector_numbers(marked_words, counts), strict=True)
        return ids, dict(zip(marked, numbered, strict=True))

    def positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        """Find a word's tokens as the contract says."""
        found = find_tokens(*(self._content(text, words) for text in (prompt, word)))
        if not found:
            raise word_not_found(word, prompt)
        return tuple(at + 1 for at in found)  # behind the start token

    def _content(self, text: str, words: LearnedWords) -> list[int | tuple[str, int]]:
        """What stands between the start token and the first end token; the encoders of a model agree on it."""
        name = self.family.encoders[0]
        ids, learned = self._tokenize(name, text, words)
        tokens = ids[0].tolist()
        end = tokens.index(self.parts(name)[0].eos_token_id)
        return [learned.get(at, tokens[at]) for at in range(1, end)]

    def vectors(self, word: str) -> dict[str, Tensor]:
        """Copy a word's embedding rows as the contract says."""
        rows = {}
        for name in self.family.encoders:
            tokenizer, encoder = self.parts(name)
            ids = tokenizer(word, add_special_tokens=False, return_tensors="pt").input_ids[0]
            if tokenizer.unk_token_id in ids.tolist():
                raise unknown_word(word)
            weight = encoder.get_input_embeddings().weight
            rows[name] = weight.detach()[ids.to(weight.device)].to("cpu", torch.float32)
        return rows

    def tables(self) -> dict[str, Tensor]:
        """Return the encoders' token tables as the contract says."""
        tables = (encoder.get_input_embeddings() for encoder in self.modules())
        return {name: table.weight.detach() for name, table in zip(self.family.encoders, tables, strict=True)}


@contextmanager
def _embedding_rows(encoder: nn.Module, rows: Mapping[int, Tensor]) -> Iterator[None]:
    """Put vectors (C,) in place of the token embeddings at these positions of a batch of one; differentiable."""

    def replace(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:  # (1, T, C)
        tokens = list(output[0].unbind())
        for position, vector in rows.items():
            tokens[position] = vector.to(output)
        return torch.stack(tokens)[None]

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
