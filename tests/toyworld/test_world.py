"""The embedded model and its judges as they are shipped: they are what they are said to be."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from devtools.toyworld.judges import attribute_accuracy, individual_renders, verification
from devtools.toyworld.pictures import as_pixels, draw_some
from devtools.toyworld.vae import psnr
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.scores import Views
from palp_core.toyworld import MODEL_FOLDER, scenes
from palp_core.toyworld.evaluators import Target, diversity
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import (
    ALIGNMENT,
    PAPERS_ALIGNMENT,
    as_pictures,
    load_world,
    paint,
    personalization,
    read_target,
    references,
    true_pictures,
)

MOST_BYTES = 35_000_000


@pytest.fixture(scope="module")
def world():
    return load_world("cpu")


@pytest.fixture(scope="module")
def flow_world():
    """The second model, on which fewer steps tell methods apart."""
    return load_world("cpu", "transformer")


@pytest.fixture(scope="module")
def unseen():
    """Pictures that nothing was trained on."""
    return draw_some((999, 0), 300)


def test_the_model_is_small_and_its_latents_are_standardised(world, unseen):
    assert sum(file.stat().st_size for file in MODEL_FOLDER.rglob("*")) < MOST_BYTES
    vae = world.backbone.pipeline.vae
    with torch.no_grad():
        latents = vae.encode(as_pixels(unseen.pictures[:60])).latent_dist.mode()
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(latents.shape[1]), atol=0.2, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(latents.shape[1]), atol=0.2, rtol=0)
    assert psnr(vae, unseen.pictures[:60]) > 24


def test_the_judges_are_right_about_unseen_renders(world, unseen):
    accuracy = attribute_accuracy(world.evaluators, unseen.pictures, unseen.labels)
    assert min(accuracy.values()) >= 0.98, accuracy


def test_the_judge_of_identity_tells_unseen_individuals_of_a_class_apart(world):
    areas = verification(world.evaluators, *individual_renders((999, 1), 120))
    assert areas["photo"] >= 0.95 and min(areas.values()) >= 0.9, areas


def test_subject_alignment_of_the_true_individual_is_far_above_that_of_others(world):
    one, other = new_individual(3, "cat"), new_individual(4, "cat")
    references = as_pictures(photos(one))
    target = Target("sketch", "cat", "hat", "beach")
    true, false = (
        world.evaluators.subject_alignment(true_pictures(who, target, 4), references) for who in (one, other)
    )
    assert true.mean() > false.mean() + 0.2


def found_shares(world, pictures: int) -> dict[str, float]:
    """Which shares of the elements are found in pictures of six prompts, together all there are."""
    accessories = [*scenes.ACCESSORIES, *scenes.ACCESSORIES]
    styles = [*scenes.STYLES, "sketch"]
    targets = [Target(*named) for named in zip(styles, scenes.CLASSES, accessories, scenes.PLACES, strict=True)]
    found = [
        world.evaluators.recognized(paint(world, t.prompt(f"a {t.class_word}"), {}, pictures, seed=1), t)
        for t in targets
    ]
    return {name: np.mean([shown[name].mean() for shown in found]) for name in found[0]}


def test_the_base_model_draws_what_the_prompt_says(world):
    shares = found_shares(world, 8)
    assert shares["style"] >= 0.97 and shares["place"] >= 0.97, shares
    assert shares["class_word"] >= 0.95 and shares["accessory"] >= 0.85, shares


def test_the_transformer_draws_what_the_prompt_says(flow_world):
    shares = found_shares(flow_world, 2)
    assert min(shares.values()) >= 0.9, shares


def test_targets_are_read_from_prompts():
    assert read_target("a neon sign of a [V] with a scarf in the snow", "car") == Target("neon", "car", "scarf", "snow")
    assert read_target("a [V] in the city at night", "car") == Target(None, "car", None, "city")
    assert read_target("a sketch of a [V] car", "car") == Target("sketch", "car", None, None)
    with pytest.raises(ValueError, match="names a house"):
        read_target("a sketch of a [V] with a house", "car")


def test_diversity_is_nothing_for_copies_and_much_for_noise():
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert diversity(noise[:1].expand(3, -1, -1, -1)) == 0
    assert diversity(noise) > 0.3


@torch.no_grad()
def pushed_along(world, sign: float) -> float:
    """Take 20 steps of x0 <- x0 - 0.03 * sign * Delta on a photo; p(sketch) of what it becomes."""
    backbone, target = world.backbone, Target("sketch", "cat", None, None)
    texts = {"null": "", "clean": target.prompt("a cat"), "photo": "a photo of a cat"}
    prompts = {name: [backbone.encode_prompt(text, {})] for name, text in texts.items()}
    x0 = backbone.encode_image(photos(new_individual(1, "cat"), 1)[0])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sigma = backbone.levels.sigmas[torch.randint(200, 800, (1,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        views = Views(backbone.denoise, nullcontext, x0 + sigma * noise, noise, sigma, prompts, backbone.levels)
        delta = PAPERS_ALIGNMENT.score.difference(views)
        x0 = x0 - 0.03 * sign * delta  # three times as much overshoots: contrast and colors burn out
    picture = as_pictures(backbone.decode_latents(x0))
    return float(world.evaluators.attributes(picture)["style"].softmax(dim=-1)[0, scenes.STYLES.index("sketch")])


def test_following_the_alignment_gradient_turns_a_photo_into_the_prompts_style(world):
    assert pushed_along(world, sign=1.0) > 0.9
    assert pushed_along(world, sign=-1.0) < 0.1


@pytest.fixture
def few_sampling_steps(monkeypatch):
    """Half of the usual ones move the figures of pictures by 0.02 at most, and drawing takes longest."""
    monkeypatch.setattr("palp_core.toyworld.world.SAMPLING_STEPS", 8)


def learned(world, individual, target: Target, alignment: AlignmentConfig):
    """Pictures of the prompt after 50 steps, with the text that stands for the subject."""
    run = personalization(world, individual, target.prompt("a [V]"), 50, 0, alignment)
    for step in run.steps():
        if step.index + 1 == run.method.config.steps:
            return paint(world, target.prompt(f"a {run.method.texts['[V]']}"), {}, 4, seed=0)


def test_palp_keeps_the_prompt_that_plain_training_forgets_and_learns_the_subject_as_well(
    flow_world, few_sampling_steps
):
    world, target = flow_world, Target("neon", "house", "hat", "room")
    individual = new_individual(73, "house")
    plain, palp = (
        judge(world.evaluators, learned(world, individual, target, a), target, references(individual))
        for a in (AlignmentConfig(weight=0), ALIGNMENT)
    )
    base = judge(world.evaluators, paint(world, target.prompt("a house"), {}, 4, 0), target, references(individual))
    assert palp.text_alignment >= 0.9 and palp.text_alignment >= plain.text_alignment + 0.1, (plain, palp)
    assert palp.subject_alignment >= plain.subject_alignment - 0.2, (plain, palp)
    assert palp.subject_alignment >= base.subject_alignment + 0.4, (base, palp)
