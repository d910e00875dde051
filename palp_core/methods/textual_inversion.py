"""Textual Inversion: arXiv 2208.01618, sec. 4 (the method) and sec. 5 (the choices it compares).

A word is learned from a few images: the rows of its embedding, in each text encoder, are all that changes. Every step
draws images and a neutral template, such as "a photo of a {}", and takes the model's own denoising loss (eq. 2) down in
those rows. They start from a coarse word that the model knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files.embedding_file import Embedding, fitting_vectors, save_embedding
from ..files.lora_file import architecture
from ..files.names import check_file_name
from ..files.safetensors_file import unreadable
from ..models.backbone import Backbone, Conditioning, WordVectors, concatenate, recomputed_in_backward
from ..training.data import check_pictures
from ..training.objective import (
    Example,
    backpropagate,
    denoising_loss,
    draw_batch,
    draw_noise,
    encode_examples,
    loss_scaler,
    optimizer_step,
    random_index,
    stack_batch,
)
from ..version import __version__
from .personalization import TrainingStep, no_training

Kind = Literal["object", "style"]

LONGEST_STEM = 80  # of a name that the steps of an unfinished run are added to

METADATA_KEY = "palp_embedding"
SLOT = "{}"  # where the word stands in templates and captions
WORD = "[W]"  # what stands there when a prompt is encoded
MOST_VECTORS = 16
MAX_GRAD_NORM = 1.0
#: Deviation between several vectors that start from one word, as a share of its norm: alike, they would learn alike.
SPREAD = 0.05

#: The neutral templates of the paper (supplementary material), each once.
TEMPLATES: dict[Kind, tuple[str, ...]] = {
    "object": (
        "a photo of a {}",
        "a photo of the {}",
        "the photo of a {}",
        "a photo of my {}",
        "a photo of one {}",
        "a photo of a clean {}",
        "a photo of the clean {}",
        "a photo of a dirty {}",
        "a photo of a cool {}",
        "a photo of the cool {}",
        "a photo of a nice {}",
        "a photo of the nice {}",
        "a photo of a small {}",
        "a photo of the small {}",
        "a photo of the large {}",
        "a photo of the weird {}",
        "a good photo of a {}",
        "a good photo of the {}",
        "a bright photo of the {}",
        "a dark photo of the {}",
        "a close-up photo of a {}",
        "a close-up photo of the {}",
        "a cropped photo of a {}",
        "a cropped photo of the {}",
        "a rendering of a {}",
        "a rendition of a {}",
        "a rendition of the {}",
    ),
    "style": (
        "a painting in the style of {}",
        "the painting in the style of {}",
        "a picture in the style of {}",
        "a rendering in the style of {}",
        "a rendition in the style of {}",
        "a cropped painting in the style of {}",
        "a close-up painting in the style of {}",
        "a clean painting in the style of {}",
        "a dirty painting in the style of {}",
        "a dark painting in the style of {}",
        "a bright painting in the style of {}",
        "a cool painting in the style of {}",
        "a good painting in the style of {}",
        "a nice painting in the style of {}",
        "a small painting in the style of {}",
        "a large painting in the style of {}",
        "a weird painting in the style of {}",
    ),
}


@dataclass(frozen=True)
class Concept:
    """What the word stands for, and where it starts."""

    #: Pictures of it, each (H, W, 3) in 0..1; sizes may differ. The paper has 3 to 5.
    images: tuple[Tensor, ...]
    #: The coarse word it starts from, one that the model knows: "cat", "painting". Empty with an initial embedding.
    initial_word: str = ""
    #: Which templates it is learned with: an object is in the picture, a style is how the picture is made.
    kind: Kind = "object"
    #: For each image a mask (H, W) in 0..1, white where the concept is; empty where all of each image counts.
    masks: tuple[Tensor, ...] = ()
    #: Sentences with {} for the word, in place of the kind's own.
    templates: tuple[str, ...] = ()
    #: For each image a sentence that describes it, with {} for the word, in place of templates.
    captions: tuple[str, ...] = ()
    #: A word learned before, to start from in place of the initial word; it brings its number of vectors.
    initial_embedding: Embedding | None = None

    def __post_init__(self) -> None:
        images, masks = check_pictures("the concept", self.images, self.masks)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "masks", masks)
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}.")
        if not self.initial_word.strip() and self.initial_embedding is None:
            raise ValueError("initial_word is empty. Say coarsely what the pictures show, for example: cat.")
        if self.captions and len(self.captions) != len(self.images):
            raise ValueError(
                f"captions: there are {len(self.images)} images but {len(self.captions)} captions. Write one for "
                "each image, or none."
            )
        for name in ("templates", "captions"):
            for text in getattr(self, name):
                if SLOT not in text:
                    raise ValueError(f"{name}: {text!r} has no {SLOT}. Write {SLOT} where the learned word stands.")


@dataclass(frozen=True)
class TextualInversionConfig:
    """Settings of a run. The paper: 5000 steps at batch 8, on LDM's own text encoder, with one vector."""

    #: Optimisation steps; 500 to 5000. One image needs fewer.
    steps: int = 1000
    #: Adam's step for the word; 5e-4 to 5e-3.
    learning_rate: float = 1e-3
    #: Rows of the embedding, 1 to 16: more copy the images better, and follow the rest of the prompt worse.
    vectors: int = 1
    #: Images per step; 1 to 8. More is steadier and slower.
    batch_size: int = 2
    #: Side of a square of the area that images are brought to, pixels; 512 for SD 1.x, 768 for 2.x, 1024 for SDXL.
    resolution: int = 512
    #: Keep each row no longer than the vocabulary's are on average, or than where it starts (up to the vocabulary's
    #: longest), so that it does not drown the prompt's other words.
    hold_norm: bool = True
    #: Pull towards where the word started: weight of its squared distance, relative to its norm. 0 is off; up to 1.
    regularization: float = 0.0
    #: Recompute activations in the backward pass: about 30 % slower, far less memory.
    gradient_checkpointing: bool = False
    #: Of everything random: same seed, same machine, same result (on a GPU up to the rounding of its kernels).
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 1 <= self.vectors <= MOST_VECTORS:
            raise ValueError(f"vectors is {self.vectors}; it must be 1 to {MOST_VECTORS}, typically 1.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must lie between 0 and 1, typically 1e-3.")
        if not 0 <= self.regularization < math.inf:
            raise ValueError(
                f"regularization is {self.regularization}; it must be 0 (off) or a positive number, such as 0.1."
            )
        if self.resolution < 64:
            raise ValueError(f"resolution is {self.resolution}; it must be 64 pixels or more, typically 512.")


class LearnedWord(NamedTuple):
    """What a run has learned, on the CPU, float32."""

    vectors: dict[str, Tensor]  # encoder -> (N, C)
    steps: int  # optimisation steps behind them


class TextualInversion:
    """One run: checks its input when made, trains as `steps()` is iterated, and holds what it has learned.

    Raises ValueError, before any training, that names the argument and the remedy.
    """

    def __init__(self, backbone: Backbone, concept: Concept, config: TextualInversionConfig):
        self.backbone = backbone
        self.concept = concept
        self.config = config
        self.weights: LearnedWord | None = None
        self._trainer: _Trainer | None = None
        self._start = start_vectors(backbone, concept, config)
        with torch.no_grad():
            for text in concept.captions or concept.templates or [max(TEMPLATES[concept.kind], key=len)]:
                backbone.encode_prompt(text.replace(SLOT, WORD), {WORD: self._start})  # raises where it is too long

    def steps(self) -> Iterator[TrainingStep]:
        """Train. The model is put back when the iteration ends, is closed or fails; `weights` then holds the result.

        Raises NonFiniteLossError; the weights are those before the failing step.
        """
        backbone, concept = self.backbone, self.concept
        if torch.is_inference_mode_enabled():
            raise RuntimeError("training needs gradients: call it inside torch.inference_mode(False).")
        examples = encode_examples(backbone, concept.images, concept.masks, self.config.resolution)
        with (
            backbone.training(learn_words=True),
            recomputed_in_backward(backbone.checkpointed_modules() if self.config.gradient_checkpointing else []),
        ):
            self._trainer = trainer = _Trainer(self, examples)
            try:
                for index in range(self.config.steps):
                    yield trainer.step(index)
            finally:
                self.weights = trainer.weights()
                self._trainer = None

    def snapshot(self) -> LearnedWord:
        """What has been learned until now, while `steps()` is being iterated."""
        if self._trainer is None:
            raise no_training()
        return self._trainer.weights()


class _Trainer:
    """The state of a run between two steps: rows, optimizer, random numbers."""

    def __init__(self, run: TextualInversion, examples: list[Example]):
        self.run, self.examples = run, examples
        self.backbone, self.concept, self.config = run.backbone, run.concept, run.config
        self.done = 0
        self.random = torch.Generator().manual_seed(run.config.seed)
        self.start = {e: v.to(run.backbone.device, torch.float32, copy=True) for e, v in run._start.items()}
        self.longest = longest_norms(run.backbone, run.concept)
        if run.config.hold_norm:
            shorten(self.start, self.longest)  # or the regularization would pull to what is out of reach
        self.vectors = {encoder: nn.Parameter(v.clone()) for encoder, v in self.start.items()}
        self.optimizer = torch.optim.AdamW(self.vectors.values(), lr=run.config.learning_rate, weight_decay=0.0)
        self.scaler = loss_scaler(run.backbone)

    @torch.enable_grad()
    def step(self, index: int) -> TrainingStep:
        batch = draw_batch(self.examples, self.config.batch_size, self.random)
        x0, mask, _ = stack_batch(batch, self.backbone.device)
        sigma, noise = draw_noise(self.backbone, x0, self.random)
        denoised = self.backbone.denoise(x0 + sigma.view(-1, 1, 1, 1) * noise, sigma, self._encode(self._texts(batch)))
        denoising = denoising_loss(denoised, x0, self.backbone.loss_weight(sigma), mask)
        pull = self.config.regularization * relative_distance(self.vectors, self.start)
        backpropagate(self.scaler, denoising + pull, index + 1)
        optimizer_step(self.optimizer, self.scaler, MAX_GRAD_NORM, index + 1)
        if self.config.hold_norm:
            shorten(self.vectors, self.longest)
        self.done = index + 1
        return TrainingStep(index, "", sigma.mean().item(), denoising.item(), 0.0, 0.0, pull.item())

    def _texts(self, batch: list[Example]) -> list[str]:
        """The sentence of each sample: its caption, else one template for all, which the encoders then read once."""
        if self.concept.captions:
            return [self.concept.captions[example.number] for example in batch]
        templates = self.concept.templates or TEMPLATES[self.concept.kind]
        return [templates[random_index(len(templates), self.random)]] * len(batch)

    def _encode(self, texts: list[str]) -> Conditioning:
        words = {WORD: self.vectors}
        encoded = {text: self.backbone.encode_prompt(text.replace(SLOT, WORD), words) for text in dict.fromkeys(texts)}
        if len(encoded) == 1:
            return encoded[texts[0]].expand(len(texts))
        return concatenate([encoded[text] for text in texts])

    def weights(self) -> LearnedWord:
        vectors = {e: v.detach().to("cpu", torch.float32, copy=True) for e, v in self.vectors.items()}
        return LearnedWord(vectors, self.done)


def start_vectors(backbone: Backbone, concept: Concept, config: TextualInversionConfig) -> dict[str, Tensor]:
    """Where the word starts: encoder -> (N, C).

    Sec. 4: the embedding of a single coarse word. The second and further vectors differ from it by a little seeded
    noise. Raises ValueError where the initial word is not one token, or the initial embedding is of another family.
    """
    if concept.initial_embedding is not None:
        vectors = fitting_vectors(concept.initial_embedding, backbone)
        check_rows(concept.initial_embedding.name, vectors)
        return vectors
    word = concept.initial_word.strip()
    random = torch.Generator().manual_seed(config.seed)
    return {
        encoder: _spread(check_single(word, rows), config.vectors, random)
        for encoder, rows in backbone.word_vectors(word).items()
    }


def check_rows(name: str, vectors: WordVectors) -> None:
    """Raises ValueError for an embedding of more vectors than a word may have, or with an empty one."""
    count = len(next(iter(vectors.values())))
    if count > MOST_VECTORS:
        raise ValueError(
            f"initial_embedding {name} has {count} vectors; at most {MOST_VECTORS} can be learned. Choose another."
        )
    if not all(rows.norm(dim=-1).all() for rows in vectors.values()):
        raise ValueError(f"initial_embedding {name} holds a vector of zeros. Choose another, or train it anew.")


def check_single(word: str, rows: Tensor) -> Tensor:
    """The embedding (1, C) of a word that is one token. Raises ValueError where it is several."""
    if len(rows) != 1:
        raise ValueError(
            f"initial_word {word!r} is {len(rows)} tokens to the text encoder, which does not know it as one word. Use "
            "a common single word, such as cat, toy, man or painting."
        )
    return rows


def _spread(row: Tensor, count: int, random: torch.Generator) -> Tensor:
    """(1, C) -> (count, C): the row itself, then neighbours of it."""
    noise = torch.randn(count - 1, row.shape[1], generator=random)
    noise = noise * row.norm() * SPREAD / math.sqrt(row.shape[1])
    return torch.cat([row, row + noise])


@torch.no_grad()
def longest_norms(backbone: Backbone, concept: Concept) -> dict[str, float]:
    """How long rows may become, by text encoder: as the vocabulary's on average, or as long as they start.

    In a vocabulary of which few words are in use, those are much longer than the average, and so is what was learned
    from them. But no row may be longer than the vocabulary's longest, as embeddings of other tools often are.
    """
    given = concept.initial_embedding
    start = fitting_vectors(given, backbone) if given else backbone.word_vectors(concept.initial_word.strip())
    limits = {}
    for name, table in backbone.token_embeddings().items():
        norms = table.float().norm(dim=-1)
        limits[name] = start[name].norm(dim=-1).max().clamp(norms.mean().cpu(), norms.max().cpu()).item()
    return limits


@torch.no_grad()
def shorten(vectors: WordVectors, longest: dict[str, float]) -> None:
    """Scale, in place, each row that is longer than its encoder's limit down to it; shorter ones stay as they are."""
    for encoder, rows in vectors.items():
        rows.mul_((longest[encoder] / rows.norm(dim=-1, keepdim=True)).clamp(max=1.0))


def relative_distance(vectors: WordVectors, start: WordVectors) -> Tensor:
    """Mean over all rows of |v - v0|^2 / |v0|^2: the regulariser of sec. 5, in units that fit every encoder; ()."""
    distances = [(v - start[e]).square().sum(-1) / start[e].square().sum(-1) for e, v in vectors.items()]
    return torch.cat(distances).mean()


def save_word(run: TextualInversion, folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """Write what a run has learned to folder/NAME.safetensors for `embedding:NAME` in prompts; returns the path.

    A run that ended early has its steps in the name, NAME_step123, and replaces nothing, nor does any run that is not
    told to overwrite: a name that is taken gets a number. Raises ValueError for a name with path parts.
    """
    name = check_file_name(name, "name", "embeddings")
    if run.weights.steps < run.config.steps:
        name, overwrite = f"{name[:LONGEST_STEM]}_step{run.weights.steps}", False
    return save_embedding(run.weights.vectors, partial(_metadata, run), folder, name, overwrite)


def described_word(path: str | Path) -> dict | None:
    """What one of our files says of its word; None for any other file. Raises ValueError where that is damaged."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(METADATA_KEY)
        return None if said is None else json.loads(said)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise unreadable(path, error) from error


def _metadata(run: TextualInversion, name: str) -> dict[str, str]:
    """Ours as JSON under one key, and the fields in which other tools look."""
    backbone, concept = run.backbone, run.concept
    info = {
        "version": __version__,
        "family": backbone.family,
        "prediction": backbone.prediction,
        "initial_word": None if concept.initial_embedding else concept.initial_word.strip(),
        "initial_embedding": concept.initial_embedding.name if concept.initial_embedding else None,
        "kind": concept.kind,
        "vectors": len(next(iter(run.weights.vectors.values()))),
        "images": len(concept.images),
        "steps": run.weights.steps,
        "settings": asdict(run.config),
    }
    return {
        "format": "pt",
        METADATA_KEY: json.dumps(info, ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(backbone.family, backbone.prediction, "textual-inversion"),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.resolution": f"{run.config.resolution}x{run.config.resolution}",
        "modelspec.trigger_phrase": name,
        "modelspec.usage_hint": f"ComfyUI: embedding:{name}",
    }
