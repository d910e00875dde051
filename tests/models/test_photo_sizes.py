"""What SDXL is told of each photo (arXiv 2307.01952, sec. 2.2): its own size, where it was cropped, what it became."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Concept, Delta, Personalization, PersonalizationConfig, Subject, TextualInversion
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.data import photo_size, resize_to_cover

PHOTOS = pictures((300, 200), (64, 64))  # height, width
#: 300 x 200 pixels cover 64 x 64 as 96 x 64, of which 16 rows are cut off at the top.
TOLD = {300: [300, 200, 16, 0, 64, 64], 64: [64, 64, 0, 0, 64, 64]}
WHOLE = [64, 64, 0, 0, 64, 64]


def test_the_numbers_are_those_of_the_crop():
    row = torch.arange(300.0)[:, None, None].expand(300, 200, 3) / 300
    (height, width, top, left, *size) = photo_size(row, (64, 64))[0].tolist()
    assert [height, width, top, left, *size] == TOLD[300]
    seen = resize_to_cover(row, (64, 64))[:, 0, 0] * 300
    assert seen[0] == pytest.approx(top * 300 / 96, abs=3)  # the first row that is seen


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sdxl", tmp_path), device="cpu")


def sizes_told(backbone, method, steps: int = 1) -> list[list[list[int]]]:
    """What the UNet is told in the last of some steps, call by call, of each sample."""
    told = []

    def note(_module, _inputs, options) -> None:
        told.append(options["added_cond_kwargs"]["time_ids"].long().tolist())

    with method.learning() as learner:
        handle = backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
        for _ in range(steps):
            told.clear()
            learner.step()
        handle.remove()
    return told


def square(photo: torch.Tensor) -> torch.Tensor:
    """The photo with as many columns as rows, so that it is brought to a square."""
    return photo[:, : photo.shape[0]] if photo.shape[0] <= photo.shape[1] else photo[: photo.shape[1]]


def test_a_photo_is_told_its_own_size_and_what_is_drawn_for_the_prompt_is_not(backbone):
    alignment = AlignmentConfig(score=Delta(interval=1))
    config = PersonalizationConfig(batch_size=4, resolution=64, rank=2, alignment=alignment)
    photos = (square(PHOTOS[0]), PHOTOS[1])  # 200 and 64 pixels
    told = sizes_told(backbone, Personalization(backbone, [Subject(photos, "cat")], "a sketch of [V]", config), steps=2)
    *null, photo, target, base, personalized = told
    own = ([200, 200, 0, 0, 64, 64], [64, 64, 0, 0, 64, 64])
    assert null == 2 * [[WHOLE] * 4]  # as it is drawn
    assert all(size in own for size in photo) and target == [WHOLE] * 4
    assert base == [WHOLE] * 4 + photo and personalized == [WHOLE] * 4 + photo  # clean and target; then the photo's
    assert own[0] in photo, "this seed draws the small photo alone, and shows nothing"


def test_a_word_is_learned_with_the_photos_own_size(backbone):
    concept = Concept((square(PHOTOS[0]),), "c", templates=("a {}",))
    config = TextualInversionConfig(batch_size=2, resolution=64)
    assert sizes_told(backbone, TextualInversion(backbone, concept, config)) == [[[200, 200, 0, 0, 64, 64]] * 2]
