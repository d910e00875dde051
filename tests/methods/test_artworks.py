"""Artworks as subjects: the base model is told the scene in their medium, and knows nothing of them."""

from __future__ import annotations

import pytest

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Personalization, PersonalizationConfig, Subject, Training
from palp_core.methods.artworks import artworks_in, in_medium, medium_of
from palp_core.methods.subjects import clean_prompt_of
from palp_core.models.diffusers.backbone import DiffusersBackbone

OIL = "an oil painting of [V2]"


def subjects(photo_prompt: str = OIL, class_word: str = "painting") -> list[Subject]:
    images = pictures((64, 64))
    return [Subject(images, "cat"), Subject(images, class_word, "[V2]", photo_prompt)]


@pytest.mark.parametrize(
    ("target", "clean"),
    [
        ("a [V] on a rock in the style of [V2]", "an oil painting of a cat on a rock"),
        ("a [V] on a rock, in the style of ([V2]:1.2), at night", "an oil painting of a cat on a rock, at night"),
        ("a photo of a [V] in [V2]'s style, smiling", "an oil painting of a cat, smiling"),
        ("An oil painting of a [V], painted by [V2]", "An oil painting of a cat"),
        ("a [V] In The Manner Of the [V2]", "an oil painting of a cat"),
        ("a [V] inspired by [V2]", "an oil painting of a cat"),
        ("a [V] on a rock, [V2] style", "an oil painting of a cat on a rock"),
        ("a [V] on a rock, ([V2]:1.2)-style, at night", "an oil painting of a cat on a rock, at night"),
        ("[V2] style, a [V] on a rock", "an oil painting of a cat on a rock"),
        ("a [V2] style sketch of [V]", "an oil painting of a sketch of a cat"),
        ("a [V] painted in [V2]’s style on a rock", "an oil painting of a cat on a rock"),
        ("a [V], drawn in the style of the [V2]", "an oil painting of a cat"),
        ("a [V] in the [V2] style", "an oil painting of a cat"),
        ("a [V], style of [V2]", "an oil painting of a cat"),
        ("a [V] on a rock, (in the style of [V2]:1.2)", "an oil painting of a cat on a rock"),
        ("a [V] on a rock, art by [V2]", "an oil painting of a cat on a rock"),
        ("digital art by [V2], a [V] on a rock", "an oil painting of a cat on a rock"),
        ("a [V] on a rock, by [V2]", "an oil painting of a cat on a rock"),
        ("a painting by [V2] of a [V]", "a painting of a cat"),
        ("A [V] on a rock. In the style of [V2].", "an oil painting of a cat on a rock."),
        ("A [V], in the style of [V2]. At night.", "an oil painting of a cat. At night."),
        ("In the style of [V2]: a [V]", "an oil painting of a cat"),
        ("In the style of [V2]. A [V]", "an oil painting of a cat"),
        ("Anna's [V] in the style of [V2]", "an oil painting of Anna's cat"),
        ("a [V] by [V2]", "a cat by a painting"),
        ("a [V] dressed as [V2]", "a cat dressed as a painting"),
        ("a [V] in stylish [V2] styled shoes", "a cat in stylish painting styled shoes"),
        ("a [V] beside a [V2]", "a cat beside a painting"),
        ("a ball held by a [V] before [V2]", "a ball held by a cat before a painting"),
        ("a [V2] with a [V] in the style of [V2]", "a painting with a cat in the style of painting"),
    ],
)
def test_the_clean_prompt_is_the_scene_in_the_artworks_medium(target, clean):
    assert clean_prompt_of(target, subjects()) == clean


def test_an_artwork_alone_is_a_picture_in_its_medium():
    (_, artwork) = subjects()
    assert clean_prompt_of("a house in the style of [V2]", [artwork]) == "an oil painting of a house"
    assert clean_prompt_of("in the style of [V2]", [artwork]) == "an oil painting"


@pytest.mark.parametrize(
    ("photo_prompt", "class_word", "medium"),
    [
        (OIL, "painting", "an oil painting"),
        ("an ink drawing in the style of [V2]", "drawing", "an ink drawing"),
        ("", "etching", "an etching"),
        ("[V2], hanging on a wall", "poster", "a poster"),
        ("a photo of the [V2]", "sculpture", "a photo"),
    ],
)
def test_the_medium_is_what_the_photos_prompt_says_else_the_class_word(photo_prompt, class_word, medium):
    assert subjects(photo_prompt, class_word)[1].medium == medium


def test_a_prompt_that_names_its_medium_says_it_once():
    assert in_medium("a painting of a cat", medium_of(OIL, "[V2]", "painting")) == "a painting of a cat"
    assert in_medium("a painting-like cat", "an oil painting") == "an oil painting of a painting-like cat"


def test_a_photo_of_an_artwork_is_told_to_the_base_model_without_it(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")
    method = Personalization(backbone, subjects(), "a [V], [V2] style", PersonalizationConfig(resolution=64))
    told = {
        OIL: "an oil painting",
        "an etching of the [V2]": "an etching",
        "a photo of [V2]": "a photo of a painting",
        "a house in the style of [V2]": "an oil painting of a house",
        "a house, by [V2]": "an oil painting of a house",
        "an oil painting of trees, [V2] style": "an oil painting of trees",
        "[V2] on a wall": "a painting on a wall",
        "a photo of [V]": "a photo of a cat",
    }
    assert {photo: method.class_photo(photo) for photo in told} == told


def test_who_is_no_subject_is_no_artwork():
    assert artworks_in("a cat in the style of Monet, beside [V]") == set()


def test_an_artwork_is_learned_from_all_of_its_photo_and_its_photo_is_its_medium(tmp_path):
    """It has no place in its photo where the class word could be looked for."""
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")
    config = PersonalizationConfig(steps=2, resolution=64, rank=2, batch_size=1)
    method = Personalization(backbone, subjects(), "a [V] in the style of [V2]", config)
    assert method.clean_prompt == "an oil painting of a cat"
    with method.learning() as learner:
        regions = {p: example.region for p, (example,) in learner.examples.items()}
    assert regions["[V2]"].min() == 1 and regions["[V]"].min() < 1
    assert [step.losses for step in Training(method).steps()]
