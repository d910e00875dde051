"""Prompts and class words as users of other tools write them: [V] cat, a cat, [V:1.2]."""

from __future__ import annotations

import pytest

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, Personalization, PersonalizationConfig, Subject, Training, load_lora_file
from palp_core.files.in_pipeline import load_file_into
from palp_core.methods.result import save_run
from palp_core.methods.subjects import check_subjects
from palp_core.models.diffusers.backbone import DiffusersBackbone

PHOTOS = pictures((64, 64))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path_factory.mktemp("tiny")), device="cpu")


def method(backbone, prompt: str, subject: Subject, **settings) -> Personalization:
    config = PersonalizationConfig(**{"steps": 1, "rank": 2, "resolution": 64, **settings})
    return Personalization(backbone, [subject], prompt, config)


@pytest.mark.parametrize(
    ("prompt", "class_word", "clean"),
    [
        ("a [V] cat in Paris", "cat", "a cat in Paris"),
        ("a [V] in Paris", "a cat", "a cat in Paris"),
        ("[V] cat in Paris", "a cat", "a cat in Paris"),
        ("[V] in Paris", "the cat", "a cat in Paris"),
    ],
)
def test_the_class_prompt_has_one_class_word_and_one_article(backbone, prompt, class_word, clean):
    habitual = Subject(PHOTOS, class_word, personalization_prompt="a photo of a [V] cat")
    made = method(backbone, prompt, habitual)
    assert made.clean_prompt == clean
    assert made.class_photo(habitual.personalization_prompt) == "a photo of a cat"


def test_a_text_that_stands_for_the_subject_does_not_repeat_its_class_word(backbone, tmp_path):
    run = Training(method(backbone, "a [V] cat in Paris", Subject(PHOTOS, "cat"), subject_word="text"))
    list(run.steps())
    file = load_lora_file(save_run(run, tmp_path, "cat"))
    assert file.info.prompt == "a ohwx cat in Paris"
    assert load_file_into(backbone.pipeline, file) == ("a ohwx cat in Paris", {})
    backbone.pipeline.unload_lora_weights()


def test_an_article_in_the_class_word_is_left_out_and_said(caplog):
    subject = Subject(PHOTOS, "a cat")
    (note,) = subject.notes
    assert subject.class_word == "cat" and note in caplog.text
    assert note.startswith("class_word of [V] is 'a cat', and is read as 'cat'")
    concept = Concept(PHOTOS, "an owl")
    (note,) = concept.notes
    assert concept.initial_word == "owl" and note.startswith("initial_word is 'an owl', and is read as 'owl'")


@pytest.mark.parametrize(
    "make",
    [
        lambda: check_subjects([Subject(PHOTOS, "cat")], "a sketch of [V:1.2] in Paris"),
        lambda: Subject(PHOTOS, "cat", personalization_prompt="a photo of [V:1.2]"),
    ],
)
def test_a_weight_inside_the_brackets_is_named_with_the_spelling_that_works(make):
    with pytest.raises(ValueError, match=r"prompt.* holds \[V:1\.2\].*Write \(\[V\]:1\.2\) in its place"):
        make()
