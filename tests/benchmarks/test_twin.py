"""The UNet that predicts noise, as it is kept: untouched, it draws what prompts say at Stable Diffusion's guidance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.toyworld.twin import TWIN, TWIN_GUIDANCE, twin_world
from palp_core.toyworld.evaluators import Target
from palp_core.toyworld.world import paint

TARGETS = (Target("sketch", "mug", "scarf", "snow"), Target("neon", "bird", "hat", "room"))


def test_the_twin_predicts_noise_and_draws_what_the_prompt_says():
    world = replace(twin_world(TWIN), guidance_scale=TWIN_GUIDANCE)
    assert world.backbone.prediction.name == "epsilon"
    found = [
        world.evaluators.recognized(paint(world, t.prompt(f"a {t.class_word}"), {}, 4, seed=1), t) for t in TARGETS
    ]
    assert np.mean([shown.mean() for of_each in found for shown in of_each.values()]) >= 0.95
