"""The picture of what is taken for the subject: bright where it is, dark elsewhere, and kept with the training."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Concept, Personalization, PersonalizationConfig, Subject, TextualInversion
from palp_core.files.run_folder import RunFolder
from palp_core.methods.overlay import DARK, overlay
from palp_core.methods.previews import PreviewConfig
from palp_core.methods.recording import Recording
from palp_core.methods.summary import summary
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

WHITE = torch.ones(64, 96, 3)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path / "model"), device="cpu")


def left_half() -> torch.Tensor:
    mask = torch.zeros(64, 96)
    mask[:, :48] = 1
    return mask


def test_what_is_not_the_subject_is_dark_and_grey():
    orange = torch.tensor([1.0, 0.5, 0.0]).expand(64, 96, 3)
    shown = overlay(orange, left_half()[None, ::8, ::8])
    height, width, _ = shown.shape
    assert width == 320 and height == pytest.approx(213, abs=1)
    torch.testing.assert_close(shown[:, : width // 3], orange[:1, :1].expand(height, width // 3, 3))
    right = shown[:, -width // 3 :]
    assert right.std(dim=-1).max() < 1e-6 and right.max() < DARK


def test_masks_and_alignment_without_them_are_shown_by_their_share(backbone):
    config = PersonalizationConfig(resolution=64, rank=2)
    subjects = [
        Subject((WHITE,), "cat", masks=(left_half(),)),
        Subject(pictures((64, 64)), "dog", "[V2]"),
    ]
    with Personalization(backbone, subjects, "[V] beside [V2]", config).learning() as learner:
        shown = learner.overlays()
        region = learner.examples["[V2]"][0].region
    assert list(shown) == ["[V] 1: 50%", f"[V2] 1: {region.mean():.0%}"]
    assert shown["[V] 1: 50%"][:, :100].mean() > 0.99 and shown["[V] 1: 50%"][:, -100:].mean() < 0.31


def test_of_photos_with_and_without_masks_the_others_are_searched(backbone):
    subject = Subject(pictures((64, 64), (64, 64)), "cat", masks=(None, torch.eye(64).clamp(min=0)))
    with Personalization(
        backbone, [subject], "[V]", PersonalizationConfig(resolution=64, rank=2)
    ).learning() as learner:
        searched, masked = learner.examples["[V]"]
    assert torch.equal(masked.region, masked.mask) and searched.mask.min() == 1
    assert 0 < searched.region.mean() < 1, "this photo shows nothing of a search"
    assert summary(learner.method).startswith(
        "Learning [V] (cat) from 2 photos, 1 with a mask (subject 2% of its area),"
    )


def test_all_of_a_photo_is_bright_where_nothing_is_looked_for(backbone):
    config = PersonalizationConfig(resolution=64, rank=2, alignment=AlignmentConfig(0.0))
    with Personalization(backbone, [Subject((WHITE,), "cat")], "[V]", config).learning() as learner:
        ((title, picture),) = learner.overlays().items()
    assert title == "[V] 1: 100%" and picture.min() > 0.99


@pytest.mark.parametrize("kind", ["subject", "word"])
def test_it_is_kept_from_the_first_step_and_found_again(backbone, tmp_path, kind):
    shared = {"steps": 2, "resolution": 64, "batch_size": 1}
    methods = {
        "subject": lambda: Personalization(
            backbone, [Subject((WHITE,), "cat", masks=(left_half(),))], "[V]", PersonalizationConfig(**shared, rank=2)
        ),
        "word": lambda: TextualInversion(
            backbone, Concept((WHITE,), "c", masks=(left_half(),)), TextualInversionConfig(**shared)
        ),
    }
    run = Training(methods[kind]())
    folder = RunFolder(tmp_path / "cat_00001", "0123")
    recording = Recording(folder, run.method, PreviewConfig(preview_every=0))
    assert recording.overlay is None
    for step in run.steps():
        recording.note(step, run.learner)
        assert folder.overlay() is not None
    again = Recording(folder, run.method)
    torch.testing.assert_close(again.overlay, recording.overlay, atol=0.003, rtol=0)
