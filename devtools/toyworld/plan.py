"""The plan of the embedded model's training: its numbers, and the stages of the UNet and its text encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from palp_core.toyworld import scenes
from palp_core.toyworld.scenes import Style


@dataclass(frozen=True)
class Stage:
    """Describes a part of the training of the UNet and its text encoder.

    Each begins with the averaged weights of the one before.

    subject_weight, accessory_weight: of the error where subject and accessory are.
    """

    steps: int
    learning_rate: float
    #: Steps in which the learning rate rises.
    warmup: int
    #: Share of the steps, at the end, in which the learning rate falls to 0, and those weights to 1.
    cooldown: float
    subject_weight: float = 4.0
    accessory_weight: float = 16.0
    #: How many of the captions name the subject's first color, how many of these its second, how many its pattern.
    looks: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: Share of the captions in which class and looks are joined in one token.
    joined: float = 0.0
    #: Share of the captions of which the words alone are read, and not what stands behind them.
    words_only: float = 0.0
    #: Joined words learn from what the model of the stage's beginning predicts with the same words apart, not from
    #: pictures: its answer has no noise.
    taught: bool = False
    #: Share of the noise levels, from the lowest, that is left out.
    lowest_level: float = 0.0
    styles: tuple[Style, ...] = scenes.STYLES


# Words for looks lower the loss at large noise alone, on the subject, and not in all styles. Among everything else
# 1,700 steps did not teach them; by themselves some 500 do.
LOOKS_ALONE = Stage(
    steps=800,
    learning_rate=4e-4,
    warmup=50,
    cooldown=0.0,
    subject_weight=50.0,
    accessory_weight=1.0,
    looks=(0.95, 0.8, 0.5),
    lowest_level=0.8,
    styles=("photo", "pixel art", "watercolor"),
)

STAGES = (
    # Most of the error of a young model lies in the places; without weights its subjects stay blobs for long, and its
    # accessories are left out for longer.
    Stage(steps=13_000, learning_rate=8e-4, warmup=200, cooldown=0.2),
    LOOKS_ALONE,
    Stage(steps=4_000, learning_rate=5e-4, warmup=100, cooldown=0.6, looks=(0.5, 0.7, 0.5)),
    # The vocabulary of a real model is full of words that mean several things at once. Without such words textual
    # inversion finds no vector that means one particular look: nothing had ever read one.
    replace(LOOKS_ALONE, steps=500, looks=(0.95, 0.8, 0.7), joined=0.8),
    Stage(steps=2_500, learning_rate=5e-4, warmup=100, cooldown=0.6, looks=(0.6, 0.7, 0.6), joined=0.5),
    # By then places were read from what stands behind the words, and their words got no more attention there than
    # elsewhere.
    Stage(
        steps=1_800,
        learning_rate=5e-4,
        warmup=50,
        cooldown=0.6,
        looks=(0.7, 0.7, 0.7),
        joined=0.6,
        words_only=0.75,
    ),
    # Pictures alone left joined words far behind the same words apart.
    Stage(
        steps=500,
        learning_rate=5e-4,
        warmup=50,
        cooldown=0.5,
        subject_weight=10.0,
        looks=(0.9, 0.8, 0.8),
        joined=0.85,
        words_only=0.75,
        taught=True,
        lowest_level=0.4,
    ),
)


@dataclass(frozen=True)
class TrainingPlan:
    """Holds all numbers of a training; the defaults are those of the shipped model."""

    seed: int = 0
    #: How many are drawn, once.
    pictures: int = 24_000
    #: The VAE's first steps see crops, because many fit in the time of one picture.
    vae_crop_steps: int = 4_000
    #: The rest see whole pictures, half as many a step: the statistics of its normalisations are those of a picture.
    vae_steps: int = 5_200
    vae_batch: int = 8
    vae_learning_rate: float = 1.5e-3
    #: Steps in which its learning rate rises.
    vae_warmup: int = 200
    kl_weight: float = 1e-6
    unet_batch: int = 16
    ema_decay: float = 0.999
    #: Largest weight of the squared error of x0.
    weight_limit: float = 5.0
    #: The UNet's training, part by part.
    stages: tuple[Stage, ...] = STAGES
