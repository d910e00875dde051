"""The embedded model's training in miniature: seeded, resumable, and ending in a model that diffusers loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from devtools.toyworld import training
from devtools.toyworld.captions import JOIN, encode_captions, joined_row, random_captions
from devtools.toyworld.model import new_pipeline, new_vae, standardise_latents
from devtools.toyworld.pictures import as_pixels, draw_some
from devtools.toyworld.plan import Stage, TrainingPlan
from devtools.toyworld.steps import learning_rate_factor
from devtools.toyworld.unet import pixel_weights
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld.scenes import CLASSES, COLOR_WORDS, PATTERN_WORDS, content_words

FIRST = Stage(steps=2, learning_rate=1e-3, warmup=1, cooldown=0.0)
LOOKS = replace(
    FIRST,
    looks=(1.0, 1.0, 1.0),
    joined=0.5,
    words_only=0.5,
    taught=True,
    lowest_level=0.8,
    styles=("photo", "sketch", "neon"),
)
TINY = TrainingPlan(
    pictures=12, vae_crop_steps=1, vae_steps=2, vae_batch=2, vae_warmup=1, unet_batch=2, stages=(FIRST, LOOKS)
)


def stopped(*steps: int) -> TrainingPlan:
    """TINY, whose parts end after so many steps."""
    return replace(TINY, stages=tuple(replace(s, steps=n) for s, n in zip(TINY.stages, steps, strict=False)))


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path):
    training.train(TINY, tmp_path / "whole", tmp_path / "whole_model")
    training.train(replace(TINY, vae_steps=1, stages=()), tmp_path / "parts", tmp_path / "model")
    (tmp_path / "parts" / "latents.safetensors").unlink()  # of the unfinished VAE
    for plan in (stopped(1), stopped(2, 1), TINY):
        training.train(plan, tmp_path / "parts", tmp_path / "model")
    for part in ("vae", "unet_0", "unet_1"):
        whole, parts = (load_file(tmp_path / folder / f"{part}.safetensors") for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        for key in whole:
            assert torch.equal(whole[key], parts[key]), key


def test_the_finished_model_draws_in_diffusers(tmp_path):
    training.train(TINY, tmp_path / "work", tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a sketch of a cat", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()


def test_standardised_latents_decode_to_the_same_picture():
    torch.manual_seed(0)
    vae = new_vae()
    pixels = as_pixels(draw_some((0, 0), 6).pictures)
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        means, stds = before.mean.mean(dim=(0, 2, 3)), before.mean.std(dim=(0, 2, 3))
        shown = vae.decode(before.mean).sample
        standardise_latents(vae, means, stds)
        after = vae.encode(pixels).latent_dist
        torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(after.std, before.std / stds.view(1, -1, 1, 1), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(vae.decode(after.mean).sample, shown, atol=1e-4, rtol=1e-3)


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate_factor(step, 100, 10, 0.2) for step in range(100)]
    assert rates[0] == 0.1 and set(rates[10:80]) == {1.0} and rates[80:] == sorted(rates[80:], reverse=True)
    assert 0 < rates[-1] < 0.1


def test_subject_and_accessory_weigh_more_by_their_share():
    drawn = draw_some((0, 0), 6)
    stage = replace(FIRST, subject_weight=4.0, accessory_weight=10.0)
    assert torch.equal(pixel_weights(drawn, stage, 0.0), torch.ones(6, 1, 16, 16))
    for share in (1.0, 0.5):
        weights = pixel_weights(drawn, stage, share)
        assert weights.mean().item() == pytest.approx(1)
        subject, accessory = (torch.from_numpy(mask)[:, None] == 255 for mask in (drawn.subject, drawn.accessory))
        assert weights[subject].mean().item() == pytest.approx((1 + 3 * share) * weights.min().item())
        assert weights[accessory].mean().item() == pytest.approx((1 + 9 * share) * weights.min().item())


def test_captions_name_looks_only_where_the_stage_says_so():
    drawn = draw_some((0, 0), 40)
    looks = {*COLOR_WORDS, *PATTERN_WORDS}
    plain = random_captions(drawn, FIRST, np.random.default_rng(0))
    assert not any(looks & set(caption.split()) for caption in plain)
    named = replace(FIRST, looks=(1.0, 1.0, 1.0))
    described = [c for c in random_captions(drawn, named, np.random.default_rng(0)) if c]
    assert all(len(looks & set(caption.split())) == 3 for caption in described)


def test_a_joined_word_holds_class_and_looks_with_the_first_color_twice():
    drawn = draw_some((0, 0), 40)
    stage = replace(FIRST, looks=(1.0, 1.0, 1.0), joined=1.0)
    captions = random_captions(drawn, stage, np.random.default_rng(0))
    for caption, label, look in zip(captions, drawn.labels, drawn.looks, strict=True):
        if caption:
            (word,) = (word for word in caption.split() if JOIN in word)
            first, second = COLOR_WORDS[look[0]], COLOR_WORDS[look[1]]
            assert word.split(JOIN) == [first, first, second, PATTERN_WORDS[look[2]], CLASSES[label[1]]]


def test_a_joined_word_is_read_as_one_token_between_its_words_and_as_long_as_the_class(tmp_path):
    torch.manual_seed(0)
    pipeline = new_pipeline(tmp_path)
    table = pipeline.text_encoder.get_input_embeddings().weight
    red, cat = (table[n] for n in pipeline.tokenizer.convert_tokens_to_ids(["red</w>", "cat</w>"]))
    with torch.no_grad():
        both = encode_captions(pipeline, ["a photo of a red+cat in a room", "a photo of a cat"])
        plain = encode_captions(pipeline, ["a photo of a cat"])
        torch.testing.assert_close(both[1:], plain)
        row = joined_row(torch.stack([red, cat]))
        torch.testing.assert_close(row.norm(), cat.norm())
        torch.testing.assert_close(torch.cosine_similarity(row, red + cat, dim=0), torch.tensor(1.0))
        cat.copy_(row)
        torch.testing.assert_close(encode_captions(pipeline, ["a photo of a cat in a room"]), both[:1])


def test_behind_the_words_that_alone_are_read_stands_what_an_empty_prompt_has_there(tmp_path):
    pipeline = new_pipeline(tmp_path)
    captions = ["a red+cat in a room", "a photo of a cat", "a cat"]
    with torch.no_grad():
        whole, words, empty = (
            encode_captions(pipeline, some, words_only)
            for some, words_only in ((captions, 0), (captions, 2), ([""], 0))
        )
    for row, count in enumerate((5, 5)):  # of words
        assert torch.equal(words[row, : count + 1], whole[row, : count + 1])
        assert torch.equal(words[row, count + 1 :], empty[0, count + 1 :])
        assert not torch.equal(whole[row, count + 1 :], empty[0, count + 1 :])
    assert torch.equal(words[2], whole[2])


def test_joined_words_learn_what_the_teacher_says_of_their_words_apart(tmp_path):
    torch.manual_seed(0)
    pipeline = new_pipeline(tmp_path)
    drawn = draw_some((0, 0), 3)
    with torch.no_grad():
        latents = pipeline.vae.encode(as_pixels(drawn.pictures)).latent_dist.mode()
    batch = training.noised(pipeline, latents, 0.4, torch.Generator().manual_seed(0))
    assert batch.timesteps.min() >= 400
    captions = ["a cat", "a sketch of a red+red+blue+striped+cat in a room", "a red cat"]
    lesson = training.taught(pipeline, batch, captions)
    words = encode_captions(pipeline, ["a sketch of a red and blue striped cat in a room"])
    with torch.no_grad():
        said = pipeline.unet(batch.latents[1:2], batch.timesteps[1:2], words).sample
    torch.testing.assert_close(lesson.velocity[1:2], said)
    assert torch.equal(lesson.velocity[[0, 2]], batch.velocity[[0, 2]])
    assert training.taught(pipeline, batch, captions[::2]) is batch


def test_words_for_looks_start_within_what_the_text_encoder_knows(tmp_path):
    pipeline = new_pipeline(tmp_path)
    before = pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    training.introduce_looks(pipeline, seed=0)
    rows = pipeline.text_encoder.get_input_embeddings().weight.detach()
    changed = (rows != before).any(dim=-1).nonzero().flatten().tolist()
    words = pipeline.tokenizer.convert_ids_to_tokens(changed)
    assert set(words) == {f"{word}</w>" for word in (*COLOR_WORDS, *PATTERN_WORDS)}
    known = before[pipeline.tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in content_words()])]
    part = rows[changed] @ torch.linalg.pinv(known) @ known
    torch.testing.assert_close(part, rows[changed], atol=1e-5, rtol=1e-4)
