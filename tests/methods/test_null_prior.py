"""The empty prompt's prediction held to the base model's while a subject is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools.random_flow_models import tiny_flow_pipeline
from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject, Training
from palp_core.methods.scores import Delta, Palp
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.families import FLUX, Z_IMAGE
from palp_core.models.noise import per_sample
from palp_core.training.objective import denoising_loss

CONFIG = PersonalizationConfig(steps=4, resolution=64, rank=4, learning_rate=5e-3, embedding_learning_rate=0)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")


def training(backbone, alignment: AlignmentConfig, **changes) -> Training:
    config = replace(CONFIG, alignment=alignment, **changes)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))


def moved(backbone, null_prior: float) -> float:
    """How far the empty prompt's prediction is from the base model's in the end, in the model's own loss."""
    run = training(backbone, AlignmentConfig(0.5, Delta(null_prior=null_prior)), steps=40)
    random = torch.Generator().manual_seed(1)
    for step in run.steps():
        if step.index + 1 < 40:
            continue
        learner, sigma = run.learner, backbone.levels.sigmas[[300, 600]]
        (example,) = learner.examples["[V]"]
        x = example.latents + per_sample(sigma, example.latents) * torch.randn(2, 4, 8, 8, generator=random)
        with torch.no_grad():
            ours = backbone.denoise(x, sigma, [learner.fixed.null])
            with learner.lora.disabled():
                theirs = backbone.denoise(x, sigma, [learner.fixed.null])
        return denoising_loss(ours, theirs, backbone.prediction.loss_weight(sigma)).item()


def held(run: Training) -> list[float | None]:
    """How far the empty prompt had moved at each step; None where that was not looked at."""
    return [step.losses.get("null_prior") for step in run.steps()]


def test_a_training_moves_the_empty_prompt_less(backbone):
    assert moved(backbone, 5.0) < 0.5 * moved(backbone, 0.0)


def test_whoever_trains_is_shown_how_the_photo_is_learned_and_no_more(backbone):
    shown = {name for step in training(backbone, AlignmentConfig(0.5)).steps() for name in step.shown}
    assert shown == {"denoising_loss"}


@pytest.mark.parametrize(("interval", "steps"), [(1, [1, 3, 5, 7]), (2, [3, 7])])
def test_it_is_held_half_as_often_as_the_prompt_is_kept(backbone, interval, steps):
    found = held(training(backbone, AlignmentConfig(0.5, Delta(interval=interval)), steps=8))
    assert [number for number, loss in enumerate(found) if loss is not None] == steps
    assert all(found[number] > 0 for number in steps)


@pytest.mark.parametrize(
    "alignment",
    [AlignmentConfig(0.0), AlignmentConfig(0.5, Palp()), AlignmentConfig(0.5, Delta(null_prior=0))],
    ids=["plain", "palp", "switched off"],
)
def test_other_trainings_leave_it_to_itself(backbone, alignment):
    assert held(training(backbone, alignment)) == 4 * [None]


@pytest.mark.parametrize(
    ("family", "holds"), [(FLUX, False), (Z_IMAGE, True)], ids=lambda given: getattr(given, "name", given)
)
def test_models_distilled_for_guidance_never_learned_an_empty_prompt(tmp_path, family, holds):
    transformer = DiffusersBackbone(tiny_flow_pipeline(family.name, tmp_path), "cpu")
    found = held(training(transformer, AlignmentConfig(0.5, Delta(interval=1))))
    assert (found[1] is not None) == holds
