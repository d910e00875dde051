"""A text in the place of a learned word: what stands in prompts, what is learned, what the file says."""

from __future__ import annotations

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject, Training, load_lora_file
from palp_core.files.in_pipeline import load_file_into
from palp_core.methods.result import save_run
from palp_core.methods.subjects import TRIGGERS, trigger_texts
from palp_core.models.diffusers.backbone import DiffusersBackbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path_factory.mktemp("tiny")), device="cpu")


def subject(placeholder: str = "[V]", class_word: str = "cat", trigger: str = "") -> Subject:
    return Subject(pictures((64, 64)), class_word, placeholder, trigger=trigger)


def personalization(backbone, subjects, prompt: str, **settings) -> Training:
    config = PersonalizationConfig(
        **{"steps": 2, "rank": 2, "resolution": 64, "subject_word": "text", "learning_rate": 1e-3, **settings}
    )
    return Training(Personalization(backbone, subjects, prompt, config))


def test_prompts_hold_the_text_and_no_word_is_learned(backbone, tmp_path):
    run = personalization(backbone, [subject()], "a sketch of [V] in Paris")
    encode, seen = backbone.encode_prompt, set()

    def watched(prompt, words):
        seen.add(prompt)
        assert words == {}
        return encode(prompt, words)

    backbone.encode_prompt = watched
    try:
        list(run.steps())
    finally:
        del backbone.encode_prompt
    assert {
        "a photo of ohwx cat",
        "a sketch of ohwx cat in Paris",
        "a sketch of a cat in Paris",
        "a photo of a cat",
    } <= seen
    assert run.result.words == {} and run.result.lora
    file = load_lora_file(save_run(run, tmp_path, "cat"))
    assert file.info.prompt == "a sketch of ohwx cat in Paris" and file.words == {}
    assert load_file_into(backbone.pipeline, file) == ("a sketch of ohwx cat in Paris", {})
    backbone.pipeline.unload_lora_weights()
    (info,) = file.info.subjects
    assert (info.text, info.embedding, info.spelled) == ("ohwx cat", "", "ohwx cat")


def test_the_text_encoders_are_not_needed_while_training(backbone):
    run = personalization(backbone, [subject()], "a sketch of [V]")
    training, asked = backbone.training, []
    backbone.training = lambda learn_words: (asked.append(learn_words), training(learn_words))[1]
    try:
        list(run.steps())
    finally:
        del backbone.training
    assert asked == [False]


def test_each_subject_has_a_text_of_its_own(backbone):
    two = [subject("[V]"), subject("[V2]", "dog")]
    assert trigger_texts(two) == {"[V]": f"{TRIGGERS[0]} cat", "[V2]": f"{TRIGGERS[1]} dog"}
    named = [subject("[V]", trigger=TRIGGERS[1]), subject("[V2]", "dog")]
    assert trigger_texts(named) == {"[V]": f"{TRIGGERS[1]} cat", "[V2]": f"{TRIGGERS[0]} dog"}
    run = personalization(backbone, two, "[V] and [V2]")
    assert run.method.encode("[V] and [V2]").tensors["context"].shape[0] == 1


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ([subject(trigger="sks"), subject("[V2]", trigger="sks")], r"trigger of \[V\] is missing, or another"),
        ([subject(trigger="[x]")], r"trigger of \[V\] holds square brackets"),
        ([subject(f"[V{n}]") for n in range(len(TRIGGERS) + 1)], r"trigger of \[V8\] is missing"),
        ([subject(trigger="x" * 3000)], r"trigger of \[V\] has 3000 letters; 2000 are the most"),
    ],
)
def test_bad_texts_are_named(backbone, subjects, message):
    with pytest.raises(ValueError, match=message):
        personalization(backbone, subjects, " ".join(s.placeholder for s in subjects))


def test_a_learned_word_is_still_the_default_here(backbone):
    run = personalization(backbone, [subject()], "a sketch of [V]", subject_word="auto", alignment=AlignmentConfig(0))
    assert run.method.texts == {} and set(run.method.initial) == {"[V]"}
    list(run.steps())
    assert set(run.result.words) == {"[V]"}


def test_a_resumed_training_is_the_uninterrupted_one(backbone):
    whole = personalization(backbone, [subject()], "a sketch of [V]", steps=3)
    list(whole.steps())
    part = personalization(backbone, [subject()], "a sketch of [V]", steps=3)
    steps = part.steps()
    next(steps)
    state = part.learner.state()
    steps.close()
    rest = personalization(backbone, [subject()], "a sketch of [V]", steps=3)
    list(rest.steps(state))
    assert all(torch.equal(value, rest.result.lora[key]) for key, value in whole.result.lora.items())
