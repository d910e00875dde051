"""The toy world's pictures, captions and words, before any model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from devtools.toyworld.model import make_tokenizer
from palp_core.toyworld import scenes
from palp_core.toyworld.drawing import render, render_with_masks
from palp_core.toyworld.scenes import Scene, caption, random_individual, random_scene, reference_scenes

ELEMENTS = {"style": scenes.STYLES, "place": (None, *scenes.PLACES), "accessory": (None, *scenes.ACCESSORIES)}


@pytest.fixture
def scene() -> Scene:
    individual = random_individual(np.random.default_rng(3), "cat")
    return Scene(individual, "photo", "beach", "hat", jitter=5)


def test_a_scene_is_always_drawn_the_same():
    rng = np.random.default_rng(0)
    for scene in [random_scene(rng) for _ in range(20)]:
        assert np.array_equal(render(scene), render(scene))


@pytest.mark.parametrize("element", ELEMENTS)
def test_each_choice_of_an_element_looks_different(scene, element):
    pictures = [render(replace(scene, **{element: choice})).astype(float) for choice in ELEMENTS[element]]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert np.abs(one - other).mean() > 2


def test_individuals_differ_in_every_style_and_not_by_color_alone(scene):
    colors = {"main": scene.individual.main, "second": scene.individual.second}
    other = replace(random_individual(np.random.default_rng(4), "cat"), **colors)
    for style in scenes.STYLES:
        one, two = (
            render(replace(scene, style=style, individual=who)).mean(axis=-1) for who in (scene.individual, other)
        )
        assert np.abs(one - two).mean() > 2


def test_masks_show_where_subject_and_accessory_are(scene):
    for accessory in scenes.ACCESSORIES:
        picture = render_with_masks(replace(scene, accessory=accessory))
        bare = render(replace(scene, accessory=None)).astype(float)
        changed = np.abs(picture.pixels - bare).sum(axis=-1) > 60
        assert np.allclose(picture.subject + picture.accessory + picture.place, 1, atol=0.01)
        assert picture.accessory[changed].mean() > 0.6  # the outline's soft edge lies outside
        assert picture.accessory[~changed].mean() < 0.05
        assert 0.15 < picture.subject.mean() < 0.6


def test_every_subject_stays_inside_the_picture_with_its_hat():
    rng = np.random.default_rng(0)
    for class_word in scenes.CLASSES * 5:
        scene = Scene(random_individual(rng, class_word), "photo", None, "hat", int(rng.integers(1000)))
        picture = render_with_masks(scene)
        shown = picture.subject + picture.accessory
        assert shown[-1].sum() < 3 and shown[:, 0].sum() < 3 and shown[:, -1].sum() < 3


def test_references_are_photos_before_one_backdrop(scene):
    references = reference_scenes(scene.individual, 3)
    assert {(r.style, r.place, r.accessory) for r in references} == {("photo", None, None)}
    assert len({r.jitter for r in references}) == 3
    with pytest.raises(ValueError, match="1 to 4"):
        reference_scenes(scene.individual, 5)


def test_captions_name_what_is_given():
    assert caption("a cat", "sketch", "beach", "hat") == "a sketch of a cat with a hat on the beach"
    assert caption("a [V]", None, None, None) == "a [V]"


def test_each_word_of_the_world_is_one_token_and_others_are_spelled(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    for word in scenes.vocabulary():
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
    assert tokenizer.tokenize("dog") == ["d", "o", "g</w>"]
    longest = caption("a robot", "neon", "city", "balloon")
    assert len(tokenizer(longest).input_ids) < 24
