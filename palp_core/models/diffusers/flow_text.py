"""The text encoders of pipelines with transformers: read by the pipeline's own code, weights as ComfyUI reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...errors import PromptError
from ..backbone import Conditioning, LearnedWords
from ..prompt_weights import plain_text, token_weights, without_escapes
from ..prompts import check_embeddings, find_tokens, too_long, word_not_found
from .architecture import Architecture, Reader
from .placing import placed

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class FlowText:
    """The text encoders of a pipeline, read through its own `encode_prompt`."""

    def __init__(self, pipeline, architecture: Architecture, device: torch.device):
        self.pipeline, self.architecture, self.device = pipeline, architecture, device

    def modules(self) -> list[nn.Module]:
        """List the text encoders that there are."""
        found = (getattr(self.pipeline, name, None) for name in ENCODERS)
        return [encoder for encoder in found if encoder is not None]

    @torch.no_grad()
    def encode(self, prompt: str, words: LearnedWords) -> Conditioning:
        """Encode a prompt as the contract says. Raises PromptError where it holds a learned word."""
        if words:
            raise no_words(self.architecture)
        check_readable(self.pipeline, self.architecture, prompt)
        tensors = self._run(read_text(self.architecture, prompt))
        weights = self._weights(prompt, tensors["text"].shape[1])
        if (weights != 1).any():  # a weight moves a token away from what stands there in the empty prompt
            tensors["text"] = torch.lerp(self._run("")["text"], tensors["text"], weights[:, None])
        return Conditioning(tensors)

    def _run(self, text: str) -> dict[str, Tensor]:
        """What the encoders say of a text, by name."""
        options = {"device": self.device, "max_sequence_length": self.architecture.most_tokens}
        with placed(self.device, self.modules()):
            tensors = self.architecture.encode(self.pipeline, text, **options)
        return {name: tensor.float() for name, tensor in tensors.items()}

    def _weights(self, prompt: str, length: int) -> Tensor:
        """Weigh each place of the conditioning; (T,), all 1 where the encoders read no weights."""
        weights = torch.ones(length, device=self.device)
        for reader in self.architecture.readers(self.pipeline) if self.architecture.reads_weights else ():
            added = len(reader.tokenizer("").input_ids)  # an end, and what stands before the text
            own = token_weights(prompt, lambda text, r=reader, n=added: len(r.tokenizer(text).input_ids) - n)
            own = own[: reader.limit - added]
            start = reader.start + added - 1
            weights[start : start + len(own)] = torch.tensor(own, device=self.device)
        return weights

    def positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        """Find a word's tokens as the contract says."""
        if words:
            raise no_words(self.architecture)
        readers, text = self.architecture.readers(self.pipeline), _template(self.pipeline, self.architecture, prompt)
        found = sorted({place for reader in readers for place in _places(reader, text, word)})
        if not found:
            raise word_not_found(word, prompt)
        return tuple(found)

    def vectors(self, word: str) -> dict[str, Tensor]:
        """Raise PromptError: a text stands for a subject."""
        raise no_words(self.architecture)

    def tables(self) -> dict[str, Tensor]:
        """Raise PromptError: a text stands for a subject."""
        raise no_words(self.architecture)


def no_words(architecture: Architecture) -> PromptError:
    """Make the error for a word that was learned, or is to be."""
    return PromptError(
        f"diffusers reads no learned words on {architecture.family.title}. Let a text stand for the subject "
        "(subject_word text), or use ComfyUI where its text encoder can learn one."
    )


def read_text(architecture: Architecture, prompt: str) -> str:
    """Return a prompt as its text encoders read it, without weights, or with brackets as they stand."""
    return plain_text(prompt) if architecture.reads_weights else without_escapes(prompt)


def check_readable(pipeline, architecture: Architecture, prompt: str) -> None:
    """Raise PromptError for a prompt of which the pipeline would lose the end, or that names a learned word."""
    check_embeddings(prompt, read_text(architecture, prompt), ())
    *_, reader = architecture.readers(pipeline)
    count = len(_tokens(reader, _template(pipeline, architecture, prompt)))
    if count > reader.limit:
        raise too_long(prompt, count, reader.limit)


def _template(pipeline, architecture: Architecture, prompt: str) -> str:
    """The text that the tokenizers split."""
    return architecture.template(pipeline, read_text(architecture, prompt))


def _tokens(reader: Reader, text: str) -> list[int]:
    """Split a text as far as it gets into the conditioning."""
    return reader.tokenizer(text).input_ids[reader.skipped :]


def _places(reader: Reader, text: str, word: str) -> Iterator[int]:
    """Find a word in the conditioning; language models spell it with the space before it."""
    tokens = _tokens(reader, text)[: reader.limit]
    for spelled in (word, f" {word}"):
        wanted = reader.tokenizer(spelled, add_special_tokens=False).input_ids
        yield from (reader.start + at for at in find_tokens(tokens, wanted))
