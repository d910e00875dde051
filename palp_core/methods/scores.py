"""What PALP (arXiv 2401.06105, sec. 4.3) compares the two models by, and the scores it is compared with.

With x_hat the re-noised sample, y_c the clean prompt and y_P the photo's (alignment.py):

    Delta = E_pre^alpha(x_hat, y_c) - E_theta^beta(x_hat, y_P)       both without gradients
    E^a(c) = (1 - a)*E(null) + a*E(c)                                classifier-free guidance

A score is a frozen dataclass of its settings that says what Delta is. A new one is a new class here, and is known to
the settings, the page and the command line by its place in `SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ..models.backbone import Conditioning, Denoiser, guided, predict_noise
from ..models.noise import NoiseLevels, per_sample
from ..settings import check_settings, setting

#: The prompts that a score may look at: "" (null), y_c (clean), y_P (photo), c_P, which is y_P with the class word
#: (class_photo), y, the target prompt with [V] (target), and what NFSD moves away from (negative).
PromptName = Literal["null", "clean", "photo", "class_photo", "target", "negative"]

#: What NFSD (arXiv 2310.17590, sec. 4) puts in the place of the data's own flaws.
NEGATIVE_PROMPT = (
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
)
#: Below this share of the noise levels NFSD takes E(null) itself as the correction towards the domain.
NFSD_SMALL_NOISE = 0.2


@dataclass(frozen=True)
class Views:
    """What a score may look at: the predictions of both models for the re-noised sample, under any of the prompts."""

    denoise: Denoiser
    #: Makes a context in which `denoise` is the base model.
    base_model: Callable[[], AbstractContextManager[None]]
    x: Tensor  # (B, C, H, W), x_hat
    noise: Tensor  # (B, C, H, W), with which x_hat was re-noised
    sigma: Tensor  # (B,)
    #: Those that the score needs, each as one conditioning for all samples or one for each.
    prompts: Mapping[PromptName, Sequence[Conditioning]]
    levels: NoiseLevels
    region: Tensor | None = None  # (B, 1, H, W) in 0..1

    def base(self, *prompts: PromptName) -> tuple[Tensor, ...]:
        """Evaluate E_pre(x_hat, c) for each of these prompts, in one call of the model; (B, C, H, W) each."""
        return self._predictions(self.base_model, prompts)

    def personalized(self, *prompts: PromptName) -> tuple[Tensor, ...]:
        """Evaluate E_theta(x_hat, c) for each of these prompts, in one call of the model; (B, C, H, W) each."""
        return self._predictions(nullcontext, prompts)

    def _predictions(
        self, model: Callable[[], AbstractContextManager[None]], prompts: tuple[PromptName, ...]
    ) -> tuple[Tensor, ...]:
        with model():
            return predict_noise(self.denoise, self.x, self.sigma, [self.prompts[name] for name in prompts])


class Score(Protocol):
    """How far the personalized model is from the target prompt: settings, and the difference that is to vanish."""

    #: Its name for users.
    name: ClassVar[str]
    #: Which prediction it moves: that of the photo's prompt y_P, or that of the target prompt y.
    trains: ClassVar[Literal["photo", "target"]]
    #: The prompts that it looks at.
    prompts: ClassVar[frozenset[PromptName]]
    #: Whether it has to know where in its photo the subject is.
    needs_region: ClassVar[bool]
    #: One step in so many keeps the prompt, and counts as often; each learns the photo.
    interval: int
    #: How strongly the empty prompt's prediction is held to the base model's; 0 leaves it to itself.
    null_prior: float

    def difference(self, views: Views) -> Tensor:
        """Return Delta, (B, C, H, W): the gradient of the loss with respect to x0_hat."""


def _alpha(default: float, towards: str):
    return setting(
        default,
        f"Guides the base model by this scale {towards}. More above beta keeps more prompt and less subject.",
        low=1,
        high=100,
        step=0.5,
    )


def _beta(default: float, more: str):
    return setting(
        default,
        f"Guides the personalized model by this scale, about that at which you generate. {more}",
        low=1,
        high=100,
        step=0.5,
    )


@dataclass(frozen=True)
class _OfThePhoto:
    """A score that moves the photo's prediction, as the paper's does, in each step."""

    trains: ClassVar = "photo"
    needs_region: ClassVar = False
    interval: ClassVar = 1
    null_prior: ClassVar = 0.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Delta:
    """Towards what the base model draws for the prompt, with what was learned of the subject's looks. Ours.

    The paper's Delta also holds what tells the subject from its class, so that keeping the prompt costs likeness, and
    it never vanishes, because y_P and y_c say different things. Here the difference between the two models' photos is
    taken out again, as delta denoising score (arXiv 2304.07090) takes out that of a reference, and e is
    eps_hat(x_t, y), y being the target prompt with [V]. c_P is y_P with the class word; m is 1 where in the photo the
    subject is and 0 elsewhere, so that what was learned of the photo's surroundings is not kept:

        Delta = E_pre(x_hat, y_c) + m*(E_theta(x_hat, y_P) - E_pre(x_hat, c_P)) - E_theta(x_hat, y)
                + push*(E_pre(x_hat, y_c) - E_pre(x_hat, c_P))

    No null prompt is in it, and no scale of guidance: what it asks for does not depend on the scale at which the model
    draws. What that scale multiplies, E(null), a training moves as well; null_prior holds it, with a loss of its own.
    """

    name = "delta"
    trains = "target"
    prompts = frozenset({"clean", "class_photo", "target", "photo"})
    needs_region = True

    push: float = setting(
        0.25,
        "Asks for this share more of what tells the scene from the photo; more keeps more prompt and less subject.",
        usual="0 to 0.5",
        low=0,
        high=10,
        step=0.05,
    )
    interval: int = setting(
        6,
        "Keeps the prompt in one step of so many, where it counts as much as in all of them; every step learns the "
        "photo. At 1 a training takes about twice as long.",
        usual="4 to 6",
        low=1,
        high=100,
        step=1,
    )
    null_prior: float = setting(
        1.0,
        "Holds what is drawn for an empty prompt to what the base model draws, as strongly as this; at 0 it is left to "
        "itself, which is faster.",
        usual="0 or 1",
        low=0,
        high=10,
        step=0.1,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def difference(self, views: Views) -> Tensor:
        clean, class_photo = views.base("clean", "class_photo")
        target, photo = views.personalized("target", "photo")
        likeness, change = photo - class_photo, clean - class_photo
        return clean + views.region * likeness - target + self.push * change


@dataclass(frozen=True)
class Palp(_OfThePhoto):
    """The paper's: the base model for the clean prompt against the personalized model for the photo's (sec. 4.3)."""

    name = "palp"
    prompts = frozenset({"null", "clean", "photo"})

    alpha: float = _alpha(15.0, "towards the target prompt. The paper has 15, and 7.5 for several subjects")
    beta: float = _beta(7.5, "The paper has 7.5, and 1 for several subjects, which saves a forward pass.")

    def difference(self, views: Views) -> Tensor:
        return guided(views.base, "null", "clean", self.alpha) - guided(views.personalized, "null", "photo", self.beta)


@dataclass(frozen=True)
class Sds(_OfThePhoto):
    """Score distillation (DreamFusion, arXiv 2209.14988, eq. 3): the base model against the noise; an ablation."""

    name = "sds"
    prompts = frozenset({"null", "clean"})

    alpha: float = _alpha(15.0, "towards the target prompt")

    def difference(self, views: Views) -> Tensor:
        return guided(views.base, "null", "clean", self.alpha) - views.noise


@dataclass(frozen=True)
class Nfsd(_OfThePhoto):
    """Noise-free score distillation (arXiv 2310.17590, eq. 8): delta_D + alpha*delta_C; an ablation."""

    name = "nfsd"
    prompts = frozenset({"null", "clean", "negative"})

    alpha: float = _alpha(15.0, "towards the target prompt")
    negative_prompt: str = setting(NEGATIVE_PROMPT, "Names what pictures are to move away from.")

    def difference(self, views: Views) -> Tensor:
        null, clean, negative = views.base("null", "clean", "negative")
        small = per_sample(views.sigma < views.levels.at(NFSD_SMALL_NOISE).to(views.sigma), null)
        return torch.where(small, null, null - negative) + self.alpha * (clean - null)


SCORES: dict[str, type[Score]] = {score.name: score for score in (Delta, Palp, Sds, Nfsd)}
