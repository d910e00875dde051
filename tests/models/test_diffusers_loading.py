"""What a folder or a checkpoint says of itself when it is loaded, and models that cannot be used."""

from __future__ import annotations

import pytest
import torch
from diffusers import EDMEulerScheduler

from devtools.random_flow_models import PIPELINES, tiny_flow_pipeline
from devtools.random_models import tiny_pipeline
from palp_core.errors import ModelError
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline, pipeline_family


@pytest.mark.parametrize("family", list(PIPELINES))
def test_folders_of_transformers_are_loaded_as_their_family(tmp_path, family):
    tiny_flow_pipeline(family, tmp_path / "made").save_pretrained(tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model", torch.bfloat16)
    assert pipeline_family(pipeline).name == family
    assert DiffusersBackbone(pipeline, device="cpu").compute_dtype == torch.bfloat16


def test_a_folder_that_has_the_fp16_variant_alone_is_loaded(tmp_path):
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", variant="fp16")
    assert pipeline_family(load_pipeline(tmp_path / "model")).name == "sd1"


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
    DDPMPipeline(UNet2DModel(sample_size=8, **blocks), DDIMScheduler()).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"holds a DDPMPipeline; .*FLUX.1 dev.*Z-Image"):
        load_pipeline(tmp_path / "model")


def test_a_scheduler_without_discrete_levels_is_named(tmp_path):
    pipeline = tiny_pipeline("sdxl", tmp_path)
    pipeline.scheduler = EDMEulerScheduler()
    with pytest.raises(ModelError, match=r"scheduler \(EDMEulerScheduler\) has no discrete noise levels"):
        DiffusersBackbone(pipeline, device="cpu")


def test_an_inpainting_model_is_refused(tmp_path):
    pipeline = tiny_pipeline("sd1", tmp_path)
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelError, match=r"takes 9 channels for latents of 4: .* Use a text-to-image model"):
        DiffusersBackbone(pipeline, device="cpu")


def test_the_refiner_of_sdxl_is_refused(tmp_path):
    pipeline = tiny_pipeline("sdxl", tmp_path)
    pipeline.text_encoder = None
    with pytest.raises(ModelError, match=r"refiner has one text encoder only\. Train on an SDXL base model"):
        DiffusersBackbone(pipeline, device="cpu")
