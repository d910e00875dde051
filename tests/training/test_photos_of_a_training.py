"""Photos that are learned mirrored as well, and what is outside their masks held to the base model."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
from palp_core.errors import SettingError
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.noise import per_sample
from palp_core.training.data import encode_examples
from palp_core.training.loop import Training
from palp_core.training.objective import outside_loss

RIGHT = torch.zeros(64, 64)
RIGHT[:, 32:] = 1


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def personalization(backbone, masks=(), **settings) -> Training:
    settings = {"steps": 2, "rank": 2, "learning_rate": 1e-2, "batch_size": 2, "resolution": 64, **settings}
    config = PersonalizationConfig(alignment=AlignmentConfig(weight=0), **settings)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat", masks=masks)], "a [V]", config))


def test_mirrored_photos_have_mirrored_masks_and_come_behind_their_own(backbone):
    (image,) = pictures((64, 64))
    own, mirrored = encode_examples(backbone, "it", (image,), (RIGHT,), 64, flip=True)
    (expected,) = encode_examples(backbone, "it", (image.flip(1),), (RIGHT.flip(1),), 64)
    assert torch.equal(mirrored.latents, expected.latents) and not torch.equal(mirrored.latents, own.latents)
    assert torch.equal(mirrored.mask, own.mask.flip(-1))
    assert (own.number, own.flipped, mirrored.number, mirrored.flipped) == (0, False, 0, True)


def test_a_training_draws_both_and_shows_the_photo_once(backbone):
    with personalization(backbone, flip=True).method.learning() as learner:
        first = learner.examples["[V]"][0].latents
        drawn = [learner.draw_photos()[2].x0[0] for _ in range(20)]
        mirrored = sum(not torch.equal(x0, first[0]) for x0 in drawn)
        assert 4 < mirrored < 16
        assert list(learner.overlays()) == ["[V] 1: 100%"]


def test_outside_of_a_mask_the_base_model_is_the_measure():
    random = torch.Generator().manual_seed(0)
    denoised, base = (torch.randn(2, 4, 8, 8, generator=random) for _ in range(2))
    weight, mask = torch.tensor([1.0, 3.0]), torch.zeros(2, 1, 8, 8)
    mask[:, :, :, 4:] = 1
    left = (denoised - base)[..., :4].square().sum(dim=(1, 2, 3)) / (4 * 8 * 8)
    assert outside_loss(denoised, base, weight, mask).item() == pytest.approx((weight * left).mean().item(), rel=1e-5)
    assert outside_loss(denoised, base, weight, torch.ones_like(mask)) == 0


def outside_change(backbone, masked_prior: float) -> float:
    """How far a trained model is from the base model where the mask is not, relative to where it is."""
    run = personalization(backbone, (RIGHT,), masked_prior=masked_prior, steps=60, embedding_learning_rate=0)
    random = torch.Generator().manual_seed(1)
    for step in run.steps():
        assert ("masked_prior" in step.losses) == (masked_prior > 0)
        if step.index + 1 < 60:
            continue
        learner, sigma = run.learner, backbone.levels.sigmas[[300, 600]]
        (example,) = learner.examples["[V]"]
        x = example.latents + per_sample(sigma, example.latents) * torch.randn(2, 4, 8, 8, generator=random)
        cond = [learner.encode("a photo of [V]")]
        with torch.no_grad():
            ours = backbone.denoise(x, sigma, cond)
            with learner.lora.disabled():
                theirs = backbone.denoise(x, sigma, cond)
        return outside_loss(ours, theirs, sigma**-2, example.mask).item()


def test_a_training_changes_less_outside_of_masks(backbone):
    assert outside_change(backbone, 5.0) < 0.5 * outside_change(backbone, 0.0)


def test_without_masks_there_is_nothing_outside(backbone):
    with pytest.raises(SettingError, match=r"masked_prior is 0\.5, .* no photo has one"):
        personalization(backbone, masked_prior=0.5)
