"""Captions of photos: what they name beside the subject is in the prompt, and so is not learned."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
from palp_core.errors import PromptError
from palp_core.models.diffusers.backbone import DiffusersBackbone

PHOTOS = pictures((64, 64), (64, 64), (64, 64))
CAPTIONS = ("A fluffy Cat on a red sofa", "", "at night, in the rain")
WRITTEN = ("A fluffy [V] on a red sofa", "a photo of [V]", "a photo of [V], at night, in the rain")
OF_CLASS = ("A fluffy cat on a red sofa", "a photo of a cat", "a photo of a cat, at night, in the rain")


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def method(backbone, *subjects: Subject, **settings) -> Personalization:
    config = PersonalizationConfig(batch_size=3, resolution=64, rank=2, **settings)
    return Personalization(backbone, list(subjects), "a sketch of [V]", config)


def test_captions_name_the_subject_in_the_place_of_its_class_word():
    assert Subject(PHOTOS, "cat", captions=CAPTIONS).photo_prompts == WRITTEN
    named = Subject(PHOTOS[:1], "stuffed toy", captions=("my [V], a stuffed toy",))
    assert named.photo_prompts == ("my [V], a stuffed toy",)
    assert Subject(PHOTOS, "cat", captions=("", " ", "")).photo_prompts == ("a photo of [V]",) * 3


def test_captions_that_do_not_fit_are_named():
    with pytest.raises(PromptError, match=r"captions: \[V\] has 3 images but 2 captions"):
        Subject(PHOTOS, "cat", captions=("a", "b"))
    with pytest.raises(PromptError, match=r"captions of \[V\] has 4000 letters|captions of \[V\] has \d+ letters"):
        Subject(PHOTOS, "cat", captions=("cat " * 1000, "", ""))


def test_a_caption_with_a_placeholder_that_no_subject_has_is_named(backbone):
    with pytest.raises(PromptError, match=r"captions of \[V\] uses \[dog\], but no subject has"):
        method(backbone, Subject(PHOTOS, "cat", captions=("a [V] and a [dog]", "", "")))


@pytest.mark.parametrize("learns", [1e-4, 0.0], ids=["learned word", "fixed word"])
def test_each_sample_is_denoised_under_its_photos_own_caption(backbone, monkeypatch, learns):
    made = method(backbone, Subject(PHOTOS, "cat", captions=CAPTIONS), embedding_learning_rate=learns)
    seen = []

    def noted(x, sigma, conds):
        seen.append([dict(cond.detach().tensors) for cond in conds])
        return denoise(x, sigma, conds)

    with made.learning() as learner:
        denoise = backbone.denoise
        monkeypatch.setattr(backbone, "denoise", noted)
        learner.draw_photos = drawn = RecordedDraws(learner)
        words = {p: {e: v.detach().clone() for e, v in word.items()} for p, word in learner.words.items()}
        learner.step()
    wanted = [WRITTEN[number] for number in drawn.numbers]
    assert len(set(wanted)) > 1, "this seed draws one photo thrice, and shows nothing"
    *_, photo, target, base, personal = seen
    for cond, prompt in zip(photo, wanted, strict=True):
        torch.testing.assert_close(cond, dict(backbone.encode_prompt(prompt, words).detach().tensors))
    assert len(target) == 1
    clean, class_photos = base[:3], base[3:]
    torch.testing.assert_close(clean, [clean[0]] * 3)
    for cond, number in zip(class_photos, drawn.numbers, strict=True):
        torch.testing.assert_close(cond, dict(backbone.encode_prompt(OF_CLASS[number], {}).tensors))
    torch.testing.assert_close(personal[3:], photo)


class RecordedDraws:
    """Notes which photos a step has drawn."""

    def __init__(self, learner):
        self.draw, self.learner = learner.draw_photos, learner

    def __call__(self):
        placeholder, prompts, batch = self.draw()
        latents = [example.latents[0] for example in self.learner.examples[placeholder]]
        self.numbers = [next(n for n, other in enumerate(latents) if torch.equal(other, x)) for x in batch.x0]
        return placeholder, prompts, batch


def test_the_same_caption_for_all_is_the_same_training_as_the_personalization_prompt(backbone):
    def first_step(subject: Subject):
        with method(backbone, subject, alignment=AlignmentConfig(0.5)).learning() as learner:
            learner.step()
            return learner.result().lora

    told = first_step(Subject(PHOTOS, "cat", personalization_prompt="a [V] at home"))
    captioned = first_step(Subject(PHOTOS, "cat", captions=("a cat at home",) * 3))
    for name, tensor in told.items():
        assert torch.equal(tensor, captioned[name])
