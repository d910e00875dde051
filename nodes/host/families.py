"""Which family a MODEL and a CLIP of the host are of."""

from __future__ import annotations

import comfy.model_base
import comfy.model_sampling
import comfy.sd1_clip
import comfy.utils

from ...palp_core.errors import ModelError
from ...palp_core.models.families import FAMILIES, SUPPORTED, Family
from ...palp_core.models.noise import PREDICTIONS, Prediction
from .demo_model import ToyWorldLatents
from .text import check_clip, token_table


def encoder_key(name: str) -> str:
    """Return the host's key for a text encoder in rows of tokens: clip_l -> l."""
    return name.removeprefix("clip_")


def family_of(model, clip) -> Family:
    """Return the family that CLIP and MODEL agree on.

    Raises ModelError for a family that is not supported, or parts that do not belong together.
    """
    check_clip(clip)
    encoder, base = clip.cond_stage_model, model.model
    kind = type(base.model_config).__name__
    config = base.model_config.unet_config
    if type(base) not in (comfy.model_base.BaseModel, comfy.model_base.SDXL) or "context_dim" not in config:
        raise ModelError(f"model is of the family {kind}. {SUPPORTED}: load one of these.")
    if config["in_channels"] != base.latent_format.latent_channels or base.concat_keys:
        raise ModelError(f"model is an inpainting or editing model. {SUPPORTED}: load one of these.")
    parts = {name for name, part in encoder.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)}
    pooled = isinstance(base, comfy.model_base.SDXL)
    for family in FAMILIES.values():
        if set(family.encoders) == parts and family.pooled == pooled:
            if sum(token_table(encoder, name).weight.shape[-1] for name in family.encoders) == config["context_dim"]:
                return family
    raise ModelError(
        f"clip ({type(encoder).__name__}) does not belong to model ({kind}). Connect MODEL and CLIP of the same "
        "checkpoint."
    )


def prediction_of(model) -> Prediction:
    """Return what a MODEL predicts. Raises ModelError for a way of sampling that is not known."""
    sampling = model.get_model_object("model_sampling")
    kinds = {comfy.model_sampling.EPS: "epsilon", comfy.model_sampling.V_PREDICTION: "v"}
    for kind, name in kinds.items():
        same = type(sampling).calculate_denoised is kind.calculate_denoised
        if same and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
            return PREDICTIONS[name]
    raise ModelError(
        "model samples in a way that PALP does not know (neither eps- nor v-prediction on discrete noise levels). "
        "Connect the checkpoint's MODEL before nodes such as ModelSamplingContinuousEDM or LCM."
    )


def native_resolution(model, family: Family, prediction: Prediction) -> int:
    """Return the side of the square pictures that a MODEL was trained on, pixels; its weights do not say so."""
    if isinstance(model.model.latent_format, ToyWorldLatents):
        return ToyWorldLatents.picture_size
    return family.native_resolutions[prediction.name]


def diffusers_names(unet_config: dict) -> dict[str, str]:
    """Map the host's module names -> diffusers', without `.weight`."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for theirs, ours in names.items()}
