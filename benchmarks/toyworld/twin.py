"""The embedded UNet's twin that predicts noise, as Stable Diffusion and SDXL do; devtools/toyworld/eps_twin.py."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file

from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER
from palp_core.toyworld.evaluators import load_evaluators
from palp_core.toyworld.world import DemoModel, World, load_world

#: The twin that docs/results.md tells of. It draws at this scale of guidance, as Stable Diffusion does.
TWIN, TWIN_GUIDANCE = Path(__file__).with_name("unet_eps.safetensors"), 7.0


@cache
def weights_digest(file: Path) -> str:
    """Hash a file of weights."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def world_of(unet: Path | None, guidance: float | None, model: DemoModel = "unet") -> World:
    """Load the world: with other weights of its UNet, which predict noise, and drawn at another scale of guidance.

    unet, guidance: none for the world's own.
    """
    world = twin_world(unet) if unet else load_world(model=model)
    return replace(world, guidance_scale=guidance or world.guidance_scale)


def twin_world(file: Path, prediction: Literal["epsilon", "v_prediction"] = "epsilon") -> World:
    """Load the world with these weights of the UNet, which predict noise or v.

    Raises ValueError for a file that holds other tensors than the UNet's.
    """
    pipeline = load_pipeline(MODEL_FOLDER)
    try:
        pipeline.unet.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of the embedded UNet.") from error
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config({**scheduler.config, "prediction_type": prediction})
    backbone = DiffusersBackbone(pipeline)
    backbone.pipeline.to(backbone.device)
    return World(backbone, load_evaluators())
