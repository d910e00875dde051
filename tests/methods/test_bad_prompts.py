"""Texts of users that no model can read: refused in a sentence, before any work, and quoted in a few letters."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Concept, Nfsd, Personalization, PersonalizationConfig, Subject, Training
from palp_core.errors import MOST_QUOTED, ModelError, PalpError, PromptError, quoted
from palp_core.methods.subjects import check_subjects
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.prompts import check_placeholder, check_prompt, too_long, unknown_word, word_not_found

LONG = "a" * 1_000_000
PHOTOS = pictures((64, 64), (64, 64))
BAD = [
    ("(a:nan) of", "has a word of weight nan"),
    ("((a:1.1):NaN)", "has a word of weight NaN"),
    ("(a:1e400)", "has a word of weight 1e400"),
    ("(a b: -inf )", "has a word of weight -inf"),
    ("(a:1e9)", "has a word of weight 1e9"),
    ("(" * 101 + "a" + ")" * 101, "has brackets 101 deep in each other; 100 are the most"),
    ("a \ud800", r"holds half a letter \(\\ud800\)"),
    ("a <|endoftext|> b", r"holds <\|endoftext\|>"),
    ("a</s>b", "holds </s>"),
    (LONG, "has 1000000 letters; 2000 are the most"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_text_that_cannot_be_read_is_refused_wherever_a_user_may_write_it(text, message):
    cat = Subject(PHOTOS, "cat")
    places = {
        "target_prompt": lambda: check_subjects([cat], f"{text} [V]"),
        "class_word of .V.": lambda: check_subjects([Subject(PHOTOS, text)], "[V]"),
        "trigger of .V.": lambda: check_subjects([Subject(PHOTOS, "cat", trigger=text)], "[V]"),
        "personalization_prompt of .V.": lambda: check_subjects(
            [Subject(PHOTOS, "cat", personalization_prompt=f"[V] {text}")], "[V]"
        ),
        "clean_prompt": lambda: PersonalizationConfig(clean_prompt=text),
        "negative_prompt": lambda: PersonalizationConfig(
            alignment=AlignmentConfig(0.1, Nfsd(negative_prompt=text)),
        ),
        "initial_word": lambda: Concept(PHOTOS, text),
        "templates": lambda: Concept(PHOTOS, "cat", templates=(f"{text} {{}}",)),
        "captions": lambda: Concept(PHOTOS, "cat", captions=("a {}", f"{text} {{}}")),
    }
    for name, use in places.items():
        with pytest.raises(PromptError, match=f"^{name} {message.replace('1000000', '10000[0-9]{2}')}"):
            use()


@pytest.mark.parametrize(
    "text", ["(a:1.2)", "(a:0)", r"\(a:nan\)", "at 10:30 (see: below)", "a (b) c", "(a:-1)", "ratio 1:2)", "naïve 猫"]
)
def test_what_can_be_read_is_left_alone(text):
    check_prompt("prompt", text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Subject(PHOTOS, LONG + "[V]"),
        lambda: Subject(PHOTOS, "cat", personalization_prompt=LONG),
        lambda: Subject(PHOTOS, "cat", placeholder=LONG),
        lambda: Concept(PHOTOS, "cat", kind=LONG),
        lambda: PersonalizationConfig(subject_word=LONG),
        lambda: check_subjects([Subject(PHOTOS, "cat")], LONG[:2000]),
        lambda: check_placeholder(LONG),
    ],
)
def test_no_error_repeats_a_whole_text(make):
    with pytest.raises(PalpError) as refused:
        make()
    assert len(str(refused.value)) < MOST_QUOTED + 300


def test_errors_that_others_raise_are_short_too():
    for error in (too_long(LONG, 99, 75), word_not_found(LONG, LONG), unknown_word(LONG)):
        assert len(str(error)) < 2 * MOST_QUOTED + 300
    assert quoted("a cat") == "'a cat'" and quoted("a\ud800").encode() == rb"'a\ud800'"


def test_a_vae_that_overflows_is_named_with_the_photo_and_the_remedy(tmp_path, monkeypatch):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    encode, seen = backbone.encode_image, []

    def overflowing(image):
        seen.append(image)
        return encode(image) * (torch.inf if len(seen) == 2 else 1)

    monkeypatch.setattr(backbone, "encode_image", overflowing)
    config = PersonalizationConfig(steps=1, resolution=64, rank=2)
    run = Training(Personalization(backbone, [Subject(PHOTOS, "cat")], "a sketch of [V]", config))
    with pytest.raises(ModelError, match=r"the VAE makes values of image 2 of \[V\] .*--fp32-vae.*--precision fp32"):
        list(run.steps())


def test_torchs_random_numbers_go_on_as_if_nothing_had_been_trained(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    config = PersonalizationConfig(steps=1, resolution=64, rank=2)
    before = torch.get_rng_state()
    list(Training(Personalization(backbone, [Subject(PHOTOS, "cat")], "a sketch of [V]", config)).steps())
    assert torch.equal(before, torch.get_rng_state())
