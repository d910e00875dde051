"""Prompt alignment: PALP, arXiv 2401.06105, sec. 4.3 (the score, in scores.py) and 4.4 (its use).

With x_t = x0 + sigma*eps and e = eps_hat(x_t, y_P), the prediction that carries the gradients:

    x0_hat = x_t - sigma*e
    x_hat  = stopgrad(x0_hat) + sigma*eps                             re-noised, by default with the same noise
    Delta  = E_pre^alpha(x_hat, y_c) - E_theta^beta(x_hat, y_P)       both without gradients
    E^a(c) = (1 - a)*E(null) + a*E(c)                                 classifier-free guidance

The gradient of the loss with respect to x0_hat is Delta. Since d x0_hat/d theta = -sigma * d e/d theta, dividing by
sigma (the paper's rescaling) leaves the surrogate loss = -weight * mean(stopgrad(Delta) * e).

The paper's model predicts eps. Of a model that predicts v = sqrt(1 + sigma^2)*e + terms without e, the denoising loss
is on v, so the surrogate is taken on v too: times 1 + sigma^2, or it would count for nothing at large noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ..models.noise import per_sample
from ..settings import check_settings, setting
from .scores import Delta, PromptName, Score

Noise = Literal["same", "fresh"]
#: The empty prompt is held this many times less often than the target prompt, and counts the more.
NULL_INTERVAL = 2


class NoisySample(NamedTuple):
    """A training sample and what the personalized model says of it."""

    x: Tensor  # (B, C, H, W), x0 + sigma*noise
    noise: Tensor  # (B, C, H, W)
    sigma: Tensor  # (B,)
    prediction: Tensor  # (B, C, H, W), e = eps_hat(x, y_P), or eps_hat(x, y) where the score says so; with gradients
    weight: Tensor  # (B,), of a squared error of e in the model's own loss: 1 where it predicts eps, 1 + sigma^2 for v
    region: Tensor | None = None  # (B, 1, H, W) in 0..1, where the subject is; for scores that need it


@dataclass(frozen=True)
class AlignmentConfig:
    """How the target prompt is kept alive while the subject is learned."""

    weight: float = setting(
        0.5,
        "Sets how strongly the prompt is kept; 0 is plain textual inversion with LoRA, and faster.",
        usual="0.25 to 1; with score palp 0.1 to 0.5",
        low=0,
        high=10,
        step=0.05,
    )
    #: How the model's distance from the prompt is measured, with the settings that belong to it.
    score: Score = Delta()
    noise: Noise = setting(
        "same", "Re-noises with the noise of the training sample, which the paper chose, or with a fresh draw."
    )
    rescale: bool = setting(
        True, "Divides the alignment's gradient by the noise level, which the paper found steadier."
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def trains_target_prompt(self) -> bool:
        """Whether the prediction that is moved is that of the target prompt, and not that of the photo's."""
        return self.weight > 0 and self.score.trains == "target"

    @property
    def needs_region(self) -> bool:
        """Whether it has to be known where in its photo a subject is."""
        return self.weight > 0 and self.score.needs_region

    def is_due(self, step: int) -> bool:
        """Say whether the step of this number, from 0, keeps the prompt."""
        return self.weight > 0 and step % self.score.interval == 0

    @property
    def null_interval(self) -> int:
        """One step in so many holds the empty prompt, and counts as often."""
        return NULL_INTERVAL * self.score.interval

    def holds_null(self, step: int) -> bool:
        """Say whether the step of this number, from 0, holds the empty prompt."""
        return self.weight > 0 and self.score.null_prior > 0 and (step + 1) % self.null_interval == 0

    def needs(self, prompt: PromptName) -> bool:
        """Say whether the score, if there is one, looks at this prompt."""
        return self.weight > 0 and prompt in self.score.prompts


def renoise(sample: NoisySample, noise: Tensor) -> Tensor:
    """Return x_hat = stopgrad(x0_hat) + sigma*noise with x0_hat = x_t - sigma*e, (B, C, H, W)."""
    sigma = per_sample(sample.sigma, sample.x)
    return sample.x - sigma * sample.prediction.detach() + sigma * noise


def alignment_loss(delta: Tensor, sample: NoisySample, config: AlignmentConfig) -> Tensor:
    """Return the surrogate whose gradient is weight * Delta * d x0_hat/d theta, rescaled or not; ().

    Its value means nothing, its gradient does: -weight * mean(stopgrad(Delta) * e), times sigma without rescaling, and
    times the weight that the sample has in the model's own loss. Where one step in n has it, it counts n times, so that
    its part in the training is the weight's alone.
    """
    scale = per_sample(sample.weight if config.rescale else sample.weight * sample.sigma, sample.x)
    return -config.weight * config.score.interval * (scale * delta.detach() * sample.prediction).mean()
