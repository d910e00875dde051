"""What changes from step to step of a personalization: LoRA, words, optimizer, random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..models.backbone import Conditioning, predicted_noise
from ..models.lora import LoraAdapters
from ..models.noise import per_sample
from ..training.data import Batch, Example, Photo, draw_batch, random_index, stack_batch, told_once
from ..training.loop import Step
from ..training.objective import denoising_loss, draw_noise, noise_like, outside_loss
from ..training.optimizers import Optimizer, mean_of
from .alignment import NoisySample, alignment_loss, renoise
from .overlay import overlays
from .previews import painted, square_latents
from .scores import PromptName, Views

if TYPE_CHECKING:
    from .personalization import Personalization

#: Deviation of the numbers in CLIP's token table, for which the default rate was chosen.
CLIP_SPREAD = 0.0138
WEIGHT_DECAY = 0.01  # of the LoRA; a word embedding is not drawn to zero


class Weights(NamedTuple):
    """What a training has learned, on the CPU, float32."""

    lora: dict[str, Tensor]  # kohya keys
    words: dict[str, dict[str, Tensor]]  # placeholder -> encoder -> (N, C)
    steps: int  # optimisation steps behind them


class FixedPrompts(NamedTuple):
    """Conditionings that stay the same in all steps, each a batch of one."""

    shared: dict[PromptName, Conditioning]  # null, clean and negative, as far as the score looks at them
    class_photo: dict[str, Conditioning]  # y_P -> c_P; empty where the score has no use for it
    personal: dict[str, Conditioning]  # by the prompt, each that holds a word; empty where the words learn
    null: Conditioning  # what pictures are drawn with while it trains
    scene: Conditioning  # y_c, of which the base model draws a picture


class PersonalizationLearner:
    """LoRA and words while they learn: what changes from step to step."""

    def __init__(
        self, method: Personalization, lora: LoraAdapters, examples: dict[str, list[Example]], fixed: FixedPrompts
    ):
        self.method, self.lora, self.examples, self.fixed = method, lora, examples, fixed
        self.backbone, self.config, self.workers = method.backbone, method.config, method.workers
        self.done = 0
        # The data's random numbers are apart from the alignment's, so that methods compare on the same samples.
        self.random = torch.Generator().manual_seed(self.config.seed)
        self.alignment_random = torch.Generator().manual_seed(self.config.seed + 1)
        device = self.backbone.device
        self.words = {
            placeholder: {e: nn.Parameter(v.to(device, torch.float32, copy=True)) for e, v in word.items()}
            for placeholder, word in method.initial.items()
        }
        self.learns_words = method.learns_words
        groups = [{"params": lora.parameters(), "lr": self.config.learning_rate, "weight_decay": WEIGHT_DECAY}]
        if self.learns_words:
            groups += self._word_groups()
        self.optimizer = Optimizer(groups, self.backbone, self.config, self.workers)

    def _word_groups(self) -> list[dict]:
        """CLIP's vectors, and those of T5, whose table is spread wider than CLIP's, at a rate in proportion."""
        vectors = [(encoder, v) for word in self.words.values() for encoder, v in word.items()]
        rates = {"clip": self.config.embedding_learning_rate}
        if any(encoder == "t5xxl" for encoder, _ in vectors):
            spread = self.backbone.token_embeddings()["t5xxl"].float().std().item()
            rates["t5xxl"] = rates["clip"] * spread / CLIP_SPREAD
        found = {kind: [v for encoder, v in vectors if encoder.startswith(kind)] for kind in rates}
        return [{"params": found[kind], "lr": rate, "weight_decay": 0.0} for kind, rate in rates.items() if found[kind]]

    def step(self) -> Step:
        with self.optimizer.undone_on_failure(self.random, self.alignment_random):
            return self._step()

    @torch.enable_grad()
    def _step(self) -> Step:
        passes = [self._pass() for _ in range(self.config.gradient_accumulation)]
        numbers = self.optimizer.step(self.done + 1, mean_of([measured for _, measured in passes]))
        self.done += 1
        subjects = " ".join(dict.fromkeys(placeholder for placeholder, _ in passes))
        return Step(self.done - 1, numbers.pop("sigma"), numbers, subjects)

    def _pass(self) -> tuple[str, dict[str, Tensor]]:
        """Add the gradients of one batch to those of the step: of the photo, of the prompt, or of both.

        Which of them is the score's interval's to say. Returns the subject, and what was measured, () each.
        """
        alignment = self.config.alignment
        learns_photo, keeps_prompt = alignment.learns_photo(self.done), alignment.is_due(self.done)
        placeholder, photos, batch = self.draw_photos()
        sigma, noise = draw_noise(self.backbone.levels, batch.x0, self.random, self.workers)
        x = batch.x0 + per_sample(sigma, batch.x0) * noise
        encoded = {prompt: self.encode(prompt) for prompt in dict.fromkeys(photo.prompt for photo in photos)}
        photo = [encoded[photo.prompt].with_size(photo.size) for photo in photos]
        weight = self.backbone.prediction.loss_weight(sigma)
        measured, loss = {"sigma": sigma.mean()}, 0
        prompts = {**{name: [cond] for name, cond in self.fixed.shared.items()}, "photo": photo}
        if self.config.null_prior:  # this loss's activations go before those of the others come
            measured["null_prior"] = held = self.config.null_prior * self._null_loss(x, sigma, weight)
            self.optimizer.backward(held)
        if learns_photo:
            denoised = self.backbone.denoise(x, sigma, photo)
            measured["denoising_loss"] = loss = denoising_loss(denoised, batch.x0, weight, batch.mask)
            if self.config.masked_prior and batch.mask is not None:
                base = self._base_photo(x, sigma, photos)
                measured["masked_prior"] = held = self.config.masked_prior * outside_loss(
                    denoised, base, weight, batch.mask
                )
                loss = loss + held
        if keeps_prompt and alignment.needs("target"):
            prompts["target"] = [self.encode(self.method.target_prompt)]
        if keeps_prompt and alignment.needs("class_photo"):
            prompts["class_photo"] = self._class_photo(photos)
        if keeps_prompt and alignment.trains_target_prompt:
            if learns_photo:  # this loss's activations go before those of the target prompt come
                self.optimizer.backward(loss)
                loss = 0
            denoised = self.backbone.denoise(x, sigma, prompts["target"])
        if keeps_prompt:
            prediction = predicted_noise(x, denoised, sigma)
            sample = NoisySample(x, noise, sigma, prediction, weight * sigma**2, batch.region)
            delta = self._difference(sample, prompts)
            loss = loss + alignment_loss(delta, sample, alignment)
            measured["score_gap"] = (per_sample(sample.weight, delta) * delta.square()).mean().sqrt()
        self.optimizer.backward(loss)
        return placeholder, measured

    def _class_photo(self, photos: list[Photo]) -> list[Conditioning]:
        """c_P of each, or of all."""
        return [self.fixed.class_photo[photo.prompt].with_size(photo.size) for photo in photos]

    def _null_loss(self, x: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
        """How far what noisy photos are taken for under the empty prompt is from the base model's; ()."""
        null = [self.fixed.null]
        with torch.no_grad(), self.lora.disabled():
            base = self.backbone.denoise(x, sigma, null)
        return denoising_loss(self.backbone.denoise(x, sigma, null), base, weight)

    @torch.no_grad()
    def _base_photo(self, x: Tensor, sigma: Tensor, photos: list[Photo]) -> Tensor:
        """What the base model makes of noisy photos under c_P, (B, C, H, W)."""
        with self.lora.disabled():
            return self.backbone.denoise(x, sigma, self._class_photo(photos))

    @torch.no_grad()
    def _difference(self, sample: NoisySample, prompts: dict[PromptName, list[Conditioning]]) -> Tensor:
        """Delta of the configured score, (B, C, H, W)."""
        alignment, noise = self.config.alignment, sample.noise
        if alignment.noise == "fresh":
            noise = noise_like(noise, self.alignment_random, self.workers)
        views = Views(
            self.backbone.denoise,
            self.lora.disabled,
            renoise(sample, noise),
            noise,
            sample.sigma,
            {name: [cond.detach() for cond in conds] for name, conds in prompts.items()},
            self.backbone.levels,
            sample.region,
        )
        return alignment.score.difference(views)

    def encode(self, prompt: str) -> Conditioning:
        """Encode a prompt that names subjects, with the words as they are now."""
        if not self.learns_words:
            return self.fixed.personal[prompt]
        return self.method.encode(prompt, self.words)

    def draw_photos(self) -> tuple[str, list[Photo], Batch]:
        """Draw a subject, what is said of its images, once for all or for each, and a batch of them of one size.

        Of several processes, each has its share of the batch.
        """
        placeholder = list(self.examples)[random_index(len(self.examples), self.random)]
        examples = self.workers.share(draw_batch(self.examples[placeholder], self.config.batch_size, self.random))
        y_P = self.method.subjects[placeholder].photo_prompts
        photos = [Photo(y_P[example.number], example.size) for example in examples]
        return placeholder, told_once(photos), stack_batch(examples, self.backbone.device)

    @torch.no_grad()
    def preview(self, guidance_scale: float, untouched: bool = False) -> Tensor:
        """Draw the target prompt as `Painter` says; with the base model, the prompt without the subject."""
        placeholder, examples = next(iter(self.examples.items()))
        image = self.method.subjects[placeholder].images[0]
        shape = square_latents(self.backbone, image, examples[0], self.method.resolution)
        with self.lora.disabled() if untouched else self.optimizer.averaged():
            prompt = self.fixed.scene if untouched else self.encode(self.method.target_prompt)
            return painted(self.backbone, self.fixed.null, prompt, shape, guidance_scale, self.config.seed)

    def overlays(self) -> dict[str, Tensor]:
        """Show what of each photo is taken for which subject, as `Painter` says."""
        subjects = self.method.subjects
        shown = [overlays(p, subjects[p].images, examples) for p, examples in self.examples.items()]
        return {title: picture for pictures in shown for title, picture in pictures.items()}

    def _named_vectors(self) -> dict[str, nn.Parameter]:
        return {f"word.{p}.{encoder}": v for p, word in self.words.items() for encoder, v in word.items()}

    def state(self) -> dict[str, Tensor]:
        return {
            **self.lora.state_dict(),
            **{name: vector.detach().clone() for name, vector in self._named_vectors().items()},
            **self.optimizer.state(),
            "random": self.random.get_state(),
            "alignment_random": self.alignment_random.get_state(),
            "steps": torch.tensor(self.done),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.lora.load_state_dict(state)
        for name, vector in self._named_vectors().items():
            vector.copy_(state[name])
        self.optimizer.load_state(state)
        self.random.set_state(state["random"])
        self.alignment_random.set_state(state["alignment_random"])
        self.done = int(state["steps"])

    def result(self) -> Weights:
        with self.optimizer.averaged():
            words = {
                placeholder: {encoder: v.detach().to("cpu", torch.float32, copy=True) for encoder, v in word.items()}
                for placeholder, word in self.words.items()
            }
            return Weights(self.lora.state_dict(), words, self.done)
