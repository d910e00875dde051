"""The sampler of the contract against diffusers' own, on the toy world's model."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from palp_core.models.backbone import guided_noise
from palp_core.models.sampling import sample, sampling_levels
from palp_core.toyworld.world import GUIDANCE_SCALE, SAMPLING_STEPS, initial_noise, load_world

PROMPT = "a pixel art of a cat with a scarf in the city at night"


@pytest.fixture(scope="module")
def backbone():
    return load_world("cpu").backbone


@pytest.fixture
def conds(backbone):
    with torch.no_grad():
        return backbone.encode_prompt("", {}), backbone.encode_prompt(PROMPT, {})


def oracle(backbone, steps: int) -> DPMSolverMultistepScheduler:
    """Diffusers' scheduler, told that the network predicts noise, which is what the backbone makes of its answers."""
    scheduler = DPMSolverMultistepScheduler.from_config(backbone.pipeline.scheduler.config, prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def oracle_latents(backbone, noise, steps: int, null, cond, scale: float, guidance=None):
    scheduler, latents = oracle(backbone, steps), noise  # of variance 1 at every level
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        unit = (sigma**2 + 1).sqrt().item()
        x, level = latents * unit, sigma.expand(len(latents)).to(latents)
        if guidance is not None:
            x = guidance(x, level)
        predicted = guided_noise(backbone.denoise, x, level, null, cond, scale)
        latents = scheduler.step(predicted, timestep, x / unit).prev_sample
    return latents


@pytest.mark.parametrize("steps", [1, 2, 7, SAMPLING_STEPS, 50])
def test_levels_are_those_of_diffusers(backbone, steps):
    expected = oracle(backbone, steps).sigmas
    torch.testing.assert_close(torch.tensor(sampling_levels(backbone.levels, steps)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, SAMPLING_STEPS])
def test_pictures_are_those_of_diffusers(backbone, conds, steps):
    noise = initial_noise(2, seed=0)
    expected = oracle_latents(backbone, noise, steps, *conds, GUIDANCE_SCALE)
    found = sample(backbone, noise, sampling_levels(backbone.levels, steps), *conds, GUIDANCE_SCALE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    pictures = backbone.decode_latents(found), backbone.decode_latents(expected)
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-4)


def test_guidance_moves_the_latents_before_each_denoising(backbone, conds):
    def pulled(x, sigma):
        return x * (1 - 0.05 * sigma.view(-1, 1, 1, 1).clamp(max=1))

    noise = initial_noise(1, seed=0)
    expected = oracle_latents(backbone, noise, 4, *conds, 1.0, pulled)
    found = sample(backbone, noise, sampling_levels(backbone.levels, 4), *conds, 1.0, pulled)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
