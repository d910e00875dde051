"""Photos of any size and aspect, and their masks."""

import pytest
import torch

from devtools.random_models import pictures
from palp_core.training.data import latent_mask, resize_to_cover, training_size


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((512, 512), 512, (512, 512)),
        ((1000, 500), 512, (704, 384)),
        ((30, 3000), 512, (64, 5120)),
        ((40, 40), 64, (64, 64)),
    ],
)
def test_training_size_keeps_area_and_aspect_in_steps_of_64(size, resolution, expected):
    assert training_size(*size, resolution, multiple=64) == expected


def test_resizing_covers_the_size_without_distortion_and_stays_in_range():
    (image,) = pictures((90, 240))
    resized = resize_to_cover(image, (64, 128))
    assert resized.shape == (64, 128, 3) and 0 <= resized.min() and resized.max() <= 1
    stripe = torch.zeros(100, 200, 1)
    stripe[:, 90:110] = 1  # a tenth of the width, in the middle
    assert resize_to_cover(stripe, (64, 64)).mean() == pytest.approx(0.2, abs=0.02)  # the crop keeps half of the width


def test_a_small_subject_does_not_vanish_from_the_latents_grid():
    mask = torch.zeros(512, 512)
    mask[100:103, 100:103] = 1
    on_grid = latent_mask(mask, (512, 512), torch.zeros(1, 4, 64, 64))
    assert on_grid.shape == (1, 1, 64, 64) and on_grid.sum() * 64 == pytest.approx(9)


def test_a_subject_that_cropping_removes_is_named():
    mask = torch.zeros(64, 600)
    mask[:, :4] = 1
    size = training_size(64, 600, 128, multiple=64)
    with pytest.raises(ValueError, match="Crop the picture around the subject"):
        latent_mask(mask, size, torch.zeros(1, 4, size[0] // 8, size[1] // 8))
