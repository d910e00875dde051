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
from .learning_rates import parameter_groups
from .overlay import overlays
from .previews import painted, square_latents
from .scores import PromptName, Views
from .word_length import longest_norms, shorten

if TYPE_CHECKING:
    from .personalization import Personalization


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


class NoisyPhotos(NamedTuple):
    """A batch of photos of one subject with noise, and what is said of each."""

    photos: list[Photo]
    conds: list[Conditioning]  # of y_P, with the words as they are now
    batch: Batch
    x: Tensor  # (B, C, H, W), x0 + sigma*noise
    noise: Tensor  # (B, C, H, W)
    sigma: Tensor  # (B,)
    weight: Tensor  # (B,), of a squared error of x0 in the model's own loss


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
        self.has_null = self.backbone.family.guidance == "classifier-free"  # others never learned the empty prompt
        held = self.words if self.learns_words and self.config.hold_norm else {}
        self.longest = {p: longest_norms(self.backbone, method.initial[p]) for p in held}
        self._hold()  # an embedding of another tool may start out of bounds
        groups = parameter_groups(lora, self.words if self.learns_words else {}, self.backbone, self.config)
        self.optimizer = Optimizer(groups, self.backbone, self.config, self.workers, self._hold)

    def _hold(self) -> None:
        for placeholder, longest in self.longest.items():
            shorten(self.words[placeholder], longest)

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
        """Add the gradients of one batch to those of the step: of the photo, and where they are due of the prompts.

        Returns the subject, and what was measured, () each.
        """
        alignment = self.config.alignment
        placeholder, noisy = self._noisy_photos()
        measured = {"sigma": noisy.sigma.mean()}
        if self.has_null and alignment.holds_null(self.done):
            # This loss's activations go before those of the others come.
            measured["null_prior"] = held = self._null_loss(noisy)
            self.optimizer.backward(held)
        denoised = self.backbone.denoise(noisy.x, noisy.sigma, noisy.conds)
        losses = self._photo_losses(noisy, denoised)
        measured, loss = {**measured, **losses}, sum(losses.values())
        if alignment.is_due(self.done):
            prompts = self._prompts(noisy)
            if alignment.trains_target_prompt:
                self.optimizer.backward(loss)  # its activations go before those of the target prompt come
                loss = 0
                denoised = self.backbone.denoise(noisy.x, noisy.sigma, prompts["target"])
            kept, measured["score_gap"] = self._alignment_loss(noisy, denoised, prompts)
            loss = loss + kept
        self.optimizer.backward(loss)
        return placeholder, measured

    def _noisy_photos(self) -> tuple[str, NoisyPhotos]:
        """Draw a subject, and a batch of its photos with noise."""
        placeholder, photos, batch = self.draw_photos()
        sigma, noise = draw_noise(self.backbone.levels, batch.x0, self.random, self.workers)
        x = batch.x0 + per_sample(sigma, batch.x0) * noise
        encoded = {prompt: self.encode(prompt) for prompt in dict.fromkeys(photo.prompt for photo in photos)}
        conds = [encoded[photo.prompt].with_size(photo.size) for photo in photos]
        return placeholder, NoisyPhotos(
            photos, conds, batch, x, noise, sigma, self.backbone.prediction.loss_weight(sigma)
        )

    def _photo_losses(self, noisy: NoisyPhotos, denoised: Tensor) -> dict[str, Tensor]:
        """What the photos ask for, by name, () each."""
        mask, strength = noisy.batch.mask, self.config.masked_prior
        losses = {"denoising_loss": denoising_loss(denoised, noisy.batch.x0, noisy.weight, mask)}
        if strength and mask is not None:
            losses["masked_prior"] = strength * outside_loss(denoised, self._base_photo(noisy), noisy.weight, mask)
        return losses

    def _prompts(self, noisy: NoisyPhotos) -> dict[PromptName, list[Conditioning]]:
        """What the score looks at."""
        alignment = self.config.alignment
        prompts = {**{name: [cond] for name, cond in self.fixed.shared.items()}, "photo": noisy.conds}
        if alignment.needs("target"):
            prompts["target"] = [self.encode(self.method.target_prompt)]
        if alignment.needs("class_photo"):
            prompts["class_photo"] = self._class_photo(noisy.photos)
        return prompts

    def _alignment_loss(
        self, noisy: NoisyPhotos, denoised: Tensor, prompts: dict[PromptName, list[Conditioning]]
    ) -> tuple[Tensor, Tensor]:
        """What the prompt asks for, and how large the score's difference is; () each."""
        prediction = predicted_noise(noisy.x, denoised, noisy.sigma)
        weight = noisy.weight * noisy.sigma**2
        sample = NoisySample(noisy.x, noisy.noise, noisy.sigma, prediction, weight, noisy.batch.region)
        delta = self._difference(sample, prompts)
        gap = (per_sample(weight, delta) * delta.square()).mean().sqrt()
        return alignment_loss(delta, sample, self.config.alignment), gap

    def _class_photo(self, photos: list[Photo]) -> list[Conditioning]:
        """c_P of each, or of all."""
        return [self.fixed.class_photo[photo.prompt].with_size(photo.size) for photo in photos]

    def _null_loss(self, noisy: NoisyPhotos) -> Tensor:
        """How far what noisy photos are taken for under the empty prompt is from the base model's; ()."""
        x, sigma, null = noisy.x, noisy.sigma, [self.fixed.null]
        with torch.no_grad(), self.lora.disabled():
            base = self.backbone.denoise(x, sigma, null)
        alignment = self.config.alignment
        strength = alignment.null_interval * alignment.score.null_prior
        return strength * denoising_loss(self.backbone.denoise(x, sigma, null), base, noisy.weight)

    @torch.no_grad()
    def _base_photo(self, noisy: NoisyPhotos) -> Tensor:
        """What the base model makes of noisy photos under c_P, (B, C, H, W)."""
        with self.lora.disabled():
            return self.backbone.denoise(noisy.x, noisy.sigma, self._class_photo(noisy.photos))

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
