"""Prompt-aligned personalization: PALP, arXiv 2401.06105, sec. 4.2 to 4.4 and appendix E (several subjects).

Each step draws a subject and some of its images, noises them, predicts the noise once with gradients under the prompt
"a photo of [V]", and adds the denoising loss, which teaches the subject to LoRA and to the embedding of [V], and the
alignment loss, which keeps the target prompt (alignment.py). One backward pass serves both; with the score `delta`
there are two, because it predicts a second time, under the target prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..files.embedding_file import Embedding, fitting_vectors
from ..files.safetensors_file import load_optimizer_tensors, optimizer_tensors
from ..models.backbone import Backbone, Conditioning, recomputed_in_backward
from ..models.lora import LoraAdapters, attached_lora
from ..models.prompts import check_known, check_placeholder, find_placeholders, substitute
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
from .pick_and_draw.guidance import with_conditioning
from .scores import (
    NFSD_SMALL_NOISE,
    AlignmentConfig,
    AlignmentPrompts,
    NoisySample,
    SubjectPrompts,
    alignment_loss,
    score_difference,
)
from .subject_region import subject_region

WEIGHT_DECAY = 0.01  # of the LoRA; a word embedding is not drawn to zero


@dataclass(frozen=True)
class Subject:
    """What one placeholder stands for."""

    #: Photos, each (H, W, 3) in 0..1; sizes may differ.
    images: tuple[Tensor, ...]
    #: The word for what it is, which the model knows: "cat". Its embedding is where the learned one starts.
    class_word: str
    #: Its name in prompts, in square brackets.
    placeholder: str = "[V]"
    #: y_P, the neutral prompt under which it is learned; empty for "a photo of" the placeholder.
    personalization_prompt: str = ""
    #: For each image a mask (H, W) in 0..1, white where the subject is; empty where all of each image counts.
    masks: tuple[Tensor, ...] = ()
    #: A word learned before, to start from in place of the class word's embedding.
    initial_embedding: Embedding | None = None

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder)
        if not self.class_word.strip():
            raise ValueError(f"class_word of {self.placeholder} is empty. Say what the subject is, for example: cat.")
        if find_placeholders(self.class_word):
            raise ValueError(f"class_word {self.class_word!r} holds a placeholder. Use a word the model knows.")
        images, masks = check_pictures(self.placeholder, self.images, self.masks)
        if not self.personalization_prompt.strip():
            object.__setattr__(self, "personalization_prompt", f"a photo of {self.placeholder}")
        if self.placeholder not in find_placeholders(self.personalization_prompt):
            raise ValueError(
                f"personalization_prompt {self.personalization_prompt!r} does not name its subject {self.placeholder}. "
                f'Write for example "a photo of {self.placeholder}".'
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "masks", masks)


@dataclass(frozen=True)
class PersonalizationConfig:
    """Settings of a run. The paper: 500 steps at batch 32 and learning rate 5e-5, rank 32, on SD 1.4."""

    #: Optimisation steps; 300 to 1000. Fewer keep the prompt better, more the subject.
    steps: int = 500
    #: Adam's step for the LoRA; 5e-5 (large batches) to 2e-4.
    learning_rate: float = 1e-4
    #: Adam's step for the word embedding; 0 freezes the class word's and frees the text encoder's memory.
    embedding_learning_rate: float = 1e-4
    #: Rank of the LoRA; 4 to 64. Its alpha is the same, so that the scale is 1.
    rank: int = 32
    #: Images per step; 1 to 32. More is steadier and slower.
    batch_size: int = 2
    #: Side of a square of the area that images are brought to, pixels; 512 for SD 1.x, 768 for 2.x, 1024 for SDXL.
    resolution: int = 512
    #: Largest norm of the gradient of all that is trained.
    max_grad_norm: float = 1.0
    #: Recompute activations in the backward pass: about 30 % slower, far less memory.
    gradient_checkpointing: bool = False
    #: Of everything random: same seed, same machine, same result (on a GPU up to the rounding of its kernels).
    seed: int = 0
    #: The scene in the model's own words, y_c; empty for the target prompt with class words for placeholders.
    clean_prompt: str = ""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "rank", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must lie between 0 and 1, typically 1e-4.")
        if not 0 <= self.embedding_learning_rate < 1:
            raise ValueError(
                f"embedding_learning_rate is {self.embedding_learning_rate}; it must be 0 (frozen) or below 1, "
                "typically 1e-4."
            )
        if self.resolution < 64:
            raise ValueError(f"resolution is {self.resolution}; it must be 64 pixels or more, typically 512.")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be positive, typically 1.")
        if find_placeholders(self.clean_prompt):
            raise ValueError(
                f"clean_prompt {self.clean_prompt!r} holds a placeholder. It is read by the untouched model: "
                "use class words."
            )


class TrainingStep(NamedTuple):
    """What one step measured."""

    index: int  # from 0
    placeholder: str  # the subject that was drawn; empty where a word is all that is learned
    sigma: float  # mean noise level of the batch, latent units
    denoising_loss: float  # the model's own training loss on the subject's images
    alignment_loss: float  # the surrogate, weight included; 0 with the branch off
    score_gap: float  # rms of Delta: how far the two models are apart in what the score compares; 0 with the branch off
    regularization: float = 0.0  # Textual Inversion's pull to where the word started, weight included; 0 where off


class Weights(NamedTuple):
    """What a run has learned, on the CPU, float32."""

    lora: dict[str, Tensor]  # kohya keys
    words: dict[str, dict[str, Tensor]]  # placeholder -> encoder -> (N, C)
    steps: int  # optimisation steps behind them


class _FixedPrompts(NamedTuple):
    alignment: AlignmentPrompts | None  # None with the branch off
    class_photo: dict[str, Conditioning]  # placeholder -> c_P; empty where the score has no use for it
    personal: dict[str, Conditioning]  # by the prompt, each that holds a word; empty where the words learn


class Personalization:
    """One run: checks its input when made, trains as `steps()` is iterated, and holds what it has learned.

    Raises ValueError, before any training, that names the argument and the remedy.
    """

    def __init__(self, backbone: Backbone, subjects: list[Subject], target_prompt: str, config: PersonalizationConfig):
        self.backbone = backbone
        self.subjects = {subject.placeholder: subject for subject in subjects}
        self.target_prompt = target_prompt
        self.config = config
        self.weights: Weights | None = None
        self._trainer: _Trainer | None = None
        check_subjects(subjects, target_prompt)
        self.clean_prompt = config.clean_prompt.strip() or self._class_prompt(target_prompt)
        self._initial = {p: initial_vectors(backbone, subject) for p, subject in self.subjects.items()}
        with torch.no_grad():
            for prompt in self._prompts():
                backbone.encode_prompt(prompt, self._initial)  # raises where one is too long
            self._check_negative_prompt()
        unmasked = [s for s in subjects if config.alignment.trains_target_prompt and not s.masks]
        self._class_tokens = {s.placeholder: self._class_word_positions(s) for s in unmasked}

    def _prompts(self) -> list[str]:
        """All that the text encoders will read, and that must be short enough."""
        subjects = self.subjects.values()
        photos = [s.personalization_prompt for s in subjects]
        class_photos = map(self._class_photo, subjects if self.config.alignment.trains_target_prompt else [])
        return [self.target_prompt, self.clean_prompt, *photos, *class_photos]

    def _check_negative_prompt(self) -> None:
        alignment = self.config.alignment
        if not alignment.reads_negative_prompt:
            return
        try:
            self.backbone.encode_prompt(alignment.negative_prompt, {})
        except ValueError as error:
            raise ValueError(
                f"score nfsd reads a negative_prompt that does not fit this model: {error} Or choose another score."
            ) from error

    def _class_prompt(self, prompt: str) -> str:
        """With the class words for the placeholders."""
        return substitute(prompt, {p: s.class_word.strip() for p, s in self.subjects.items()})

    def _class_photo(self, subject: Subject) -> str:
        """Its photo's prompt without the subject: c_P."""
        return self._class_prompt(subject.personalization_prompt)

    def _class_word_positions(self, subject: Subject) -> tuple[int, ...]:
        """Where in c_P the class word stands, by which the subject is found in its photos."""
        try:
            return self.backbone.token_positions(self._class_photo(subject), subject.class_word.strip(), {})
        except ValueError as error:
            raise ValueError(
                f"personalization_prompt {subject.personalization_prompt!r} joins {subject.placeholder} to other "
                "letters. Let it stand as a word of its own, or give masks of the subject."
            ) from error

    def steps(self, resume: Mapping[str, Tensor] | None = None) -> Iterator[TrainingStep]:
        """Train. The model is put back when the iteration ends, is closed or fails; `weights` then holds the result.

        resume: `state()` of an unfinished run with the same subjects and settings, to go on from; the result is that
        of a run that was never interrupted. Raises NonFiniteLossError; the weights are those before the failing step.
        """
        config, backbone = self.config, self.backbone
        if torch.is_inference_mode_enabled():
            raise RuntimeError("training needs gradients: call it inside torch.inference_mode(False).")
        examples = {
            p: encode_examples(backbone, s.images, s.masks, config.resolution) for p, s in self.subjects.items()
        }
        fixed = self._encode_fixed_prompts()
        learn_words = config.embedding_learning_rate > 0
        with (
            backbone.training(learn_words),
            attached_lora(backbone.denoiser, backbone.kohya_name, config.rank, config.seed) as lora,
            recomputed_in_backward(backbone.checkpointed_modules() if config.gradient_checkpointing else []),
        ):
            if config.alignment.trains_target_prompt:
                examples = self._located(examples, fixed)
            self._trainer = trainer = _Trainer(self, lora, examples, fixed)
            if resume is not None:
                trainer.load_state(resume)
            try:
                for index in range(trainer.done, config.steps):
                    yield trainer.step(index)
            finally:
                self.weights = trainer.weights()
                self._trainer = None

    def _located(self, examples: dict[str, list[Example]], fixed: _FixedPrompts) -> dict[str, list[Example]]:
        """With where the subject is: by its mask, or by its class word's attention before anything is learned."""
        random, device = torch.Generator().manual_seed(self.config.seed), self.backbone.device

        def located(placeholder: str) -> list[Example]:
            if placeholder not in self._class_tokens:
                return [e._replace(region=e.mask) for e in examples[placeholder]]
            tokens = self._class_tokens[placeholder]
            prompted = with_conditioning(self.backbone, fixed.class_photo[placeholder], tokens)
            attended = partial(subject_region, prompted, sigmas=self.backbone.sigmas, random=random)
            return [e._replace(region=attended(e.latents.to(device, torch.float32))) for e in examples[placeholder]]

        return {placeholder: located(placeholder) for placeholder in examples}

    def snapshot(self) -> Weights:
        """What has been learned until now, while `steps()` is being iterated."""
        return self._running().weights()

    def state(self) -> dict[str, Tensor]:
        """All that `steps(resume)` needs to go on after the latest step, while `steps()` is being iterated."""
        return self._running().state()

    def untouched(self) -> AbstractContextManager[None]:
        """While `steps()` is being iterated: a context in which the model is as it was before training."""
        return self._running().lora.disabled()

    def _running(self) -> _Trainer:
        if self._trainer is None:
            raise no_training()
        return self._trainer

    @torch.no_grad()
    def _encode_fixed_prompts(self) -> _FixedPrompts:
        """Everything that the text encoders can say once: all prompts without a word that learns."""
        encode, alignment = self.backbone.encode_prompt, self.config.alignment
        prompts, class_photo, personal = None, {}, {}
        if alignment.weight > 0:
            negative = encode(alignment.negative_prompt, {}) if alignment.reads_negative_prompt else None
            prompts = AlignmentPrompts(encode("", {}), encode(self.clean_prompt, {}), negative)
        if alignment.trains_target_prompt:
            class_photo = {p: encode(self._class_photo(s), {}) for p, s in self.subjects.items()}
        if self.config.embedding_learning_rate == 0:
            learned = [s.personalization_prompt for s in self.subjects.values()]
            personal = {p: encode(p, self._initial) for p in (self.target_prompt, *learned)}
        return _FixedPrompts(prompts, class_photo, personal)


class _Trainer:
    """The state of a run between two steps: optimizer, words, random numbers."""

    def __init__(
        self, run: Personalization, lora: LoraAdapters, examples: dict[str, list[Example]], fixed: _FixedPrompts
    ):
        self.run, self.lora, self.examples = run, lora, examples
        self.backbone, self.config = run.backbone, run.config
        self.done = 0
        # The data's random numbers are apart from the alignment's, so that methods compare on the same samples.
        self.random = torch.Generator().manual_seed(run.config.seed)
        self.alignment_random = torch.Generator().manual_seed(run.config.seed + 1)
        self.words = {
            placeholder: {e: nn.Parameter(v.to(run.backbone.device, torch.float32, copy=True)) for e, v in word.items()}
            for placeholder, word in run._initial.items()
        }
        self.learn_words = run.config.embedding_learning_rate > 0
        self.fixed = fixed
        groups = [{"params": lora.parameters(), "lr": run.config.learning_rate, "weight_decay": WEIGHT_DECAY}]
        if self.learn_words:
            vectors = [v for word in self.words.values() for v in word.values()]
            groups.append({"params": vectors, "lr": run.config.embedding_learning_rate, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups)
        self.scaler = loss_scaler(run.backbone)

    @torch.enable_grad()
    def step(self, index: int) -> TrainingStep:
        placeholder, (x0, mask, region) = self._draw_batch()
        sigma, noise = draw_noise(self.backbone, x0, self.random)
        column = sigma.view(-1, 1, 1, 1)
        prompts = SubjectPrompts(self._encode(self.run.subjects[placeholder].personalization_prompt))
        x = x0 + column * noise
        denoised = self.backbone.denoise(x, sigma, prompts.photo.expand(len(x)))
        denoising = loss = denoising_loss(denoised, x0, self.backbone.loss_weight(sigma), mask)
        alignment, gap = torch.zeros_like(loss), 0.0
        if self.config.alignment.trains_target_prompt:
            # This loss's activations go before those of the target prompt come.
            backpropagate(self.scaler, denoising, index + 1)
            loss, prompts = alignment, self._with_target(prompts, placeholder)
            denoised = self.backbone.denoise(x, sigma, prompts.target.expand(len(x)))
        if self.config.alignment.weight > 0:
            alignment, gap = self._alignment(x, noise, sigma, denoised, prompts, region)
        backpropagate(self.scaler, loss + alignment, index + 1)
        optimizer_step(self.optimizer, self.scaler, self.config.max_grad_norm, index + 1)
        self.done = index + 1
        return TrainingStep(index, placeholder, sigma.mean().item(), denoising.item(), alignment.item(), gap)

    def _with_target(self, prompts: SubjectPrompts, placeholder: str) -> SubjectPrompts:
        return SubjectPrompts(prompts.photo, self._encode(self.run.target_prompt), self.fixed.class_photo[placeholder])

    def _alignment(
        self,
        x: Tensor,
        noise: Tensor,
        sigma: Tensor,
        denoised: Tensor,
        prompts: SubjectPrompts,
        region: Tensor | None,
    ) -> tuple[Tensor, float]:
        """The surrogate loss, (), and the rms of Delta."""
        weight = self.backbone.loss_weight(sigma) * sigma**2
        sample = NoisySample(x, noise, sigma, (x - denoised) / sigma.view(-1, 1, 1, 1), weight, region)
        delta = self._score_difference(sample, prompts)
        return alignment_loss(delta, sample, self.config.alignment), delta.square().mean().sqrt().item()

    def _encode(self, prompt: str) -> Conditioning:
        """With the words as they are now."""
        if not self.learn_words:
            return self.fixed.personal[prompt]
        return self.backbone.encode_prompt(prompt, self.words)

    def _score_difference(self, sample: NoisySample, prompts: SubjectPrompts) -> Tensor:
        noise = sample.noise
        if self.config.alignment.noise == "fresh":
            noise = torch.randn(noise.shape, generator=self.alignment_random).to(noise)
        return score_difference(
            self.backbone.denoise,
            self.lora.disabled(),
            sample,
            prompts,
            self.fixed.alignment,
            noise,
            self.backbone.sigma_at(NFSD_SMALL_NOISE),
            self.config.alignment,
        )

    def _draw_batch(self) -> tuple[str, tuple[Tensor, Tensor | None, Tensor | None]]:
        """A subject and a batch of its images of one size: latents (B, C, h, w), masks and regions (B, 1, h, w)."""
        placeholder = list(self.examples)[random_index(len(self.examples), self.random)]
        batch = draw_batch(self.examples[placeholder], self.config.batch_size, self.random)
        return placeholder, stack_batch(batch, self.backbone.device)

    def _named_vectors(self) -> dict[str, nn.Parameter]:
        return {f"word.{p}.{encoder}": v for p, word in self.words.items() for encoder, v in word.items()}

    def state(self) -> dict[str, Tensor]:
        return {
            **self.lora.state_dict(),
            **{name: vector.detach().clone() for name, vector in self._named_vectors().items()},
            **optimizer_tensors(self.optimizer),
            **{f"scaler.{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()},
            "random": self.random.get_state(),
            "alignment_random": self.alignment_random.get_state(),
            "steps": torch.tensor(self.done),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.lora.load_state_dict(state)
        for name, vector in self._named_vectors().items():
            vector.copy_(state[name])
        load_optimizer_tensors(self.optimizer, state)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({key: state[f"scaler.{key}"].item() for key in self.scaler.state_dict()})
        self.random.set_state(state["random"])
        self.alignment_random.set_state(state["alignment_random"])
        self.done = int(state["steps"])

    def weights(self) -> Weights:
        words = {
            placeholder: {encoder: v.detach().to("cpu", torch.float32, copy=True) for encoder, v in word.items()}
            for placeholder, word in self.words.items()
        }
        return Weights(self.lora.state_dict(), words, self.done)


def no_training() -> RuntimeError:
    return RuntimeError("there is no training under way: ask between two steps of `steps()`.")


def check_subjects(subjects: list[Subject], target_prompt: str) -> None:
    """Raise ValueError where subjects and target prompt do not fit together; needs no model."""
    names = [subject.placeholder for subject in subjects]
    if not names:
        raise ValueError("there are no subjects. Give one, with its photos.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"placeholder {name} belongs to two subjects. Give each its own, such as [V] and [V2].")
    if not find_placeholders(target_prompt):
        raise ValueError(
            f"target_prompt {target_prompt!r} has no placeholder. Name the subject in it, for example "
            f'"a sketch of {names[0]} in Paris".'
        )
    check_known("target_prompt", target_prompt, names)
    for subject in subjects:
        check_known(f"personalization_prompt of {subject.placeholder}", subject.personalization_prompt, names)
        if subject.placeholder not in find_placeholders(target_prompt):
            raise ValueError(
                f"target_prompt {target_prompt!r} does not name the subject {subject.placeholder}. Put it into the "
                "prompt, or remove the subject."
            )


def initial_vectors(backbone: Backbone, subject: Subject) -> dict[str, Tensor]:
    """Where a subject's word starts: its embedding learned before, else its class word. Encoder -> (N, C)."""
    if subject.initial_embedding is not None:
        return fitting_vectors(subject.initial_embedding, backbone)
    return initial_vector(backbone, subject.class_word.strip())


def initial_vector(backbone: Backbone, class_word: str) -> dict[str, Tensor]:
    """Where a word starts: the mean of its class word's token embeddings, at their mean norm. Encoder -> (1, C)."""
    start = {}
    for encoder, rows in backbone.word_vectors(class_word).items():
        mean = rows.mean(dim=0, keepdim=True)
        start[encoder] = mean * (rows.norm(dim=-1).mean() / mean.norm())
    return start
