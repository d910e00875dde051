"""The empty prompt's prediction held to the base model's while a subject is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools.random_flow_models import tiny_flow_pipeline
from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject, Training
from palp_core.errors import SettingError
from palp_core.methods.scores import Delta, Palp
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.families import FLUX
from palp_core.models.noise import per_sample
from palp_core.training.objective import denoising_loss

CONFIG = PersonalizationConfig(steps=3, resolution=64, rank=4, learning_rate=5e-3, embedding_learning_rate=0)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")


def training(backbone, alignment: AlignmentConfig, **changes) -> Training:
    config = replace(CONFIG, alignment=alignment, **changes)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))


def moved(backbone, null_prior: float) -> float:
    """How far the empty prompt's prediction is from the base model's in the end, in the model's own loss."""
    run = training(backbone, AlignmentConfig(0.5), null_prior=null_prior, steps=40)
    random = torch.Generator().manual_seed(1)
    for step in run.steps():
        assert ("null_prior" in step.losses) == (null_prior > 0)
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


def test_a_training_moves_the_empty_prompt_less(backbone):
    assert moved(backbone, 5.0) < 0.5 * moved(backbone, 0.0)


@pytest.mark.parametrize(
    "alignment",
    [AlignmentConfig(0.0), AlignmentConfig(0.5, Palp()), AlignmentConfig(0.5), AlignmentConfig(0.5, Delta(interval=2))],
    ids=["plain", "palp", "delta", "every other step"],
)
def test_it_is_held_in_each_step_of_any_training(backbone, alignment):
    held = [step.losses["null_prior"] for step in training(backbone, alignment, null_prior=1.0).steps()]
    assert held[0] == 0 and min(held[1:]) > 0  # the LoRA begins as nothing


def test_guidance_distilled_models_have_no_empty_prompt(tmp_path):
    flux = DiffusersBackbone(tiny_flow_pipeline(FLUX.name, tmp_path), "cpu")
    with pytest.raises(SettingError, match=r"null_prior is 1\.0, but guidance-distilled models such as FLUX"):
        training(flux, AlignmentConfig(0.5), null_prior=1.0)
