"""The embedded model, in diffusers' layout, as the host's own MODEL, CLIP and VAE; diffusers is not needed."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from torch import Tensor

#: The host's name -> transformers'.
SPECIAL_TOKENS = {"start": "bos", "end": "eos", "pad": "pad"}


class ToyWorldLatents(comfy.latent_formats.LatentFormat):
    """Standardised by the VAE itself. 64x64 pixels are 16x16 latents."""

    latent_channels = 8
    spacial_downscale_ratio = 4
    picture_size = 64


class ToyWorldModel(comfy.supported_models.SD15):
    latent_format = ToyWorldLatents


def load_model(folder: Path, disable_dynamic: bool = False):
    """MODEL. disable_dynamic: as the host's own loaders have it; this model is never loaded dynamically."""
    described = read_config(folder / "unet")
    config = ToyWorldModel(_unet_config(described))
    head_channels = described["block_out_channels"][0] // described["attention_head_dim"][0]  # the latter: heads
    config.unet_config |= {"num_heads": -1, "num_head_channels": head_channels}
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.V_PREDICTION)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = read_weights(folder / "unet")
    model.diffusion_model.load_state_dict({names[key]: value for key, value in weights.items()})
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    patcher.cached_patcher_init = (load_model, (folder,))
    return patcher


def _unet_config(described: dict) -> dict:
    """The host's description of a UNet with one residual block and one transformer layer everywhere."""
    widths = described["block_out_channels"]
    levels = len(widths)
    return {
        "image_size": described["sample_size"],
        "in_channels": described["in_channels"],
        "out_channels": described["out_channels"],
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": [1] * levels,
        "transformer_depth": [1] * levels,
        "transformer_depth_output": [1] * (2 * levels),
        "transformer_depth_middle": 1,
        "context_dim": described["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "legacy": False,
        "use_temporal_attention": False,
    }


def load_clip(folder: Path):
    """CLIP, with the world's own words and the user's embeddings folder."""
    keys = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
    described = read_config(folder / "text_encoder")
    encoder = {key: described[key] for key in (*keys, "max_position_embeddings", "eos_token_id")}
    model = comfy.sd1_clip.SD1ClipModel(dtype=torch.float32, model_options={"clip_l_model_config": encoder})
    part = model.clip_l.transformer
    weights = {key.removeprefix("text_model."): v for key, v in read_weights(folder / "text_encoder").items()}
    table = part.get_input_embeddings()  # which the host makes of CLIP's size, with CLIP's special tokens below
    part.set_input_embeddings(type(table)(described["vocab_size"], described["hidden_size"], dtype=torch.float32))
    model.clip_l.special_tokens = {name: described[f"{key}_token_id"] for name, key in SPECIAL_TOKENS.items()}
    part.text_model.load_state_dict(weights)
    part.text_projection.load_state_dict({"weight": torch.eye(described["hidden_size"])})
    tokenizer = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(folder / "tokenizer"),
        max_length=described["max_position_embeddings"],
        embedding_size=described["hidden_size"],
    )
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = model
    clip.tokenizer = comfy.sd1_clip.SD1Tokenizer(
        embedding_directory=folder_paths.get_folder_paths("embeddings"), tokenizer=tokenizer
    )
    device = comfy.model_management.text_encoder_device()
    clip.patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


def load_vae(folder: Path):
    """VAE."""
    described = read_config(folder / "vae")
    widths = described["block_out_channels"]
    shape = {
        "double_z": True,
        "z_channels": described["latent_channels"],
        "resolution": described["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": described["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    weights = {vae_key(key, len(widths)): value for key, value in read_weights(folder / "vae").items()}
    for key, value in weights.items():
        if ".attn_1." in key and key.endswith("weight") and value.ndim == 2:
            weights[key] = value[:, :, None, None]  # the original code's attention is of 1x1 convolutions
    config = {"params": {"ddconfig": shape, "embed_dim": described["latent_channels"]}}
    vae = comfy.sd.VAE(sd=weights, config=config, dtype=torch.float32)
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(widths) - 1)
    vae.latent_channels = described["latent_channels"]
    return vae


def vae_key(key: str, levels: int) -> str:
    """diffusers' name of an AutoencoderKL weight -> the original code's."""
    changes = [
        (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}"),
        (r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    for pattern, replacement in changes:
        key = re.sub(pattern, replacement, key)
    return key


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """float32: the model is so small that half precision wins nothing."""
    (file,) = folder.glob("*.safetensors")
    return {key: value.float() for key, value in comfy.utils.load_torch_file(str(file), safe_load=True).items()}
