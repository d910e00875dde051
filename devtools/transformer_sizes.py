"""The sizes of the host's transformers: tiny for tests, narrow for times on a CPU, full for what memory they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import torch
from torch import nn

from palp_core.models.families import ANIMA, CHROMA, FLUX, KLEIN, KREA2, QWEN_IMAGE, SD3, Z_IMAGE

CLIP = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
T5 = {"d_model": 64, "num_layers": 2, "d_ff": 128, "num_heads": 4, "d_kv": 16}
QWEN = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
FLUX_NETWORK = {
    "image_model": "flux",
    "axes_dim": [4, 6, 6],
    "num_heads": 4,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "depth": 2,
    "depth_single_blocks": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


@dataclass(frozen=True)
class Tiny:
    """One family's smallest model. latents: of a picture of 64 x 64 pixels, without the batch."""

    kind: str  # in comfy.supported_models
    network: Mapping[str, object]
    latents: tuple[int, ...]
    text: Callable[[dict], tuple]  # options -> the host's (text encoder, tokenizer class)
    text_options: Mapping[str, dict] = field(default_factory=dict)


def _flux_text(options: dict) -> tuple:
    from comfy.text_encoders import flux

    return flux.flux_clip(torch.float32)(**options), flux.FluxTokenizer


def _klein_text(options: dict) -> tuple:
    from comfy.text_encoders import flux

    shallow = partial(flux.Qwen3_4BModel, layer=list(range(QWEN["num_hidden_layers"])))  # of 28, the 9th, 18th and 27th
    with mock.patch.object(flux, "Qwen3_4BModel", shallow):
        return flux.klein_te(torch.float32)(**options), flux.KleinTokenizer


def _sd3_text(options: dict) -> tuple:
    from comfy.text_encoders import sd3_clip

    return sd3_clip.sd3_clip(t5=True, dtype_t5=torch.float32)(**options), sd3_clip.SD3Tokenizer


def _qwen_text(options: dict) -> tuple:
    from comfy.text_encoders import qwen_image, qwen_vl

    with mock.patch.object(qwen_vl, "Qwen2VLVisionTransformer", lambda **_: nn.Identity()):  # unused, and large
        return qwen_image.te(torch.float32)(**options), qwen_image.QwenImageTokenizer


def _z_image_text(options: dict) -> tuple:
    from comfy.text_encoders import z_image

    return z_image.te(torch.float32)(**options), z_image.ZImageTokenizer


def _chroma_text(options: dict) -> tuple:
    from comfy.text_encoders import pixart_t5

    return pixart_t5.pixart_te(torch.float32)(**options), pixart_t5.PixArtTokenizer


def _anima_text(options: dict) -> tuple:
    from comfy.text_encoders import anima

    return anima.te(torch.float32)(**options), anima.AnimaTokenizer


def _krea2_text(options: dict) -> tuple:
    from comfy.text_encoders import krea2, qwen3vl

    vision = [name for name in dir(qwen3vl) if "Vision" in name]
    with mock.patch.multiple(qwen3vl, **{name: lambda *_, **__: nn.Identity() for name in vision}):
        return krea2.te(torch.float32)(**options), krea2.Krea2Tokenizer


TINY: dict[str, Tiny] = {
    FLUX.name: Tiny("Flux", {**FLUX_NETWORK, "guidance_embed": True}, (16, 8, 8), _flux_text),
    "schnell": Tiny("FluxSchnell", {**FLUX_NETWORK, "guidance_embed": False}, (16, 8, 8), _flux_text),
    KLEIN.name: Tiny(
        "Flux2",
        {
            **FLUX_NETWORK,
            "image_model": "flux2",
            "axes_dim": [4] * 4,
            "mlp_ratio": 3.0,
            "theta": 2000,
            "in_channels": 128,
            "out_channels": 128,
            "patch_size": 1,
            "vec_in_dim": None,
            "context_in_dim": 192,
            "qkv_bias": False,
            "ops_bias": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "txt_ids_dims": [3],
            "default_ref_method": "index",
            "ref_index_scale": 10.0,
            "guidance_embed": False,
        },
        (128, 4, 4),
        _klein_text,
    ),
    SD3.name: Tiny(
        "SD3",
        {
            "in_channels": 16,
            "patch_size": 2,
            "out_channels": 16,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 128,
            "qk_norm": "rms",
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 128},
            },
            "num_patches": 1024,
            "pos_embed_max_size": 32,
            "pos_embed_scaling_factor": None,
            "x_block_self_attn_layers": [0],
        },
        (16, 8, 8),
        _sd3_text,
        {"t5xxl_model_config": {**T5, "d_model": 4096, "num_layers": 1}},  # the width that CLIP's output is padded to
    ),
    QWEN_IMAGE.name: Tiny(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 64,
            "axes_dims_rope": (4, 6, 6),
        },
        (16, 1, 8, 8),
        _qwen_text,
    ),
    Z_IMAGE.name: Tiny(
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 288,
            "cap_feat_dim": 64,
            "n_layers": 2,
            "n_refiner_layers": 2,
            "qk_norm": True,
            "n_heads": 6,
            "n_kv_heads": 6,
            "axes_dims": [16, 16, 16],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        (16, 8, 8),
        _z_image_text,
    ),
    CHROMA.name: Tiny(
        "Chroma",
        {
            **FLUX_NETWORK,
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 64,
            "hidden_dim": 64,
            "n_layers": 1,
            "vec_in_dim": None,
        },
        (16, 8, 8),
        _chroma_text,
    ),
    KREA2.name: Tiny(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 64,
            "tdim": 64,
            "txtdim": 64,
            "heads": 4,
            "kvheads": 2,
            "multiplier": 2,
            "layers": 2,
            "patch": 2,
            "channels": 16,
            "theta": 1000,
            "txtlayers": 12,
            "txtheads": 4,
            "txtkvheads": 4,
        },
        (16, 1, 8, 8),
        _krea2_text,
        {"qwen3vl_4b_model_config": {**QWEN, "num_hidden_layers": 36}},
    ),
    ANIMA.name: Tiny(
        "Anima",
        {
            "image_model": "anima",
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "model_channels": 96,
            "concat_padding_mask": True,
            "crossattn_emb_channels": 1024,
            "pos_emb_cls": "rope3d",
            "pos_emb_learnable": True,
            "pos_emb_interpolation": "crop",
            "min_fps": 1,
            "max_fps": 30,
            "use_adaln_lora": True,
            "adaln_lora_dim": 32,
            "num_blocks": 2,
            "num_heads": 2,
            "extra_per_block_abs_pos_emb": False,
            "rope_h_extrapolation_ratio": 4.0,
            "rope_w_extrapolation_ratio": 4.0,
            "rope_t_extrapolation_ratio": 1.0,
        },
        (16, 1, 8, 8),
        _anima_text,
        {"qwen3_06b_model_config": {**QWEN, "hidden_size": 1024}},
    ),
}

#: What makes a family's tiny model wide enough for its steps' times to mean something on a CPU.
NARROW: dict[str, dict] = {
    FLUX.name: {"hidden_size": 512, "num_heads": 8, "axes_dim": [16, 24, 24], "depth": 3, "depth_single_blocks": 6},
    KLEIN.name: {"hidden_size": 512, "num_heads": 8, "axes_dim": [16] * 4, "depth": 3, "depth_single_blocks": 6},
    CHROMA.name: {"hidden_size": 512, "num_heads": 8, "axes_dim": [16, 24, 24], "depth": 3, "depth_single_blocks": 6}
    | {"out_dim": 512},
    SD3.name: {
        "depth": 8,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 512}},
    },
    QWEN_IMAGE.name: {"num_layers": 6, "attention_head_dim": 64, "num_attention_heads": 8}
    | {"axes_dims_rope": (16, 24, 24)},
    Z_IMAGE.name: {"dim": 768, "n_heads": 8, "n_kv_heads": 8, "n_layers": 6, "axes_dims": [32, 32, 32]},
    KREA2.name: {"features": 768, "heads": 8, "kvheads": 4, "layers": 6},
    ANIMA.name: {"model_channels": 768, "num_heads": 6, "num_blocks": 6},
}

FLUX_SIZES = {
    "axes_dim": [16, 56, 56],
    "num_heads": 24,
    "hidden_size": 3072,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "depth": 19,
    "depth_single_blocks": 38,
}


@dataclass(frozen=True)
class Member:
    """One model in full size: what differs from its family's tiny one."""

    title: str
    family: str
    sizes: Mapping[str, object]
    #: Of the prompt: tokens and width.
    context: tuple[int, int]


MEMBERS = (
    Member(
        "Z-Image",
        Z_IMAGE.name,
        {"dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48]},
        (64, 2560),
    ),
    Member(
        "FLUX.2 Klein 4B",
        KLEIN.name,
        {**FLUX_SIZES, "axes_dim": [32] * 4, "vec_in_dim": None, "context_in_dim": 7680, "depth": 5}
        | {"depth_single_blocks": 20},
        (512, 7680),
    ),
    Member(
        "FLUX.2 Klein 9B",
        KLEIN.name,
        {**FLUX_SIZES, "axes_dim": [32] * 4, "vec_in_dim": None, "context_in_dim": 12288, "depth": 8}
        | {"depth_single_blocks": 24, "hidden_size": 4096, "num_heads": 32},
        (512, 12288),
    ),
    Member("FLUX.1 dev", FLUX.name, FLUX_SIZES, (512, 4096)),
    Member(
        "Chroma",
        CHROMA.name,
        {**FLUX_SIZES, "vec_in_dim": None, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5},
        (512, 4096),
    ),
    Member(
        "Qwen-Image",
        QWEN_IMAGE.name,
        {"num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584}
        | {"axes_dims_rope": (16, 56, 56)},
        (64, 3584),
    ),
    Member(
        "Stable Diffusion 3.5 medium",
        SD3.name,
        {
            "depth": 24,
            "adm_in_channels": 2048,
            "x_block_self_attn_layers": list(range(13)),
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 1536},
            },
            "pos_embed_max_size": 384,
            "num_patches": 384**2,
        },
        (154, 4096),
    ),
    Member(
        "Stable Diffusion 3.5 large",
        SD3.name,
        {
            "depth": 38,
            "adm_in_channels": 2048,
            "x_block_self_attn_layers": [],
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 2432},
            },
            "pos_embed_max_size": 192,
            "num_patches": 192**2,
        },
        (154, 4096),
    ),
    Member(
        "Krea 2",
        KREA2.name,
        {"features": 6144, "tdim": 256, "txtdim": 2560, "heads": 48, "kvheads": 12, "multiplier": 4, "layers": 28}
        | {"txtheads": 20, "txtkvheads": 20},
        (64, 12 * 2560),
    ),
    Member(
        "Anima",
        ANIMA.name,
        {"model_channels": 2048, "num_blocks": 28, "num_heads": 16, "adaln_lora_dim": 256},
        (512, 1024),
    ),
)
