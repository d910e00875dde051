"""Which family a MODEL and a CLIP of the host are of."""

from __future__ import annotations

import comfy.model_base
import comfy.model_sampling
import comfy.sd1_clip
import comfy.utils

from ...palp_core.errors import ModelError
from ...palp_core.models.families import FAMILIES, SUPPORTED, Family
from ...palp_core.models.joint_attention import JointLayout
from ...palp_core.models.noise import PREDICTIONS, NoiseLevels, Prediction, flow_levels
from .demo_model import ToyWorldLatents
from .text import check_clip, token_table

#: The host's names of models that draw in a few steps; at other noise levels their velocity means nothing.
STEP_DISTILLED = ("FluxSchnell",)
USE_THE_BASE = "Train on the base model, and use the file on the distilled one."


#: What the host's networks call the side of a patch.
PATCH_NAMES = ("patch_size", "patch", "patch_spatial")


def family_of(model, clip) -> Family:
    """Return the family that CLIP and MODEL agree on.

    Raises ModelError for a family that is not supported, or parts that do not belong together.
    """
    check_clip(clip)
    base = model.model
    kind, config = type(base.model_config).__name__, base.model_config.unet_config
    if kind in STEP_DISTILLED:
        raise ModelError(f"model is {kind}, distilled to a few steps, of which nothing can be learned. {USE_THE_BASE}")
    families = families_of_model(model)
    if not families:
        raise ModelError(f"model is of the family {kind}. {SUPPORTED}: load one of these.")
    latents = base.latent_format.latent_channels
    if base.concat_keys or config.get("in_channels", latents) not in (latents, 4 * latents):
        raise ModelError(f"model is an inpainting or editing model. {SUPPORTED}: load a text-to-image model.")
    if not (fitting := _fitting(families, base, clip)):
        raise _no_clip_of(base, clip)
    return fitting[0]


def families_of_model(model) -> list[Family]:
    """Return the families that a MODEL may be of, by itself; none where it is not supported."""
    return [family for family in FAMILIES.values() if _is_member(model.model, family)]


def check_trained_on(model, clip, trained_on: str) -> None:
    """Raise ModelError where MODEL and CLIP are of another family than a file, or do not belong together.

    trained_on: the file's family, by its name. A MODEL that is not supported is left to be compared key by key, as one
    that is distilled from a supported family.
    """
    check_clip(clip)
    if not (families := families_of_model(model)):
        return
    wanted, fitting = FAMILIES[trained_on], _fitting(families, model.model, clip)
    if wanted in families and not fitting:
        raise _no_clip_of(model.model, clip)
    if wanted not in fitting:
        found = " or ".join(family.title for family in fitting or families)
        raise ModelError(
            f"Load a checkpoint of {wanted.title}, which the file was trained on, or a file that was trained on "
            f"{found}, which model is of. A LoRA fits its own family only."
        )


def _fitting(families: list[Family], base, clip) -> list[Family]:
    """Those families that a CLIP is of, too."""
    return [f for f in families if _belongs(clip.cond_stage_model, f, base.model_config.unet_config)]


def _no_clip_of(base, clip) -> ModelError:
    return ModelError(
        f"clip ({type(clip.cond_stage_model).__name__}) does not belong to model ({type(base.model_config).__name__}). "
        "Connect MODEL and CLIP of the same family."
    )


def _is_member(base, family: Family) -> bool:
    config = base.model_config.unet_config
    if type(base) is not getattr(comfy.model_base, family.host_class, None):
        return False
    return all(config.get(key) == value for key, value in family.host_config.items())


def _belongs(encoder, family: Family, config: dict) -> bool:
    """Whether a text encoder is the family's; of a UNet's, its width must be that of the text attention, too."""
    parts = {name for name, part in encoder.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)}
    if family.is_transformer:
        return bool(parts) and parts <= set(family.encoders)
    if parts != set(family.encoders):
        return False
    widths = [token_table(encoder, name).weight.shape[-1] for name in family.encoders]
    return sum(widths) == config.get("context_dim")


def prediction_of(model, family: Family) -> Prediction:
    """Return what a MODEL predicts. Raises ModelError for a way of sampling that is not its family's."""
    sampling = model.get_model_object("model_sampling")
    discrete = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
    kinds = {comfy.model_sampling.EPS: "epsilon", comfy.model_sampling.V_PREDICTION: "v"} if discrete else {}
    if getattr(sampling, "noise_scale", 1.0) == 1.0:
        kinds[comfy.model_sampling.CONST] = "flow"
    for kind, name in kinds.items():
        if type(sampling).calculate_denoised is kind.calculate_denoised and name in family.native_resolutions:
            return PREDICTIONS[name]
    raise ModelError(
        f"model samples in a way that PALP does not know of {family.title} (neither eps- nor v-prediction on discrete "
        "levels, nor a flow). Connect the checkpoint's MODEL before nodes such as ModelSamplingContinuousEDM or LCM."
    )


def levels_of(model, family: Family, prediction: Prediction) -> NoiseLevels:
    """Return the noise levels of a MODEL, in latent units; of a flow, with the shift that the host has set."""
    table = model.get_model_object("model_sampling").sigmas.clone()
    if prediction.name == "flow":
        return flow_levels(table, family.timesteps)
    return NoiseLevels(table, family.timesteps)


def joint_layout(base, family: Family) -> JointLayout | None:
    """Return how the host's transformer lays picture and prompt into one sequence: always the prompt first."""
    if family.attention != "joint":
        return None
    network, config = base.diffusion_model, base.model_config.unet_config
    patch = next((getattr(network, name) for name in PATCH_NAMES if isinstance(getattr(network, name, None), int)), 2)
    return JointLayout(patch, multiple=config.get("pad_tokens_multiple") or 1)


def native_resolution(model, family: Family, prediction: Prediction) -> int:
    """Return the side of the square pictures that a MODEL was trained on, pixels; its weights do not say so."""
    if isinstance(model.model.latent_format, ToyWorldLatents):
        return ToyWorldLatents.picture_size
    return family.native_resolutions[prediction.name]


def diffusers_names(unet_config: dict) -> dict[str, str]:
    """Map the host's module names -> diffusers', without `.weight`."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for theirs, ours in names.items()}
