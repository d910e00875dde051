"""A prompt in a script that the text encoder does not read is told before anything is trained."""

from __future__ import annotations

import pytest

from devtools.random_flow_models import tiny_flow_pipeline
from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Concept, Personalization, PersonalizationConfig, Subject, TextualInversion
from palp_core.methods.scripts import unread
from palp_core.methods.summary import summary
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone

PHOTOS = pictures((64, 64))


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def told(backbone, target_prompt: str = "a sketch of [V]", class_word: str = "cat", **subject) -> str:
    config = PersonalizationConfig(resolution=64, rank=2, alignment=AlignmentConfig(0.0))
    return unread(Personalization(backbone, [Subject(PHOTOS, class_word, **subject)], target_prompt, config))


def test_what_cannot_be_read_is_named_with_its_script(backbone):
    assert told(backbone, "[V] 在巴黎").startswith("target_prompt '[V] 在巴黎' is in a script (Chinese) that")
    said = told(backbone, personalization_prompt="[V], кот")
    assert said.startswith("personalization_prompt '[V], кот' is in a script (Cyrillic)")
    assert "captions" in told(backbone, captions=("ソファの上の [V]",)) and "Japanese" in told(backbone, "[V] ソファ")
    said = told(backbone, "[V] 在巴黎")
    assert said.endswith("of Stable Diffusion 1.x does not read, so that it has no meaning there: write it in English.")


@pytest.mark.parametrize("prompt", ["[V] à côté de Müller, naïve №5 µ 🎨", "[V], “quoted” – and more… 4×4"])
def test_latin_letters_signs_and_emojis_are_no_matter(backbone, prompt):
    assert told(backbone, prompt) == ""


def test_a_language_model_reads_all_scripts(tmp_path):
    backbone = DiffusersBackbone(tiny_flow_pipeline("z_image", tmp_path), device="cpu")
    assert told(backbone, "[V] 在巴黎的素描") == ""


def test_it_stands_in_what_is_said_before_the_first_step(backbone):
    word = Concept(PHOTOS, "c", captions=("{} 在沙发上",))
    method = TextualInversion(backbone, word, TextualInversionConfig(resolution=64))
    assert "captions '{} 在沙发上' is in a script (Chinese)" in summary(method)
