"""The twin of the embedded UNet that predicts noise: what it is taught is what the UNet says, and it can be stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import load_file

from devtools.toyworld import eps_twin
from devtools.toyworld.eps_twin import TwinPlan, TwinTraining
from devtools.toyworld.pictures import draw_some
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER

#: Of constant rates: the first part of it is the same training for fewer steps.
TINY = TwinPlan(pictures=6, steps=2, batch=2, warmup=1, cooldown=0.0)


class TrueTwin(torch.nn.Module):
    """Says what the UNet says, as noise, (x - D) / sigma by the backbone's own arithmetic."""

    def __init__(self, pipeline):
        super().__init__()
        self.backbone = DiffusersBackbone(pipeline, "cpu")

    def forward(self, latents, timesteps, context):
        signal = self.backbone.pipeline.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        sigma = ((1 - signal) / signal).sqrt()
        x = latents / signal.sqrt()
        velocity = self.backbone.pipeline.unet(latents, timesteps, context).sample
        denoised = self.backbone.prediction.denoised(x, sigma.flatten(), velocity)
        return type("Said", (), {"sample": (x - denoised) / sigma})


def test_a_twin_that_says_the_same_has_no_error():
    pipeline = load_pipeline(MODEL_FOLDER)
    training = TwinTraining(pipeline, torch.randn(6, 8, 16, 16), draw_some((0, 0), 6), TINY)
    random = torch.Generator().manual_seed(0)
    assert training.loss(np.random.default_rng(0), random) > 0.01
    training.unet = TrueTwin(pipeline)
    assert training.loss(np.random.default_rng(0), random) < 1e-6


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path):
    eps_twin.train(TINY, tmp_path / "whole")
    eps_twin.train(replace(TINY, steps=1), tmp_path / "parts")
    eps_twin.train(replace(TINY, steps=2), tmp_path / "parts")
    whole, parts = (load_file(tmp_path / folder / "twin.safetensors") for folder in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    eps_twin.export(tmp_path / "whole" / "twin.safetensors", tmp_path / "unet.safetensors")
    pipeline = load_pipeline(MODEL_FOLDER)
    pipeline.unet.load_state_dict(load_file(tmp_path / "unet.safetensors"))
