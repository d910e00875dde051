"""Seeded random pipelines of diffusers' transformers that predict a flow, in sizes that run in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from palp_core.models.families import FLUX, KLEIN, QWEN_IMAGE, SD3, Z_IMAGE

from .random_models import byte_tokenizer, text_config

WIDTH = 64  # of the text encoders
ROPE = {"attention_head_dim": 16, "num_attention_heads": 4}
QWEN = {
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
#: What diffusers' transformers need to be as small as the host's in devtools/host_transformers.py. Each has two blocks.
TRANSFORMERS: dict[str, dict] = {
    FLUX.name: {
        **ROPE,
        "num_layers": 2,
        "num_single_layers": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    },
    KLEIN.name: {
        **ROPE,
        "num_layers": 2,
        "num_single_layers": 2,
        "joint_attention_dim": 3 * WIDTH,
        "axes_dims_rope": (4, 4, 4, 4),
        "guidance_embeds": False,
    },
    SD3.name: {
        "sample_size": 32,
        "num_layers": 2,
        "attention_head_dim": 64,
        "num_attention_heads": 2,
        "caption_projection_dim": 128,
        "pooled_projection_dim": 2 * WIDTH,
        "pos_embed_max_size": 32,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    QWEN_IMAGE.name: {**ROPE, "num_layers": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6)},
    Z_IMAGE.name: {
        "dim": 288,
        "n_layers": 2,
        "n_heads": 6,
        "n_kv_heads": 6,
        "cap_feat_dim": WIDTH,
        "axes_dims": [16, 16, 16],
    },
}
KINDS = {
    FLUX.name: "FluxTransformer2DModel",
    KLEIN.name: "Flux2Transformer2DModel",
    SD3.name: "SD3Transformer2DModel",
    QWEN_IMAGE.name: "QwenImageTransformer2DModel",
    Z_IMAGE.name: "ZImageTransformer2DModel",
}
SHIFTS = {SD3.name: 3.0, Z_IMAGE.name: 3.0}


def tiny_transformer(family: str, **changes) -> nn.Module:
    """Make a family's transformer. changes: of its configuration."""
    transformer = getattr(diffusers, KINDS[family])(**{**TRANSFORMERS[family], **changes})
    for name in ("x_pad_token", "cap_pad_token"):  # zero until weights are loaded, so that no test would see them
        if hasattr(transformer, name):
            nn.init.normal_(getattr(transformer, name), std=0.1)
    return transformer.eval()


def tiny_flow_pipeline(family: str, folder: Path, seed: int = 0, **changes):
    """Make a whole pipeline. folder: for CLIP's vocabulary. changes: of the transformer's configuration."""
    torch.manual_seed(seed)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=SHIFTS.get(family, 1.0), use_dynamic_shifting=family not in SHIFTS
    )
    transformer = tiny_transformer(family, **changes)
    return PIPELINES[family](folder, transformer=transformer, scheduler=scheduler)


def _flux(folder: Path, **parts):
    tokenizer, encoder = _clip(folder, CLIPTextModel)
    return diffusers.FluxPipeline(
        vae=_kl(0.1159, 0.3611),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=_t5_encoder(WIDTH),
        tokenizer_2=_t5_tokenizer(),
        **parts,
    )


def _sd3(folder: Path, **parts):
    (tokenizer, encoder), (tokenizer_2, encoder_2) = (_clip(folder, CLIPTextModelWithProjection) for _ in range(2))
    return diffusers.StableDiffusion3Pipeline(
        vae=_kl(0.0609, 1.5305),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=_t5_encoder(parts["transformer"].config.joint_attention_dim),
        tokenizer_3=_t5_tokenizer(),
        **parts,
    )


def _z_image(_folder: Path, **parts):
    return diffusers.ZImagePipeline(
        vae=_kl(0.1159, 0.3611), text_encoder=_qwen3(3), tokenizer=_qwen_tokenizer(), **parts
    )


def _klein(_folder: Path, **parts):
    vae = diffusers.AutoencoderKLFlux2(**_levels(diffusers.AutoencoderKLFlux2, 32), sample_size=64)
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 1.5)
    return diffusers.Flux2KleinPipeline(vae=vae, text_encoder=_qwen3(28), tokenizer=_qwen_tokenizer(), **parts)


def _qwen_image(_folder: Path, **parts):
    tokenizer = _qwen_tokenizer()
    text = {**QWEN, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    vae = diffusers.AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1)
    return diffusers.QwenImagePipeline(vae=vae, text_encoder=encoder.eval(), tokenizer=tokenizer, **parts)


PIPELINES: dict[str, Callable] = {
    FLUX.name: _flux,
    SD3.name: _sd3,
    Z_IMAGE.name: _z_image,
    KLEIN.name: _klein,
    QWEN_IMAGE.name: _qwen_image,
}


def _levels(kind: type, channels: int) -> dict:
    return {
        "block_out_channels": (16,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": channels,
        "norm_num_groups": 8,
    }


def _kl(shift: float, factor: float) -> nn.Module:
    kind = diffusers.AutoencoderKL
    return kind(**_levels(kind, 16), shift_factor=shift, scaling_factor=factor, force_upcast=False).eval()


def _clip(folder: Path, kind: type) -> tuple[PreTrainedTokenizerBase, nn.Module]:
    tokenizer = byte_tokenizer(folder / "tokenizer", "<|endoftext|>")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    return tokenizer, kind(text_config(tokenizer, False, sizes)).eval()


def _t5_tokenizer() -> PreTrainedTokenizerBase:
    """T5's, of single letters and a few words."""
    pieces = ["▁", *map(chr, range(33, 127)), *(f"▁{word}" for word in ("a", "cat", "photo", "of", "in"))]
    vocabulary = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    return T5Tokenizer(vocab=[*vocabulary, *((piece, -float(3 - len(piece))) for piece in pieces)], extra_ids=0)


def _t5_encoder(width: int) -> nn.Module:
    sizes = {"d_model": width, "num_layers": 2, "d_ff": 128, "num_heads": 4, "d_kv": 16}
    return T5EncoderModel(T5Config(**sizes, vocab_size=len(_t5_tokenizer()))).eval()


def _qwen_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen's, of single bytes."""
    vocabulary = {letter: number for number, letter in enumerate([*sorted(ByteLevel.alphabet()), *MARKS])}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=MARKS[1:],
        eos_token=MARKS[2],
    )


def _qwen3(layers: int) -> nn.Module:
    sizes = {**QWEN, "num_hidden_layers": layers, "head_dim": 16, "vocab_size": len(_qwen_tokenizer())}
    return Qwen3ForCausalLM(Qwen3Config(**sizes)).eval()
