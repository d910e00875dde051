"""Pipelines from disk: a diffusers folder or a single checkpoint, and which family it is of."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from ...errors import ModelError
from ..families import SD1, SD2, SDXL, Family
from .flow import ARCHITECTURES, architecture_of

#: One with a UNet, or one of ARCHITECTURES.
Pipeline = DiffusionPipeline
UNET_PIPELINES = (StableDiffusionPipeline, StableDiffusionXLPipeline)
SUPPORTED = (
    f"without ComfyUI, PALP works with Stable Diffusion 1.x and 2.x, SDXL, "
    f"{', '.join(a.family.title for a in ARCHITECTURES.values())}"
)

#: Of a repository in the diffusers layout, all but the weights.
CONFIGURATION = ("*.json", "*.txt")
#: How the names of a UNet's weights begin in a single checkpoint.
UNET_KEY = "model.diffusion_model.input_blocks."
#: By which checkpoints of SDXL that predict v say so, and that their noise ends without a rest of signal.
V_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    """A pipeline from a diffusers folder or a single .safetensors checkpoint on disk; nothing is downloaded.

    Raises ModelError when there is neither, the model is of another kind, or this machine lacks the configuration and
    the tokenizer that a single checkpoint does not hold.
    """
    path = Path(path)
    options = {"torch_dtype": dtype, "local_files_only": True}
    if path.is_dir():
        pipeline = DiffusionPipeline.from_pretrained(path, use_safetensors=True, **options)
    elif path.suffix == ".safetensors" and path.is_file():
        pipeline = _load_checkpoint(path, options)
    else:
        raise ModelError(f"{path} is neither a folder in the diffusers layout nor a .safetensors checkpoint.")
    if not isinstance(pipeline, UNET_PIPELINES) and architecture_of(pipeline) is None:
        raise ModelError(f"{path} holds a {type(pipeline).__name__}; {SUPPORTED}.")
    return pipeline


def _load_checkpoint(path: Path, options: dict) -> Pipeline:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        keys = set(file.keys())
    if not any(key.startswith(UNET_KEY) for key in keys):
        raise ModelError(
            f"{path} is no checkpoint of Stable Diffusion 1.x, 2.x or SDXL. Give other models as a folder in the "
            "diffusers layout."
        )
    sdxl = any(key.startswith("conditioner.embedders.1.") for key in keys)
    kind = StableDiffusionXLPipeline if sdxl else StableDiffusionPipeline
    pipeline = kind.from_single_file(path, config=_configuration(path), **options)
    return _with_prediction(pipeline, keys) if sdxl else pipeline


def _with_prediction(pipeline: Pipeline, keys: Collection[str]) -> Pipeline:
    """Give the scheduler what a checkpoint of SDXL says of its prediction; diffusers takes all for epsilon."""
    if V_KEY in keys:
        changes = {"prediction_type": "v_prediction"}
        if ZERO_SNR_KEY in keys:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
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
