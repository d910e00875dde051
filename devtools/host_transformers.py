"""Tiny random models of the host's transformer families, of its own classes: every code path in seconds on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palp_core.models.families import ANIMA, CHROMA, FAMILIES, FLUX, KLEIN, KREA2, QWEN_IMAGE, SD3, Z_IMAGE

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
        {"qwen3_4b_model_config": {**QWEN, "num_hidden_layers": 28}},
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


def families_of(comfyui: Path | None) -> list[str]:
    """Name the supported families that a ComfyUI has, all where there is none; older ones lack the newest."""
    supported = [name for name in TINY if name in FAMILIES]
    if comfyui is None:
        return supported
    text = (comfyui / "comfy/supported_models.py").read_text(encoding="utf-8")
    return [name for name in supported if f"class {TINY[name].kind}(" in text]


def tiny_model(
    family: str,
    dtype: torch.dtype = torch.float32,
    operations: object = None,
    seed: int = 0,
    sizes: Mapping[str, object] | None = None,
):
    """Make the host's MODEL.

    dtype: of the weights. operations: the host's layers, by default the plain ones. sizes: others than the tiny ones.
    """
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    tiny = TINY[family]
    config = getattr(comfy.supported_models, tiny.kind)({**tiny.network, **(sizes or {})})
    manual = None if dtype in (torch.float32, torch.bfloat16) else torch.bfloat16
    config.set_inference_dtype(dtype, manual)
    if operations is not None:
        config.custom_operations = operations
    model = config.get_model({}, "")
    randomize(model.diffusion_model, seed)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


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


def sized_model(family: str, device: str):
    """Make the host's MODEL as a cost benchmark wants it: narrow on a CPU, in full size and bf16 on CUDA."""
    if device != "cuda":
        return tiny_model(family, sizes=NARROW[family])
    from .memory_table import MEMBERS

    sizes = next(member.sizes for member in MEMBERS if member.family == family)
    own = {"context_in_dim", "cap_feat_dim", "joint_attention_dim", "txtdim", "vec_in_dim"}  # of tiny text encoders
    return tiny_model(family, torch.bfloat16, sizes={k: v for k, v in sizes.items() if k not in own})


def tiny_clip(family: str, seed: int = 2):
    """Make the host's CLIP: the family's tokenizer with its real vocabulary, and encoders of a few narrow layers."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd

    tiny = TINY[family]
    encoders = ("qwen25_7b", "qwen3_4b", "qwen3_8b", "qwen3_06b", "qwen3vl_4b")
    configs = {"clip_l_model_config": CLIP, "clip_g_model_config": dict(CLIP), "t5xxl_model_config": dict(T5)}
    configs |= {f"{name}_model_config": QWEN for name in encoders}
    model, tokenizer = tiny.text(
        {"dtype": torch.float32, "device": "cpu", "model_options": {**configs, **tiny.text_options}}
    )
    randomize(model, seed)
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model, clip.tokenizer = model, tokenizer()
    device = comfy.model_management.text_encoder_device()
    clip.patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


class TinyVae:
    """Stands for the family's VAE, whose architecture is of no interest here: averages of colors, repeated."""

    def __init__(self, family: str):
        self.shape = TINY[family].latents

    def encode(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) in 0..1 -> raw latents, (B, C, ..., h, w)."""
        side = 64 // self.shape[-1]
        small = F.avg_pool2d(images.movedim(-1, 1) * 2 - 1, side)  # (B, 3, h, w)
        channels = small.repeat(1, -(-self.shape[0] // 3), 1, 1)[:, : self.shape[0]]
        return channels[:, :, None] if len(self.shape) == 4 else channels

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents -> (B, H, W, 3) in 0..1; of films, (B, 1, H, W, 3)."""
        side = 64 // self.shape[-1]
        pixels = latents[:, :3].repeat_interleave(side, -1).repeat_interleave(side, -2)
        return (pixels.movedim(1, -1) + 1) / 2


def randomize(module: nn.Module, seed: int) -> None:
    """Set every tensor, which the host leaves as it is; norms stay near one, so that a signal passes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and name.rpartition(".")[2] not in UNTOUCHED:
            tensor.data.copy_(_random(name, tensor, generator).to(tensor.dtype))


#: Buffers that are computed, and not loaded.
UNTOUCHED = ("inv_freq", "seq", "dim_spatial_range", "dim_temporal_range")


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(tensor.shape, generator=generator)
    owner = name.split(".")[-2].lower() if "." in name else ""
    if ("norm" in owner or owner.startswith("ln_")) and name.endswith("weight"):
        return 1 + 0.1 * drawn
    if tensor.ndim < 2 or "embed" in name or "shared" in name:
        return 0.05 * drawn
    return drawn * tensor.shape[-1] ** -0.5


#: Families whose weights are tried in every form that users have.
QUANTIZED = (FLUX.name, Z_IMAGE.name, QWEN_IMAGE.name)


def other_model():
    """Make a model of a family that is not supported, of a host class that one that is supported shares: Lumina 2."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Lumina2({**TINY[Z_IMAGE.name].network, "z_image_modulation": False})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(config.get_model({}, ""), load_device=cpu, offload_device=cpu)


def quantized_model(family: str, weights: str):
    """Make the host's MODEL with weights as files have them: bf16, fp8, scaled fp8, or fp32 made in inference mode."""
    if weights == "inference":
        with torch.inference_mode():
            return tiny_model(family)
    if weights == "bf16":
        return tiny_model(family, torch.bfloat16)
    if weights == "fp8":
        return tiny_model(family, torch.float8_e4m3fn)
    return _scaled_fp8_model(family)


def _scaled_fp8_model(family: str):
    """Every matrix of a block is stored as fp8 and a scale, as in most files of large models."""
    import comfy.ops

    plain = tiny_model(family)
    tensors = {}
    for name, tensor in plain.model.diffusion_model.state_dict().items():
        tensors |= _scaled(name, tensor) if _is_block_matrix(name, tensor) else {name: tensor}
    quantization = {"mixed_ops": True}
    operations = comfy.ops.mixed_precision_ops(quantization, torch.float32, disabled={"float8_e4m3fn"})
    patcher = tiny_model(family, operations=operations)
    patcher.model.diffusion_model.load_state_dict(tensors, strict=False)
    return patcher


def _is_block_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2 and ".0." in name and "norm" not in name


def _scaled(name: str, tensor: Tensor) -> dict[str, Tensor]:
    scale = tensor.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    kind = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    stem = name.removesuffix("weight")
    return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale, f"{stem}comfy_quant": kind}
