"""A pipeline's text encoders: prompts of any length, with weights and learned words, as ComfyUI reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..backbone import Conditioning, LearnedWords
from ..families import Family
from ..prompt_weights import weighted_parts
from ..prompts import check_embeddings, find_tokens, unknown_word, word_not_found, words_pattern
from ..windows import in_windows
from .loading import Pipeline
from .placing import placed


class Token(NamedTuple):
    """One place of a prompt."""

    #: Its number in the vocabulary, or a learned word and which of its vectors.
    what: int | tuple[str, int]
    weight: float = 1.0


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
        """Encode a prompt as the contract says, with ComfyUI's weights, in as many windows as it takes."""
        with placed(self.device, self.modules()):
            outputs = [self._encode(name, prompt, words) for name in self.family.encoders]
        context = torch.cat([context for context, _ in outputs], dim=-1)
        return Conditioning({"context": context, **({"pooled": outputs[-1][1]} if self.family.pooled else {})})

    def _encode(self, name: str, prompt: str, words: LearnedWords) -> tuple[Tensor, Tensor]:
        """What one encoder says of all windows, (1, T, C), and of the first one pooled, (1, P)."""
        rows = self._rows(name, prompt, words)
        weights = torch.tensor([[token.weight for token in row] for row in rows], device=self.device)[..., None]
        weighted = bool((weights != 1).any())
        states, pooled = self._run(name, rows + self._rows(name, "", {}) if weighted else rows, words)
        if weighted:  # a weight moves a token away from what stands there in the empty prompt
            states = torch.lerp(states[-1:], states[:-1], weights)
        return states.flatten(0, 1)[None], pooled[:1]

    def _run(self, name: str, rows: list[list[Token]], words: LearnedWords) -> tuple[Tensor, Tensor]:
        """What an encoder says of windows, (N, T, C), and pooled, (N, P)."""
        tokenizer, encoder = self.parts(name)
        stand_in, tokens = tokenizer.bos_token_id, [token.what for row in rows for token in row]
        numbers = torch.tensor([what if isinstance(what, int) else stand_in for what in tokens], device=self.device)
        learned = {at: words[what[0]][name][what[1]] for at, what in enumerate(tokens) if not isinstance(what, int)}
        inner = self.family.text_layer != -1
        with _embedding_rows(encoder, learned):
            out = encoder(numbers.view(len(rows), -1), output_hidden_states=inner)
        if inner:  # without the final norm
            return out.hidden_states[self.family.text_layer].float(), out[0].float()
        return out.last_hidden_state.float(), out.pooler_output

    def _rows(self, name: str, prompt: str, words: LearnedWords) -> list[list[Token]]:
        """Split a prompt into windows that an encoder reads at once, each with its start, its end and what fills it."""
        tokenizer, encoder = self.parts(name)
        longest = encoder.config.max_position_embeddings
        start, end, pad = (Token(n) for n in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id))
        windows = in_windows(self._groups(name, prompt, words), longest - 2)
        return [[start, *window, end, *[pad] * (longest - 2 - len(window))] for window in windows]

    def _groups(self, name: str, prompt: str, words: LearnedWords) -> Iterator[list[Token]]:
        """Split a prompt into the tokens of each text, and those of each learned word."""
        tokenizer, _ = self.parts(name)
        pattern = words_pattern(words)
        for text, weight in weighted_parts(prompt):
            at = 0
            for match in [*pattern.finditer(text), None]:
                plain = text[at : match.start() if match else None]
                check_embeddings(prompt, plain, words)
                numbers = tokenizer(plain, add_special_tokens=False, verbose=False).input_ids
                yield [Token(number, weight) for number in numbers]
                if match:
                    yield [Token((match[0], n), weight) for n in range(len(words[match[0]][name]))]
                    at = match.end()

    def positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        """Find a word's tokens as the contract says."""
        (places, tokens), (_, wanted) = (self._content(text, words) for text in (prompt, word))
        found = find_tokens(tokens, wanted)
        if not found:
            raise word_not_found(word, prompt)
        return tuple(places[at] for at in found)

    def _content(self, text: str, words: LearnedWords) -> tuple[list[int], list[int | tuple[str, int]]]:
        """Where in the conditioning a text's own tokens stand, and which they are; a model's encoders agree on both."""
        name = self.family.encoders[0]
        rows, end = self._rows(name, text, words), self.parts(name)[0].eos_token_id
        own = [(n, row[1 : [token.what for token in row].index(end)]) for n, row in enumerate(rows)]
        places = [n * len(rows[0]) + 1 + at for n, tokens in own for at in range(len(tokens))]
        return places, [token.what for _, tokens in own for token in tokens]

    def vectors(self, word: str) -> dict[str, Tensor]:
        """Copy a word's embedding rows as the contract says."""
        rows = {}
        for name in self.family.encoders:
            tokenizer, encoder = self.parts(name)
            ids = [token.what for group in self._groups(name, word, {}) for token in group]
            if tokenizer.unk_token_id in ids:
                raise unknown_word(word)
            weight = encoder.get_input_embeddings().weight
            rows[name] = weight.detach()[ids].to("cpu", torch.float32)
        return rows

    def tables(self) -> dict[str, Tensor]:
        """Return the encoders' token tables as the contract says."""
        tables = (encoder.get_input_embeddings() for encoder in self.modules())
        return {name: table.weight.detach() for name, table in zip(self.family.encoders, tables, strict=True)}


@contextmanager
def _embedding_rows(encoder: nn.Module, rows: Mapping[int, Tensor]) -> Iterator[None]:
    """Put vectors (C,) in place of the embeddings of some tokens, counted over all windows; differentiable."""

    def replace(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:  # (N, T, C)
        tokens = list(output.flatten(0, 1).unbind())
        for position, vector in rows.items():
            tokens[position] = vector.to(output)
        return torch.stack(tokens).view_as(output)

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
