"""The embedded model and its judges, loaded, and what is done with them: train on an individual, draw, judge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import PromptError
from ..methods.alignment import AlignmentConfig
from ..methods.personalization import Personalization, PersonalizationConfig
from ..methods.personalization_learner import Weights
from ..methods.pick_and_draw.guidance import PickAndDraw
from ..methods.scores import Delta, Palp
from ..methods.subjects import Subject
from ..models.backbone import LearnedWords
from ..models.diffusers.backbone import DiffusersBackbone
from ..models.diffusers.loading import load_pipeline
from ..models.prompts import PLACEHOLDER
from ..models.sampling import sample, sampling_levels
from ..training.loop import Training
from . import LATENT_CHANNELS, LATENT_SIZE, MODEL_FOLDER, DemoModel, scenes
from .evaluators import Evaluators, Target, load_evaluators
from .pictures import photos, picture
from .scenes import ClassWord, Individual, Scene, new_individual
from .transformer import load_transformer_pipeline

RESOLUTION = 64  # pixels
#: Suits this model: less leaves elements of the prompt out, more burns colors and hides the subject.
GUIDANCE_SCALE = 2.0
SAMPLING_STEPS = 16
#: The default. Chosen on the tuning pairs of benchmarks/toyworld.
ALIGNMENT = AlignmentConfig(0.5, Delta(push=0.25))
#: The paper's 15 and 7.5 are twice and once the scale at which Stable Diffusion draws.
PAPERS_ALIGNMENT = AlignmentConfig(0.25, Palp(alpha=2 * GUIDANCE_SCALE, beta=GUIDANCE_SCALE))
STRANGERS = 6  # other individuals of the class, for the floor of subject alignment


@dataclass(frozen=True)
class World:
    """Hold the model and its judges, which stay on the CPU, where the pictures come to."""

    backbone: DiffusersBackbone
    evaluators: Evaluators
    model: DemoModel = "unet"
    #: Of classifier-free guidance, at which pictures are drawn.
    guidance_scale: float = GUIDANCE_SCALE


@dataclass(frozen=True)
class ToyTraining:
    """Hold what suits this small model, and is the same for all methods that are compared on it."""

    #: Adam's step for LoRA and word; Stable Diffusion takes a twentieth of it.
    learning_rate: float = 2e-3
    #: Images per training step.
    batch_size: int = 2
    #: Rank of the LoRA.
    rank: int = 16
    #: Reference photos, 1 to 4.
    photos: int = 1


#: The transformer learns faster; its learning rate was chosen on tuning pairs of benchmarks/toyworld.
TRAINING_OF: dict[DemoModel, ToyTraining] = {"unet": ToyTraining(), "transformer": ToyTraining(learning_rate=1e-3)}


def load_world(device: str | None = None, model: DemoModel = "unet") -> World:
    """Load one of the two models, on CUDA if there is one and no device is named."""
    pipeline = load_pipeline(MODEL_FOLDER) if model == "unet" else load_transformer_pipeline()
    backbone = DiffusersBackbone(pipeline, device)
    backbone.pipeline.to(backbone.device)
    return World(backbone, load_evaluators(), model)


def subject(individual: Individual, count: int = 4) -> Subject:
    """Give what Personalization learns it from."""
    return Subject(photos(individual, count), individual.class_word, personalization_prompt="a photo of a [V]")


def references(individual: Individual) -> Tensor:
    """Give the reference photos as pictures, (4, 3, 64, 64) in -1..1."""
    return as_pictures(photos(individual))


def personalization(
    world: World,
    individual: Individual,
    prompt: str,
    steps: int,
    seed: int,
    alignment: AlignmentConfig,
    training: ToyTraining | None = None,
) -> Training[Weights]:
    """Prepare a training that learns [V] from the individual's photos for a prompt that holds [V]."""
    training = training or TRAINING_OF[world.model]
    config = PersonalizationConfig(
        steps=steps,
        learning_rate=training.learning_rate,
        embedding_learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        rank=training.rank,
        resolution=RESOLUTION,
        seed=seed,
        alignment=alignment,
    )
    return Training(Personalization(world.backbone, [subject(individual, training.photos)], prompt, config))


def true_pictures(individual: Individual, target: Target, count: int) -> Tensor:
    """Draw what a perfect model would: renders of the individual, (count, 3, 64, 64) in -1..1.

    None of them is posed as a reference photo is.
    """
    drawn = [Scene(individual, target.style or "photo", target.place, target.accessory, 100 + n) for n in range(count)]
    return as_pictures([picture(scene) for scene in drawn])


def subject_alignment_range(
    world: World, individual: Individual, targets: list[Target], seed: int
) -> tuple[float, float]:
    """Judge other individuals of the class, and true renders of this one, drawn for the targets."""
    photographed = references(individual)
    strangers = [new_individual(seed + 1000 + n, individual.class_word) for n in range(STRANGERS)]

    def alignment(who: Individual) -> float:
        shown = [true_pictures(who, target, 4) for target in targets]
        return float(world.evaluators.subject_alignment(torch.cat(shown), photographed).mean())

    return float(np.mean([alignment(who) for who in strangers])), alignment(individual)


def as_pictures(images: Iterable[Tensor]) -> Tensor:
    """Turn images (H, W, 3) in 0..1 into a batch (B, 3, H, W) in -1..1."""
    return torch.stack(list(images)).movedim(-1, 1) * 2 - 1


def paint(
    world: World, prompt: str, words: LearnedWords, count: int, seed: int, guidance: PickAndDraw | None = None
) -> Tensor:
    """Sample `count` pictures, (count, 3, 64, 64) in -1..1 on the CPU, with whatever LoRA is on the model now.

    The same seed gives the same initial noise to every prompt and model.
    """
    backbone = world.backbone
    with torch.no_grad():
        null, cond = backbone.encode_prompt("", {}), backbone.encode_prompt(prompt, words)
    levels = sampling_levels(backbone.levels, SAMPLING_STEPS)
    latents = sample(backbone, initial_noise(count, seed), levels, null, cond, world.guidance_scale, guidance)
    return as_pictures(backbone.decode_latents(latents))


def initial_noise(count: int, seed: int) -> Tensor:
    """Draw (count, 8, 16, 16); each picture has a generator of its own."""
    shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1000 + n)) for n in range(count)]
    )


def read_target(prompt: str, class_word: ClassWord) -> Target:
    """Find the elements that a prompt names in the world's words: "a sketch of [V] with a hat on the beach".

    Raises PromptError for a word that the world does not know, for another subject, and for two styles, accessories,
    places or subjects.
    """
    known = scenes.vocabulary()
    unknown = [word for word in re.findall(r"[^\W\d_]+", PLACEHOLDER.sub("", prompt)) if word.lower() not in known]
    if unknown:
        raise PromptError(f"the demo's world has no {unknown[0]!r} (in {prompt!r}). It knows: {', '.join(known)}.")

    def named(choices: tuple[str, ...]) -> str | None:
        found = [choice for choice in choices if re.search(rf"\b{choice}\b", prompt, re.IGNORECASE)]
        if len(found) > 1:
            raise PromptError(f"{prompt!r} names {found[0]} and {found[1]}, and one picture has one of them.")
        return found[0] if found else None

    other = named(scenes.CLASSES)
    if other not in (None, class_word):
        raise PromptError(f"{prompt!r} names a {other}, and one picture has one subject, here the {class_word} [V].")
    return Target(named(scenes.STYLES), class_word, named(scenes.ACCESSORIES), named(scenes.PLACES))
