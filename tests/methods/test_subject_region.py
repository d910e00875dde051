"""Where the class word's attention finds the subject of a photo, against the renderer's own mask."""

from __future__ import annotations

import pytest
import torch

from devtools.toyworld.pictures import latent_mask
from palp_core.errors import ModelError
from palp_core.methods.subject_region import subject_region
from palp_core.models.attention import prompted
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import CLASSES, new_individual, reference_scenes
from palp_core.toyworld.world import load_world


@pytest.fixture(autouse=True)
def few_draws() -> None:
    """As many as for users: this is about the region itself."""


@pytest.fixture(scope="module")
def backbone():
    return load_world("cpu").backbone


def found_region(backbone, class_word, image):
    asked = prompted(backbone, f"a photo of a {class_word}", class_word)
    random = torch.Generator().manual_seed(0)
    return subject_region(asked, backbone.encode_image(image), backbone.levels, random)


@pytest.mark.parametrize("class_word", CLASSES)
def test_the_region_covers_the_subject_and_little_else(backbone, class_word):
    individual = new_individual(71, class_word)
    region = found_region(backbone, class_word, photos(individual, 1)[0])[0, 0] > 0
    drawn = render_with_masks(reference_scenes(individual, 1)[0])
    true = torch.from_numpy(latent_mask(drawn.subject)) > 127
    assert (region & true).sum() / true.sum() > 0.85  # what is missed of it is pulled to any of its class
    assert (region & true).sum() / (region | true).sum() > 0.45  # everything has 0.2 to 0.4


def test_a_word_that_attends_everywhere_alike_finds_everything(backbone, monkeypatch):
    monkeypatch.setattr("palp_core.methods.subject_region.mean_map", lambda maps, size: torch.ones(1, *size))
    assert found_region(backbone, "cat", photos(new_individual(1, "cat"), 1)[0]).min() == 1


def test_a_word_that_attends_to_one_spot_finds_a_tenth_of_the_photo(backbone, monkeypatch):
    """The hottest of it, and not an ear alone."""
    spot = torch.linspace(0, 0.1, 256).view(1, 16, 16)
    spot[0, 0, 0] = 1
    monkeypatch.setattr("palp_core.methods.subject_region.mean_map", lambda maps, size: spot)
    found = found_region(backbone, "cat", photos(new_individual(1, "cat"), 1)[0])
    assert found.mean().item() == pytest.approx(0.1, abs=0.01)
    assert found[..., 0, 0].item() == found[..., -1, -1].item() == 1


def test_attention_that_is_no_number_is_named(backbone, monkeypatch):
    nan = torch.full((1, 16, 16), float("nan"))
    monkeypatch.setattr("palp_core.methods.subject_region.mean_map", lambda maps, size: nan)
    with pytest.raises(ModelError, match="attention to the class word is not finite"):
        found_region(backbone, "cat", photos(new_individual(1, "cat"), 1)[0])


def test_no_hook_stays_on_the_model(backbone):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules())

    before = hooks()
    found_region(backbone, "cat", photos(new_individual(1, "cat"), 1)[0])
    assert hooks() == before
