"""Prompt-aligned personalization: PALP, arXiv 2401.06105, sec. 4.2 to 4.4 and appendix E (several subjects).

Each step draws a subject and some of its images, noises them, predicts the noise once with gradients under the prompt
"a photo of [V]", and adds the denoising loss, which teaches the subject to LoRA and to the embedding of [V], and, where
it is due, the alignment loss, which keeps the target prompt (scores.py). One backward pass serves both; with a score
that trains the target prompt there are two, because it predicts a second time, under that prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import PromptError, quoted
from ..models.attention import with_conditioning
from ..models.backbone import Backbone, Conditioning, LearnedWords
from ..models.lora import attached_lora
from ..models.memory import recomputed_in_backward
from ..models.wording import put_words
from ..training.data import Example, encode_examples
from ..training.optimizer_kinds import check_optimizer
from ..training.workers import ALONE, Workers
from .artworks import artworks_in, medium_alone
from .personalization_config import PersonalizationConfig, check_guidance, check_masked_prior, uses_texts
from .personalization_learner import FixedPrompts, PersonalizationLearner
from .scores import PromptName
from .subject_region import subject_region, whole
from .subjects import (
    Subject,
    artworks_among,
    check_subjects,
    clean_prompt_of,
    initial_vectors,
    trigger_texts,
    with_class_words,
)
from .word_length import check_hold


class Personalization:
    """The method on a model, subjects and a target prompt; its input is checked when it is made.

    workers: this process among those that share out its batches. Raises PalpError, before any training, that names the
    argument and the remedy.
    """

    def __init__(
        self,
        backbone: Backbone,
        subjects: list[Subject],
        target_prompt: str,
        config: PersonalizationConfig,
        workers: Workers = ALONE,
    ):
        workers.check_batch(config.batch_size)
        self.backbone, self.workers = backbone, workers
        self.subjects = {subject.placeholder: subject for subject in subjects}
        self.target_prompt = target_prompt
        self.config = config
        self.resolution = config.resolution_for(backbone)
        #: What is said of its memory before the first step, once `fit_memory` has looked at it.
        self.memory_note = ""
        #: What its file says of what it depends on, once its folder was looked for.
        self.identity = ""
        check_subjects(subjects, target_prompt)
        self._artworks = {artwork.placeholder: artwork for artwork in artworks_among(subjects, target_prompt)}
        self.clean_prompt = config.clean_prompt.strip() or clean_prompt_of(target_prompt, subjects)
        #: What stands for each subject in prompts, where no word is learned.
        self.texts = trigger_texts(subjects) if uses_texts(backbone.family, config) else {}
        check_guidance(backbone, config)
        check_optimizer(config.optimizer)
        check_masked_prior(subjects, config)
        learned = {} if self.texts else self.subjects
        self.initial = {p: initial_vectors(backbone, subject) for p, subject in learned.items()}
        check_hold(config.hold_norm and self.learns_words, config.optimizer)
        with torch.no_grad():
            for prompt in self._prompts():
                self.encode(prompt)  # raises where one is too long
            self._check_negative_prompt()
        looks = config.alignment.needs_region and backbone.family.attention != "unseen"
        found = [s for s in subjects if looks and s.placeholder not in self._artworks]  # which are all of their photo
        unmasked = [(s, s.photo_prompts[number]) for s in found for number in s.unmasked]
        #: By y_P of photos in which the subject is looked for: where in c_P the class word stands.
        self._class_tokens = {y_P: self._class_word_positions(s, y_P) for s, y_P in unmasked}

    @property
    def _reads_class_photos(self) -> bool:
        """Whether c_P is looked at: by the score, to find the subject in its photos, or outside their masks."""
        alignment = self.config.alignment
        return alignment.needs("class_photo") or alignment.needs_region or self.config.masked_prior > 0

    def _prompts(self) -> list[str]:
        """All that the text encoders will read, and that must be short enough."""
        class_photos = map(self.class_photo, self.photo_prompts if self._reads_class_photos else [])
        return [self.target_prompt, self.clean_prompt, *self.photo_prompts, *class_photos]

    @property
    def photo_prompts(self) -> list[str]:
        """Return y_P of all images of all subjects, each prompt once."""
        return list(dict.fromkeys(y_P for subject in self.subjects.values() for y_P in subject.photo_prompts))

    def _check_negative_prompt(self) -> None:
        alignment = self.config.alignment
        if not alignment.needs("negative"):
            return
        try:
            self.backbone.encode_prompt(alignment.score.negative_prompt, {})
        except PromptError as error:
            raise PromptError(
                f"score {alignment.score.name} reads a negative_prompt that does not fit this model: {error} Or choose "
                "another score."
            ) from error

    @property
    def learns_words(self) -> bool:
        """Whether the text encoders are needed in every step."""
        return bool(self.initial) and self.config.embedding_learning_rate > 0

    def encode(self, prompt: str, words: LearnedWords | None = None) -> Conditioning:
        """Encode a prompt that names subjects. words: as they are now, by default as they were at the start."""
        return self.backbone.encode_prompt(put_words(prompt, self.texts), words or self.initial)

    def class_photo(self, photo_prompt: str) -> str:
        """Return y_P without the subject: c_P. Where [V] is an artwork, "an oil painting of [V]" is an oil painting."""
        for placeholder in self._artworks:
            if medium := medium_alone(photo_prompt, placeholder):
                return medium
        subjects = list(self.subjects.values())
        shown = artworks_in(photo_prompt) & self._artworks.keys()
        return clean_prompt_of(photo_prompt, subjects) if shown else with_class_words(photo_prompt, subjects)

    def _class_word_positions(self, subject: Subject, photo_prompt: str) -> tuple[int, ...]:
        """Where in c_P the class word stands, by which the subject is found in its photos."""
        try:
            return self.backbone.token_positions(self.class_photo(photo_prompt), subject.class_word.strip(), {})
        except PromptError as error:
            name = "caption" if subject.captions else "personalization_prompt"
            raise PromptError(
                f"{name} {quoted(photo_prompt)} joins {subject.placeholder} to other "
                "letters. Let it stand as a word of its own, or give masks of the subject."
            ) from error

    @contextmanager
    def learning(self) -> Iterator[PersonalizationLearner]:
        """Make the model ready and give the learner; at the end the model is as it was found."""
        config, backbone = self.config, self.backbone
        examples = {
            p: encode_examples(backbone, p, s.images, s.masks, self.resolution, config.flip)
            for p, s in self.subjects.items()
        }
        fixed = self._encode_fixed_prompts()
        with (
            backbone.training(self.learns_words),
            attached_lora(backbone, config.rank, config.seed, config.targets) as lora,
            recomputed_in_backward(backbone.checkpointed_modules() if config.gradient_checkpointing else []),
        ):
            if config.alignment.needs_region:
                examples = self._located(examples, fixed)
            yield PersonalizationLearner(self, lora, examples, fixed)

    def _located(self, examples: dict[str, list[Example]], fixed: FixedPrompts) -> dict[str, list[Example]]:
        """With where the subject is: by its mask, or by its class word's attention before anything is learned."""
        random, device = torch.Generator().manual_seed(self.config.seed), self.backbone.device

        def region(subject: Subject, example: Example) -> Tensor:
            photo_prompt = subject.photo_prompts[example.number]
            if photo_prompt not in self._class_tokens or example.number not in subject.unmasked:
                return whole(example.latents) if example.mask is None else example.mask
            tokens = self._class_tokens[photo_prompt]
            told = fixed.class_photo[photo_prompt].with_size(example.size)
            prompted = with_conditioning(self.backbone, told, tokens)
            return subject_region(prompted, example.latents.to(device, torch.float32), self.backbone.levels, random)

        return {p: [e._replace(region=region(self.subjects[p], e)) for e in some] for p, some in examples.items()}

    @torch.no_grad()
    def _encode_fixed_prompts(self) -> FixedPrompts:
        """Everything that the text encoders can say once: all prompts without a word that learns."""
        encode, alignment = self.backbone.encode_prompt, self.config.alignment
        texts: dict[PromptName, str] = {"null": "", "clean": self.clean_prompt}
        if alignment.needs("negative"):
            texts["negative"] = alignment.score.negative_prompt
        class_photo, personal = {}, {}
        if self._reads_class_photos:
            class_photo = {y_P: encode(self.class_photo(y_P), {}) for y_P in self.photo_prompts}
        if not self.learns_words:
            personal = {p: self.encode(p) for p in (self.target_prompt, *self.photo_prompts)}
        shared = {name: encode(text, {}) for name, text in texts.items() if alignment.needs(name)}
        return FixedPrompts(shared, class_photo, personal, encode("", {}), encode(self.clean_prompt, {}))
