"""What a word is learned for, and where it starts: Textual Inversion, arXiv 2208.01618, sec. 4 and 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import get_args

import torch
from torch import Tensor

from ..errors import SettingError, printable, quoted
from ..files.embedding_file import Embedding, fitting_vectors
from ..models.backbone import Backbone, WordVectors
from ..models.prompts import check_prompt
from ..training.data import Example, Photo, check_images_and_masks, random_index
from .subjects import mean_vectors, named_without_article
from .templates import SLOT, TEMPLATES, WORD, Kind

MOST_VECTORS = 16
#: Deviation between several vectors that start from one word, as a share of its norm: alike, they would learn alike.
SPREAD = 0.05


@dataclass(frozen=True)
class Concept:
    """What the word stands for, and where it starts."""

    #: Pictures of it, each (H, W, 3) in 0..1; sizes may differ. The paper has 3 to 5. Of (H, W, 4) the alpha is the
    #: mask, where none is given.
    images: tuple[Tensor, ...]
    #: The coarse word it starts from, one that the model knows: "cat", "painting". Empty with an initial embedding.
    initial_word: str = ""
    #: Which templates it is learned with: an object is in the picture, a style is how the picture is made.
    kind: Kind = "object"
    #: For each image a mask (H, W) in 0..1, white where the concept is, or None; empty where all of each image counts.
    masks: tuple[Tensor | None, ...] = ()
    #: Sentences with {} for the word, in place of the kind's own.
    templates: tuple[str, ...] = ()
    #: For each image a sentence that describes it, with {} for the word, in place of templates.
    captions: tuple[str, ...] = ()
    #: A word learned before, to start from in place of the initial word; it brings its number of vectors.
    initial_embedding: Embedding | None = None
    #: Whether the initial word may be several tokens, of whose embeddings it is then the mean.
    averaged: bool = False
    #: Whether the masks that are given are black where the concept is; an image's alpha never is.
    invert_masks: InitVar[bool] = False
    #: What is to be said of it to whoever made it, in sentences, which are logged.
    notes: tuple[str, ...] = field(default=(), init=False, compare=False)

    def __post_init__(self, invert_masks: bool) -> None:
        word, article = named_without_article("initial_word", self.initial_word)
        object.__setattr__(self, "initial_word", word)
        checked = check_images_and_masks("the concept", self.images, self.masks, invert_masks)
        for name, value in checked._asdict().items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "notes", article + self.notes)
        if self.kind not in get_args(Kind):
            raise SettingError(f"kind is {printable(repr(self.kind))}; it must be one of {', '.join(get_args(Kind))}.")
        check_prompt("initial_word", self.initial_word)
        if not self.initial_word.strip() and self.initial_embedding is None:
            raise SettingError("initial_word is empty. Say coarsely what the pictures show, for example: cat.")
        if self.captions and len(self.captions) != len(self.images):
            raise SettingError(
                f"captions: there are {len(self.images)} images but {len(self.captions)} captions. Write one for "
                "each image, or none."
            )
        for name in ("templates", "captions"):
            for text in getattr(self, name):
                check_prompt(name, text)
                if SLOT not in text:
                    raise SettingError(
                        f"{name}: {quoted(text)} has no {SLOT}. Write {SLOT} where the learned word stands."
                    )

    @property
    def sentences(self) -> tuple[str, ...]:
        """List what it is learned with, {} for the word: a caption for each image, else templates."""
        return self.captions or self.templates or TEMPLATES[self.kind]

    def draw_sentences(self, examples: Sequence[Example], random: torch.Generator) -> list[Photo]:
        """Say of each sample its caption, else one template of all, drawn for all of them; and its size."""
        texts = self.captions
        if not texts:
            texts = [self.sentences[random_index(len(self.sentences), random)]] * len(self.images)
        return [Photo(texts[example.number], example.size) for example in examples]


@torch.no_grad()
def check_sentences(backbone: Backbone, concept: Concept, word: WordVectors) -> None:
    """Raise PromptError for a sentence that is too long to a text encoder with this word in it."""
    own = concept.captions or concept.templates
    for text in own or [max(concept.sentences, key=len)]:
        backbone.encode_prompt(text.replace(SLOT, WORD), {WORD: word})


def start_vectors(backbone: Backbone, concept: Concept, count: int, seed: int) -> dict[str, Tensor]:
    """Where the word starts: encoder -> (N, C).

    Sec. 4: the embedding of a single coarse word. The second and further vectors differ from it by a little seeded
    noise. Raises SettingError where the initial word is not one token, or the initial embedding is of another family.
    """
    given = first_vectors(backbone, concept)
    if concept.initial_embedding is not None:
        check_rows(concept.initial_embedding.name, given)
        return given
    word, random = concept.initial_word.strip(), torch.Generator().manual_seed(seed)
    single = mean_vectors(given) if concept.averaged else {e: check_single(word, rows) for e, rows in given.items()}
    return {encoder: _spread(row, count, random) for encoder, row in single.items()}


def first_vectors(backbone: Backbone, concept: Concept) -> WordVectors:
    """What is given to start from, as it is: an embedding learned before, else a word's tokens. Encoder -> (N, C)."""
    if concept.initial_embedding is not None:
        return fitting_vectors(concept.initial_embedding, backbone)
    return backbone.word_vectors(concept.initial_word.strip())


def check_rows(name: str, vectors: WordVectors) -> None:
    """Raises SettingError for an embedding of more vectors than a word may have, or with an empty one."""
    count = len(next(iter(vectors.values())))
    if count > MOST_VECTORS:
        raise SettingError(
            f"initial_embedding {name} has {count} vectors; at most {MOST_VECTORS} can be learned. Choose another."
        )
    if not all(rows.norm(dim=-1).all() for rows in vectors.values()):
        raise SettingError(f"initial_embedding {name} holds a vector of zeros. Choose another, or train it anew.")


def check_single(word: str, rows: Tensor) -> Tensor:
    """The embedding (1, C) of a word that is one token. Raises SettingError where it is several."""
    if len(rows) != 1:
        raise SettingError(
            f"initial_word {quoted(word)} is {len(rows)} tokens to the text encoder, which does not know it as one "
            "word. Use a common single word, such as cat, toy, man or painting."
        )
    return rows


def _spread(row: Tensor, count: int, random: torch.Generator) -> Tensor:
    """(1, C) -> (count, C): the row itself, then neighbours of it."""
    noise = torch.randn(count - 1, row.shape[1], generator=random)
    noise = noise * row.norm() * SPREAD / math.sqrt(row.shape[1])
    return torch.cat([row, row + noise])


def relative_distance(vectors: WordVectors, start: WordVectors) -> Tensor:
    """Mean over all rows of |v - v0|^2 / |v0|^2: the regulariser of sec. 5, in units that fit every encoder; ()."""
    distances = [(v - start[e]).square().sum(-1) / start[e].square().sum(-1) for e, v in vectors.items()]
    return torch.cat(distances).mean()
