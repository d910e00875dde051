"""Prompt alignment: PALP, arXiv 2401.06105, sec. 4.3 (the score) and 4.4 (its use), and the scores it is compared with.

With x_t = x0 + sigma*eps and e = eps_hat(x_t, y_P), the prediction that carries the gradients:

    x0_hat = x_t - sigma*e
    x_hat  = stopgrad(x0_hat) + sigma*eps                             re-noised, by default with the same noise
    Delta  = E_pre^alpha(x_hat, y_c) - E_theta^beta(x_hat, y_P)       both without gradients
    E^a(c) = (1 - a)*E(null) + a*E(c)                                 classifier-free guidance

The gradient of the loss with respect to x0_hat is Delta. Since d x0_hat/d theta = -sigma * d e/d theta, dividing by
sigma (the paper's rescaling) leaves the surrogate loss = -weight * mean(stopgrad(Delta) * e).

`delta` is ours and not the paper's. The paper's Delta also holds what tells the subject from its class, so that keeping
the prompt costs likeness, and it never vanishes, because y_P and y_c say different things. Here the difference between
the two models' photos is taken out again, as delta denoising score (arXiv 2304.07090) takes out that of a reference,
and e is eps_hat(x_t, y), y being the target prompt with [V]. c_P is y_P with the class word; m is 1 where in the photo
the subject is and 0 elsewhere, so that what was learned of the photo's surroundings is not kept:

    Delta = beta*(E_pre(x_hat, y_c) + m*(E_theta(x_hat, y_P) - E_pre(x_hat, c_P)) - E_theta(x_hat, y))
            + (alpha - beta)*(E_pre(x_hat, y_c) - E_pre(x_hat, c_P))

The paper's model predicts eps. Of a model that predicts v = sqrt(1 + sigma^2)*e + terms without e, the denoising loss
is on v, so the surrogate is taken on v too: times 1 + sigma^2, or it would count for nothing at large noise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from ..models.backbone import Conditioning, concatenate

Score = Literal["delta", "palp", "sds", "nfsd"]
Noise = Literal["same", "fresh"]

#: What NFSD (arXiv 2310.17590, sec. 4) puts in the place of the data's own flaws.
NEGATIVE_PROMPT = (
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
)
#: Below this share of the noise levels NFSD takes E(null) itself as the correction towards the domain.
NFSD_SMALL_NOISE = 0.2


@dataclass(frozen=True)
class AlignmentConfig:
    """How the target prompt is kept alive. For the paper's own: score palp, alpha 15, beta 7.5."""

    #: Weight of the alignment loss beside the denoising loss; 0 is plain textual inversion + LoRA. Typical 0.1 to 0.5.
    weight: float = 0.25
    #: delta: to what the untouched model draws for the prompt, with the subject's looks (ours); palp: the paper's,
    #: against the personalized model; sds: against the noise; nfsd: noise-free score distillation.
    score: Score = "delta"
    #: Guidance scale of the pre-trained model towards the clean prompt, by delta from the photo's prompt instead of the
    #: null prompt. Further above beta: more prompt, less likeness. Paper, with its score: 15; 7.5 for compositions.
    alpha: float = 9.5
    #: Guidance scale of the personalized model, about that at which the model draws. With the paper's score 1 saves a
    #: forward pass. Paper: 7.5; 1 for compositions.
    beta: float = 7.5
    #: Re-noise with the noise of the training sample (the paper's choice) or with a fresh draw.
    noise: Noise = "same"
    #: Divide the gradient by sigma, which the paper found better and stabler.
    rescale: bool = True
    #: What NFSD moves away from; of no use to the other scores.
    negative_prompt: str = NEGATIVE_PROMPT

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise ValueError(f"score is {self.score!r}; it must be one of {', '.join(get_args(Score))}.")
        if self.noise not in get_args(Noise):
            raise ValueError(f"noise is {self.noise!r}; it must be one of {', '.join(get_args(Noise))}.")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"alignment weight is {self.weight}; it must be 0 (off) or a positive number, such as 0.25."
            )
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 1 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; a guidance scale must be 1 (no guidance) or more.")

    @property
    def trains_target_prompt(self) -> bool:
        """Whether the prediction that it moves is that of the target prompt, and not y_P's."""
        return self.weight > 0 and self.score == "delta"

    @property
    def reads_negative_prompt(self) -> bool:
        return self.weight > 0 and self.score == "nfsd"


class AlignmentPrompts(NamedTuple):
    """Conditionings that stay the same in all steps, each a batch of one."""

    null: Conditioning
    clean: Conditioning  # y_c: the target prompt with class words
    negative: Conditioning | None = None  # nfsd only


class SubjectPrompts(NamedTuple):
    """Conditionings of the subject that a step draws, each a batch of one."""

    photo: Conditioning  # y_P, the personalization prompt: "a photo of [V]"
    target: Conditioning | None = None  # y, the target prompt with [V]; delta needs it
    class_photo: Conditioning | None = None  # c_P, y_P with the class word; delta needs it


class NoisySample(NamedTuple):
    """A training sample and what the personalized model says of it."""

    x: Tensor  # (B, C, H, W), x0 + sigma*noise
    noise: Tensor  # (B, C, H, W)
    sigma: Tensor  # (B,)
    prediction: Tensor  # (B, C, H, W), e = eps_hat(x, y_P), of delta eps_hat(x, y), with gradients
    weight: Tensor  # (B,), of a squared error of e in the model's own loss: 1 where it predicts eps, 1 + sigma^2 for v
    region: Tensor | None = None  # (B, 1, H, W) in 0..1, where the subject is; delta needs it


class Denoiser(Protocol):
    def __call__(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor: ...


def predict_noise(denoise: Denoiser, x: Tensor, sigma: Tensor, conds: list[Conditioning]) -> tuple[Tensor, ...]:
    """eps_hat = (x - D)/sigma for each of several prompts, in one call of the denoiser. Returns (B, C, H, W) each."""
    batch, count = x.shape[0], len(conds)
    cond = concatenate([c.expand(batch) for c in conds])
    denoised = denoise(x.repeat(count, 1, 1, 1), sigma.repeat(count), cond)  # (count*B, C, H, W)
    return tuple((x - part) / _column(sigma) for part in denoised.chunk(count))


def guided_noise(
    denoise: Denoiser, x: Tensor, sigma: Tensor, null: Conditioning, cond: Conditioning, scale: float
) -> Tensor:
    """E^a(c) = (1 - a)*E(null) + a*E(c), PALP eq. 4; at a = 1 the null prompt is not evaluated. (B, C, H, W)."""
    if scale == 1:
        return predict_noise(denoise, x, sigma, [cond])[0]
    unconditional, conditional = predict_noise(denoise, x, sigma, [null, cond])
    return (1 - scale) * unconditional + scale * conditional


def renoise(sample: NoisySample, noise: Tensor) -> Tensor:
    """x_hat = stopgrad(x0_hat) + sigma*noise with x0_hat = x_t - sigma*e. (B, C, H, W)."""
    sigma = _column(sample.sigma)
    return sample.x - sigma * sample.prediction.detach() + sigma * noise


@torch.no_grad()
def score_difference(
    denoise: Denoiser,
    pretrained: AbstractContextManager[None],
    sample: NoisySample,
    subject: SubjectPrompts,
    prompts: AlignmentPrompts,
    noise: Tensor,
    small_noise: Tensor,
    config: AlignmentConfig,
) -> Tensor:
    """Delta, the direction in which x0_hat is to move against, (B, C, H, W).

    pretrained: context in which `denoise` is the untouched model. subject: for delta all three prompts. noise: that
    with which x0_hat is re-noised. small_noise: sigma below which NFSD changes its form, ().
    """
    x_hat = renoise(sample, noise)
    if config.score == "delta":
        return _delta(denoise, pretrained, x_hat, sample, subject, prompts, config)
    if config.score == "nfsd":
        with pretrained:
            return _nfsd(denoise, x_hat, sample.sigma, prompts, small_noise, config.alpha)
    with pretrained:
        aligned = guided_noise(denoise, x_hat, sample.sigma, prompts.null, prompts.clean, config.alpha)
    if config.score == "sds":
        return aligned - noise
    personalized = guided_noise(denoise, x_hat, sample.sigma, prompts.null, subject.photo.detach(), config.beta)
    return aligned - personalized


def alignment_loss(delta: Tensor, sample: NoisySample, config: AlignmentConfig) -> Tensor:
    """The surrogate whose gradient with respect to theta is weight * Delta * d x0_hat/d theta, rescaled or not; ().

    Its value means nothing, its gradient does: -weight * mean(stopgrad(Delta) * e), times sigma without rescaling, and
    times the weight that the sample has in the model's own loss.
    """
    scale = _column(sample.weight if config.rescale else sample.weight * sample.sigma)
    return -config.weight * (scale * delta.detach() * sample.prediction).mean()


def _delta(
    denoise: Denoiser,
    pretrained: AbstractContextManager[None],
    x: Tensor,
    sample: NoisySample,
    subject: SubjectPrompts,
    prompts: AlignmentPrompts,
    config: AlignmentConfig,
) -> Tensor:
    """What the pre-trained model draws, with the subject's likeness, less what the personalized one draws."""
    sigma = sample.sigma
    with pretrained:
        clean, class_photo = predict_noise(denoise, x, sigma, [prompts.clean, subject.class_photo])
    target, photo = predict_noise(denoise, x, sigma, [subject.target.detach(), subject.photo.detach()])
    likeness, change = photo - class_photo, clean - class_photo
    return config.beta * (clean + sample.region * likeness - target) + (config.alpha - config.beta) * change


def _nfsd(
    denoise: Denoiser, x: Tensor, sigma: Tensor, prompts: AlignmentPrompts, small_noise: Tensor, scale: float
) -> Tensor:
    """Noise-free score distillation, arXiv 2310.17590 eq. 8: delta_D + scale*delta_C, without the noise residual."""
    null, clean, negative = predict_noise(denoise, x, sigma, [prompts.null, prompts.clean, prompts.negative])
    domain = torch.where(_column(sigma < small_noise), null, null - negative)
    return domain + scale * (clean - null)


def _column(value: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1)
