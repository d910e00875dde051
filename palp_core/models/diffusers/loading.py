"""Pipelines from disk: a diffusers folder or a single checkpoint, and which family it is of."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from ...errors import ModelError
from ..families import SD1, SD2, SDXL, Family

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

#: Of a repository in the diffusers layout, all but the weights.
CONFIGURATION = ("*.json", "*.txt")


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    """A pipeline from a diffusers folder or a single .safetensors checkpoint on disk; nothing is downloaded.

    Raises ModelError when there is neither, the model is of another kind, or this machine lacks the configuration and
    the tokenizer that a single checkpoint does not hold.
    """
    path = Path(path)
    options = {"torch_dtype": dtype, "local_files_only": True}
    if path.is_dir():
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(path, use_safetensors=True, **options)
    elif path.suffix == ".safetensors" and path.is_file():
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            sdxl = any(key.startswith("conditioner.embedders.1.") for key in file.keys())
        kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
        pipeline = kind.from_single_file(path, config=_configuration(path), **options)
    else:
        raise ModelError(f"{path} is neither a folder in the diffusers layout nor a .safetensors checkpoint.")
    if not isinstance(pipeline, Pipeline):
        raise ModelError(f"{path} holds a {type(pipeline).__name__}; PALP trains Stable Diffusion 1.x, 2.x and SDXL.")
    return pipeline


def _configuration(checkpoint: Path) -> str:
    """The folder with what a single checkpoint lacks, from the cache of huggingface_hub.

    from_single_file would find it too, but where it is missing downloads it without being asked.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    source = fetch_diffusers_config(load_single_file_checkpoint(checkpoint))["pretrained_model_name_or_path"]
    try:
        return snapshot_download(source, allow_patterns=CONFIGURATION, local_files_only=True)
    except LocalEntryNotFoundError as error:
        wanted = " ".join(f"--include '{pattern}'" for pattern in CONFIGURATION)
        raise ModelError(
            f"{checkpoint} holds weights alone; its configuration and tokenizer are not on this machine. Get "
            f"these small files once with: hf download {source} {wanted}"
        ) from error


def chosen_device(device: torch.device | str | None) -> torch.device:
    """The one that is asked for, else CUDA if there is one. Raises ModelError for one that this machine lacks."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch's two ways of saying so
        raise ModelError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def pipeline_family(pipeline: Pipeline) -> Family:
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
