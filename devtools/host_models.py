"""The host inside the test process: our pack loaded by path, and a tiny pipeline's weights as MODEL, CLIP and VAE."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from transformers import CLIPTokenizer

from . import dynamic_vram
from .comfy_server import PACK
from .few import FEW
from .random_models import CROSS_ATTENTION, SDXL_DEPTH

PACK_NAME = "palp_pack"


def import_host(comfyui: Path) -> None:
    """Put ComfyUI first on the path: its `nodes.py` must be found before anything of that name."""
    if str(comfyui) not in sys.path:
        sys.path.insert(0, str(comfyui))
    import utils.extra_config  # noqa: F401 - as the host's main.py does, before another `utils` is found
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    if dynamic_vram.is_wanted():
        dynamic_vram.switch_on()


def import_pack() -> ModuleType:
    """Our pack as the host imports it, as a package with a name of the host's choosing."""
    if PACK_NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK_NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        sys.modules[PACK_NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK_NAME])
    return sys.modules[PACK_NAME]


def take_few() -> None:
    """Let our pack do as little for nothing as the tests of the core (devtools/few.py)."""
    for (module, constant), few in FEW.items():
        setattr(importlib.import_module(f"{PACK_NAME}.{module}"), constant, few)


def pack_nodes() -> list[type]:
    """Our nodes' classes. They are asked for in a thread of its own: a browser has an event loop in this one."""

    async def listed() -> list[type]:
        extension = await import_pack().comfy_entrypoint()
        return await extension.get_node_list()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, listed()).result()


def host_tokenizer(comfyui: Path):
    """A maker of diffusers tokenizers with the host's own vocabulary."""

    def make(_folder: Path, pad_token: str) -> CLIPTokenizer:
        return _read_tokenizer(comfyui / "comfy" / "sd1_tokenizer", pad_token)

    return make


@cache
def _read_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """Read once: its vocabulary takes longer than a tiny model, and nothing changes it."""
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad_token, model_max_length=77)


def tokenizer_of(kind: Callable[[], object]) -> object:
    """Make the host's tokenizer. The vocabulary is read once; what is set on one does not show on the next."""
    tokenizer = copy.copy(_first_of(kind))
    for name, part in [*vars(tokenizer).items()]:
        if hasattr(part, "tokenizer"):
            setattr(tokenizer, name, copy.copy(part))
    return tokenizer


@cache
def _first_of(kind: Callable[[], object]) -> object:
    return kind()


def host_parts(pipeline, family: str, prediction: str = "epsilon") -> tuple:
    """(MODEL, CLIP, VAE) of the host with the weights of a tiny diffusers pipeline."""
    with dynamic_vram.weights_at_once():
        return _model(pipeline, family, prediction), _clip(pipeline, family), _vae(pipeline)


def _model(pipeline, family: str, prediction: str):
    import comfy.model_base
    import comfy.supported_models
    import comfy.utils

    kinds = {
        "sd1": comfy.supported_models.SD15,
        "sd2": comfy.supported_models.SD20,
        "sdxl": comfy.supported_models.SDXL,
    }
    config = kinds[family](_unet_config(pipeline.unet, family))
    config.unet_config |= {"num_heads": 4, "num_head_channels": -1}  # the family's own heads do not fit tiny widths
    config.set_inference_dtype(torch.float32, None)
    model_type = comfy.model_base.ModelType.EPS if prediction == "epsilon" else comfy.model_base.ModelType.V_PREDICTION
    kind = comfy.model_base.SDXL if family == "sdxl" else comfy.model_base.BaseModel
    model = kind(config, model_type)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {names[key]: value.clone() for key, value in pipeline.unet.state_dict().items()}
    model.diffusion_model.load_state_dict(weights)
    return dynamic_vram.patcher_of(model)


def _unet_config(unet, family: str) -> dict:
    sdxl = family == "sdxl"
    depths = [(SDXL_DEPTH if sdxl else 1) * crossed for crossed in CROSS_ATTENTION[family]]
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": (1, 2),
        "transformer_depth": list(depths),
        "transformer_depth_output": [depth for depth in depths for _ in range(2)],
        "transformer_depth_middle": max(depths),
        "context_dim": unet.config.cross_attention_dim,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": sdxl,
        "legacy": False,
        "adm_in_channels": unet.config.projection_class_embeddings_input_dim,
        "use_temporal_attention": False,
    }
    if sdxl:
        config["num_classes"] = "sequential"
    return config


def _clip(pipeline, family: str):
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.text_encoders.sd2_clip

    kinds = {
        "sd1": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
        "sd2": (comfy.text_encoders.sd2_clip.SD2ClipModel, comfy.text_encoders.sd2_clip.SD2Tokenizer),
        "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    }
    encoders = {{"sd1": "clip_l", "sd2": "clip_h", "sdxl": "clip_l"}[family]: pipeline.text_encoder}
    if family == "sdxl":
        encoders["clip_g"] = pipeline.text_encoder_2
    options = {f"{name}_model_config": _clip_config(encoder) for name, encoder in encoders.items()}
    kind, tokenizer = kinds[family]
    model = kind(dtype=torch.float32, model_options=options)
    for name, encoder in encoders.items():
        weights = {k.removeprefix("text_model."): v.clone() for k, v in encoder.state_dict().items()}
        part = getattr(model, name).transformer
        part.text_model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("text_projection")})
        width = part.text_projection.weight.shape[0]
        projection = weights.get("text_projection.weight", torch.eye(width))  # the host leaves an absent one unset
        part.text_projection.load_state_dict({"weight": projection})
    return assembled_clip(model, tokenizer_of(tokenizer))


def assembled_clip(model, tokenizer):
    """Put a text encoder and a tokenizer of the host together to a CLIP, as its loaders do."""
    import comfy.model_management
    import comfy.sd

    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = model
    clip.tokenizer = tokenizer
    clip.patcher = dynamic_vram.patcher_of(model, comfy.model_management.text_encoder_device())
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


def _clip_config(encoder) -> dict:
    keys = (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "max_position_embeddings",
        "eos_token_id",
    )
    return {key: getattr(encoder.config, key) for key in keys}


def _vae(pipeline):
    import comfy.sd

    config = {
        "params": {
            "ddconfig": {
                "double_z": True,
                "z_channels": 4,
                "resolution": 64,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 32,
                "ch_mult": [1, 1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "embed_dim": 4,
        }
    }
    return comfy.sd.VAE(sd={k: v.clone() for k, v in pipeline.vae.state_dict().items()}, config=config)
