"""Pipelines from disk: a diffusers folder or a single checkpoint, and which family it is of."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from ...errors import ModelError
from ..families import SD1, SD2, SDXL, Family
from .flow import ARCHITECTURES, architecture_of
from .single_file import load_checkpoint

#: One with a UNet, or one of ARCHITECTURES.
Pipeline = DiffusionPipeline
UNET_PIPELINES = (StableDiffusionPipeline, StableDiffusionXLPipeline)
SUPPORTED = (
    f"without ComfyUI, PALP works with Stable Diffusion 1.x and 2.x, SDXL, "
    f"{', '.join(a.family.title for a in ARCHITECTURES.values())}"
)


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    """A pipeline from a diffusers folder or a single .safetensors checkpoint on disk; nothing is downloaded.

    Raises ModelError when there is neither, or the model is of another kind, and FileError for a checkpoint that cannot
    be read.
    """
    path = Path(path)
    if path.is_dir():
        options = {"torch_dtype": dtype, "local_files_only": True, "variant": _variant(path)}
        pipeline = DiffusionPipeline.from_pretrained(path, use_safetensors=True, **options)
    elif path.suffix == ".safetensors" and path.is_file():
        pipeline = load_checkpoint(path, dtype)
    else:
        raise ModelError(f"{path} is neither a folder in the diffusers layout nor a .safetensors checkpoint.")
    if not isinstance(pipeline, UNET_PIPELINES) and architecture_of(pipeline) is None:
        raise ModelError(f"{path} holds a {type(pipeline).__name__}; {SUPPORTED}.")
    return pipeline


def _variant(folder: Path) -> str | None:
    """Return fp16 for a folder whose denoiser is there in that variant alone, as many are downloaded."""
    files = [file.name for name in ("unet", "transformer") for file in (folder / name).glob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The one that is asked for, else CUDA if there is one. Raises ModelError for one that this machine lacks."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch's two ways of saying so
        raise ModelError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def pipeline_family(pipeline: Pipeline) -> Family:
    """Return the family of a pipeline. Raises ModelError for one that takes more than latents."""
    architecture = architecture_of(pipeline)
    if architecture is not None:
        return architecture.family
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise ModelError(
            f"the UNet takes {pipeline.unet.config.in_channels} channels for latents of "
            f"{pipeline.vae.config.latent_channels}: it is an inpainting or editing model. Use a text-to-image model."
        )
    if isinstance(pipeline, StableDiffusionXLPipeline):
        if pipeline.text_encoder is None:
            raise ModelError("the SDXL refiner has one text encoder only. Train on an SDXL base model.")
        return SDXL
    openclip = pipeline.text_encoder.config.hidden_act == "gelu"  # OpenAI's CLIP, of SD 1.x, has quick_gelu
    return SD2 if openclip else SD1


def check_trainable(pipeline: Pipeline) -> None:
    """Raise ModelError for a model that is known to draw in a few steps: elsewhere its velocity means nothing."""
    architecture = architecture_of(pipeline)
    if architecture is not None and architecture.step_distilled(pipeline):
        raise ModelError(
            f"the model is a {architecture.family.title} that was distilled to a few steps, of which nothing can be "
            "learned. Train on the base model, and use the file on the distilled one."
        )
