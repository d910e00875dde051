"""Textual Inversion: arXiv 2208.01618, sec. 4 (the method) and sec. 5 (the choices it compares).

A word is learned from a few images: the rows of its embedding, in each text encoder, are all that changes. Every step
draws images and a neutral template, such as "a photo of a {}", and takes the model's own denoising loss (eq. 2) down in
those rows. They start from a coarse word that the model knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..models.backbone import Backbone, Conditioning, LearnedWords
from ..models.memory import recomputed_in_backward
from ..models.noise import per_sample
from ..settings import setting
from ..training.config import TrainingConfig
from ..training.data import Example, Photo, draw_batch, encode_examples, stack_batch, told_once
from ..training.objective import denoising_loss, draw_noise
from ..training.optimizer_kinds import check_optimizer
from ..training.workers import ALONE, Workers
from .concept import (
    MOST_VECTORS,
    Concept,
    check_sentences,
    first_vectors,
    relative_distance,
    start_vectors,
)
from .previews import painted, square_latents
from .templates import SLOT, WORD
from .word_learner import WordLearner
from .word_length import check_hold, longest_norms, shorten


@dataclass(frozen=True)
class TextualInversionConfig(TrainingConfig):
    """Settings of a training. The paper: 5000 steps at batch 8, on LDM's own text encoder, with one vector."""

    steps: int = setting(
        1000,
        "Trains for this many steps; more is more like the images, and less like the rest of the prompt.",
        usual="500 to 5000",
        low=1,
        high=100_000,
        step=1,
    )
    learning_rate: float = setting(
        1e-3,
        "Sets Adam's step for the word; larger is faster and less steady.",
        usual="5e-4 to 5e-3",
        low=0,
        open=True,
        high=1,
        step=1e-5,
    )
    vectors: int = setting(
        1,
        "Gives the word this many tokens; 1 follows prompts best, more copy the images better.",
        usual="1",
        low=1,
        high=MOST_VECTORS,
        step=1,
    )
    hold_norm: bool = setting(
        True, "Keeps the word no stronger than the model's own words, so that it leaves room for the others."
    )
    regularization: float = setting(
        0.0,
        "Pulls the word towards where it started; 0 is off, and more follows prompts better and copies less.",
        usual="0 to 1",
        low=0,
        high=100,
        step=0.01,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hold(self.hold_norm, self.optimizer)


class LearnedWord(NamedTuple):
    """What a training has learned, on the CPU, float32."""

    vectors: dict[str, Tensor]  # encoder -> (N, C)
    steps: int  # optimisation steps behind them


class TextualInversion:
    """The method on a model and a concept; its input is checked when it is made.

    workers: this process among those that share out its batches. Raises PalpError, before any training, that names the
    argument and the remedy.
    """

    def __init__(self, backbone: Backbone, concept: Concept, config: TextualInversionConfig, workers: Workers = ALONE):
        workers.check_batch(config.batch_size)
        self.backbone, self.workers = backbone, workers
        self.concept = concept
        self.config = config
        self.resolution = config.resolution_for(backbone)
        #: What is said of its memory before the first step, once `fit_memory` has looked at it.
        self.memory_note = ""
        check_optimizer(config.optimizer)
        self.initial = start_vectors(backbone, concept, config.vectors, config.seed)
        check_sentences(backbone, concept, self.initial)

    @contextmanager
    def learning(self) -> Iterator[TextualInversionLearner]:
        """Make the model ready and give the learner; at the end the model is as it was found."""
        backbone = self.backbone
        images, masks = self.concept.images, self.concept.masks
        examples = encode_examples(backbone, "the concept", images, masks, self.resolution, self.config.flip)
        recomputed = backbone.checkpointed_modules() if self.config.gradient_checkpointing else []
        with backbone.training(learn_words=True), recomputed_in_backward(recomputed):
            yield TextualInversionLearner(self, examples)


class TextualInversionLearner(WordLearner):
    """The word while it learns: a row for each of its tokens, in each text encoder."""

    def __init__(self, method: TextualInversion, examples: list[Example]):
        backbone, concept, config = method.backbone, method.concept, method.config
        self.resolution = method.resolution
        self.start = {e: v.to(backbone.device, torch.float32, copy=True) for e, v in method.initial.items()}
        self.longest = longest_norms(backbone, first_vectors(backbone, concept))
        if config.hold_norm:
            shorten(self.start, self.longest)  # or the regularization would pull to what is out of reach
        self.vectors = {encoder: nn.Parameter(v.clone()) for encoder, v in self.start.items()}
        trained = {f"word.{encoder}": rows for encoder, rows in self.vectors.items()}
        super().__init__(backbone, concept, config, examples, trained, workers=method.workers, hold=self._hold)

    def _hold(self) -> None:
        if self.config.hold_norm:
            shorten(self.vectors, self.longest)

    def _pass(self) -> dict[str, Tensor]:
        examples = self.workers.share(draw_batch(self.examples, self.config.batch_size, self.random))
        x0, mask, _ = stack_batch(examples, self.backbone.device)
        sigma, noise = draw_noise(self.backbone.levels, x0, self.random, self.workers)
        conds = self._encode(told_once(self.concept.draw_sentences(examples, self.random)))
        denoised = self.backbone.denoise(x0 + per_sample(sigma, x0) * noise, sigma, conds)
        denoising = loss = denoising_loss(denoised, x0, self.backbone.prediction.loss_weight(sigma), mask)
        measured = {"sigma": sigma.mean(), "denoising_loss": denoising}
        if self.config.regularization > 0:
            measured["regularization"] = self.config.regularization * relative_distance(self.vectors, self.start)
            loss = loss + measured["regularization"]
        self.optimizer.backward(loss)
        return measured

    def _encode(self, photos: list[Photo]) -> list[Conditioning]:
        """One for each; of all that have the same text, the encoders read it once."""
        words = {WORD: self.vectors}
        texts = dict.fromkeys(photo.prompt for photo in photos)
        encoded = {text: self.backbone.encode_prompt(text.replace(SLOT, WORD), words) for text in texts}
        return [encoded[photo.prompt].with_size(photo.size) for photo in photos]

    @torch.no_grad()
    def preview(self, guidance_scale: float, untouched: bool = False) -> Tensor:
        """Draw the word in its first caption or sentence as `Painter` says; untouched, with where it started."""
        text = self.concept.sentences[0]
        words = {WORD: self.start if untouched else self.vectors}
        return self._drawn(text.replace(SLOT, WORD), words, guidance_scale, self.config.seed)

    @torch.no_grad()
    def draw(self, prompt: str, placeholder: str, guidance_scale: float, seed: int, steps: int) -> Tensor:
        """Draw a prompt that names the word by a placeholder, (H, W, 3) in 0..1. steps: of sampling.

        guidance_scale: 0 for the family's own.
        """
        return self._drawn(prompt, {placeholder: self.vectors}, guidance_scale, seed, steps)

    def _drawn(self, text: str, words: LearnedWords, scale: float, seed: int, steps: int | None = None) -> Tensor:
        shape = square_latents(self.backbone, self.concept.images[0], self.examples[0], self.resolution)
        with self.optimizer.averaged():
            null, prompt = (self.backbone.encode_prompt(t, words) for t in ("", text))
        return painted(self.backbone, null, prompt, shape, scale, seed, steps)

    def result(self) -> LearnedWord:
        with self.optimizer.averaged():
            vectors = {e: v.detach().to("cpu", torch.float32, copy=True) for e, v in self.vectors.items()}
        return LearnedWord(vectors, self.done)
