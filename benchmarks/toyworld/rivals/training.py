"""A training in which a rival's loss stands in the place of ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from palp_core.methods.personalization import Personalization
from palp_core.methods.personalization_learner import PersonalizationLearner, Weights
from palp_core.models.backbone import Backbone, Conditioning
from palp_core.models.noise import per_sample
from palp_core.training.loop import Step, Training
from palp_core.training.objective import denoising_loss, draw_noise


@dataclass(frozen=True)
class Sample:
    """A noisy photo, and what both models say of it."""

    backbone: Backbone
    #: Makes a context in which the backbone is the base model.
    base_model: Callable[[], AbstractContextManager[None]]
    x0: Tensor  # (B, C, H, W)
    x: Tensor  # (B, C, H, W), x0 + sigma*noise
    sigma: Tensor  # (B,)
    #: y_P, "a photo of a [V]", with gradients.
    photo: Sequence[Conditioning]
    #: c_P, which is y_P with the class word.
    class_photo: Sequence[Conditioning]
    #: The empty prompt.
    null: Sequence[Conditioning]

    def personalized(self, prompt: Sequence[Conditioning]) -> Tensor:
        """Let the model that is trained denoise x, (B, C, H, W); with gradients."""
        return self.backbone.denoise(self.x, self.sigma, prompt)

    @torch.no_grad()
    def base(self, prompt: Sequence[Conditioning]) -> Tensor:
        """Let the base model denoise x, (B, C, H, W); without gradients."""
        with self.base_model():
            return self.backbone.denoise(self.x, self.sigma, prompt)

    def error(self, denoised: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean squared error of what the network predicts, eps, v or a flow; ()."""
        return denoising_loss(denoised, wanted, self.backbone.prediction.loss_weight(self.sigma))


class Rival(ABC):
    """A frozen dataclass of settings, which says what a step minimizes."""

    @abstractmethod
    def loss(self, sample: Sample) -> Tensor:
        """Return what a step minimizes, ()."""

    @abstractmethod
    def prepared(self, learner: PersonalizationLearner) -> AbstractContextManager[None]:
        """Change the model before the first step, which a training and its pictures see; undo it at the end."""


def rival_training(method: Personalization, rival: Rival) -> Training[Weights]:
    """Prepare a training on the subjects, photos and settings of a method; its alignment is not used."""
    return Training(_RivalMethod(method, rival))


class _RivalMethod:
    def __init__(self, method: Personalization, rival: Rival):
        self.method, self.rival, self.config = method, rival, method.config

    @contextmanager
    def learning(self) -> Iterator[_RivalLearner]:
        method = self.method
        with torch.no_grad():
            class_photo = {p: method.backbone.encode_prompt(method.class_photo(p), {}) for p in method.photo_prompts}
        with method.learning() as learner, self.rival.prepared(learner):
            yield _RivalLearner(learner, self.rival, class_photo)


class _RivalLearner:
    """Draws photos and noise as plain training does, with the same random numbers."""

    def __init__(self, learner: PersonalizationLearner, rival: Rival, class_photo: Mapping[str, Conditioning]):
        self.learner, self.rival, self.class_photo = learner, rival, class_photo

    @property
    def done(self) -> int:
        return self.learner.done

    def step(self) -> Step:
        learner = self.learner
        with learner.optimizer.undone_on_failure(learner.random):
            placeholder, sample = self._draw()
            loss = self.rival.loss(sample)
            learner.optimizer.backward(loss)
            measured = {"sigma": sample.sigma.mean(), "denoising_loss": loss}
            numbers = learner.optimizer.step(learner.done + 1, measured)
        learner.done += 1
        return Step(learner.done - 1, numbers.pop("sigma"), numbers, placeholder)

    def _draw(self) -> tuple[str, Sample]:
        learner, backbone = self.learner, self.learner.backbone
        placeholder, photos, batch = learner.draw_photos()
        sigma, noise = draw_noise(backbone.levels, batch.x0, learner.random)
        encoded = {prompt: learner.encode(prompt) for prompt in dict.fromkeys(photo.prompt for photo in photos)}
        return placeholder, Sample(
            backbone,
            learner.lora.disabled,
            batch.x0,
            batch.x0 + per_sample(sigma, batch.x0) * noise,
            sigma,
            [encoded[photo.prompt].with_size(photo.size) for photo in photos],
            [self.class_photo[photo.prompt].with_size(photo.size) for photo in photos],
            [learner.fixed.null],
        )

    def state(self) -> dict[str, Tensor]:
        return self.learner.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.learner.load_state(state)

    def result(self) -> Weights:
        return self.learner.result()
