"""The embedded model and its judges, loaded, and what is done with them: train on an individual, draw, judge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor

from ..diffusers_backbone import DiffusersBackbone, load_pipeline
from ..personalization import Subject
from . import MODEL_FOLDER, scenes
from .drawing import render
from .evaluators import Evaluators, Target, load_evaluators
from .scenes import ClassWord, Individual, Scene, random_individual, reference_scenes

RESOLUTION = 64  # pixels
#: Suits this model: more adds contrast and takes variety, less leaves elements of the prompt out.
GUIDANCE_SCALE = 4.0
SAMPLING_STEPS = 16


@dataclass(frozen=True)
class World:
    """painter: the backbone's own modules behind a quicker sampler."""

    backbone: DiffusersBackbone
    painter: StableDiffusionPipeline
    evaluators: Evaluators


def load_world(device: str | None = None) -> World:
    pipeline = load_pipeline(MODEL_FOLDER)
    backbone = DiffusersBackbone(pipeline, device)
    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    painter = StableDiffusionPipeline(**{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    painter.set_progress_bar_config(disable=True)
    painter.to(backbone.device)
    return World(backbone, painter, load_evaluators().to(backbone.device))


def new_individual(seed: int, class_word: ClassWord | None = None) -> Individual:
    return random_individual(np.random.default_rng(seed), class_word)


def photos(individual: Individual, count: int = 4) -> tuple[Tensor, ...]:
    """Reference photos, (64, 64, 3) in 0..1 each."""
    return tuple(torch.from_numpy(render(scene)).float() / 255 for scene in reference_scenes(individual, count))


def subject(individual: Individual, count: int = 4) -> Subject:
    """What Personalization learns it from."""
    return Subject(photos(individual, count), individual.class_word, personalization_prompt="a photo of a [V]")


def true_pictures(individual: Individual, target: Target, count: int) -> Tensor:
    """What a perfect model would draw: renders of the individual, (count, 3, 64, 64) in -1..1."""
    drawn = [Scene(individual, target.style or "photo", target.place, target.accessory, n) for n in range(count)]
    return as_pictures([torch.from_numpy(render(scene)).float() / 255 for scene in drawn])


def as_pictures(images: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """(H, W, 3) in 0..1 each -> (B, 3, H, W) in -1..1."""
    return torch.stack(list(images)).movedim(-1, 1) * 2 - 1


@torch.no_grad()
def paint(world: World, prompt: str, words: Mapping[str, Mapping[str, Tensor]], count: int, seed: int) -> Tensor:
    """Sample `count` pictures, (count, 3, 64, 64) in -1..1 on the CPU, with whatever LoRA is on the model now.

    words: placeholder -> encoder -> vectors. The same seed gives the same initial noise to every prompt and model.
    """
    encode = world.backbone.encode_prompt
    words = {
        name: {encoder: v.to(world.backbone.device) for encoder, v in word.items()} for name, word in words.items()
    }
    images = world.painter(
        prompt_embeds=encode(prompt, words).context.expand(count, -1, -1),
        negative_prompt_embeds=encode("", {}).context.expand(count, -1, -1),
        generator=[torch.Generator().manual_seed(seed * 1000 + number) for number in range(count)],
        guidance_scale=GUIDANCE_SCALE,
        num_inference_steps=SAMPLING_STEPS,
        output_type="pt",
    ).images
    return images.float().cpu() * 2 - 1


def read_target(prompt: str, class_word: ClassWord) -> Target:
    """The elements that a prompt names in the world's words: "a sketch of [V] with a hat on the beach"."""

    def named(choices: tuple[str, ...]) -> str | None:
        return next((choice for choice in choices if re.search(rf"\b{choice}\b", prompt)), None)

    return Target(named(scenes.STYLES), class_word, named(scenes.ACCESSORIES), named(scenes.PLACES))
