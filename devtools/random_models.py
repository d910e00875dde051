"""Seeded random models of Stable Diffusion's architectures: the tiny ones run every code path in seconds on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKENS = 154  # the tokenizer spells, so that a prompt needs more room than 77
TIME_WIDTH = 256  # of each number of SDXL's size conditioning; fixed in ComfyUI
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


@dataclass(frozen=True)
class Architecture:
    """What `random_pipeline` needs beside the family. Text configs: one, or SDXL's two."""

    text: tuple[dict, ...]
    unet: dict = field(default_factory=dict)
    vae_channels: tuple[int, ...] = (32, 32, 32, 32)


def tiny_architecture(family: str) -> Architecture:
    """Two levels, cross-attention in both; SDXL's with several transformer layers."""
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
    }
    if family == "sdxl":
        return Architecture((TINY_TEXT, TINY_TEXT), {**unet, "transformer_layers_per_block": (1, 2)})
    return Architecture((TINY_TEXT,), unet)


def byte_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """A CLIP tokenizer of single letters, made on the spot: no vocabulary file to ship or download."""
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, pad_token=pad_token, model_max_length=TOKENS)


def text_config(tokenizer: CLIPTokenizer, openclip: bool, sizes: dict) -> CLIPTextConfig:
    return CLIPTextConfig(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=sizes["hidden_size"],
        hidden_act="gelu" if openclip else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(family: str, architecture: Architecture) -> UNet2DConditionModel:
    widths = [text["hidden_size"] for text in architecture.text]
    sdxl = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": widths[-1] + 6 * TIME_WIDTH,
        "use_linear_projection": True,
    }
    extra = sdxl if family == "sdxl" else {}
    return UNet2DConditionModel(**architecture.unet, cross_attention_dim=sum(widths), **extra)


def random_pipeline(
    family: str,
    architecture: Architecture,
    folder: Path,
    prediction: str = "epsilon",
    seed: int = 0,
    make_tokenizer: Callable[[Path, str], CLIPTokenizer] = byte_tokenizer,
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """family: sd1, sd2 or sdxl. folder: where the tokenizer's files are written."""
    torch.manual_seed(seed)
    levels = len(architecture.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=architecture.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    tokenizer = make_tokenizer(folder / "tokenizer", "!" if family == "sd2" else "<|endoftext|>")
    text_encoder = CLIPTextModel(text_config(tokenizer, family == "sd2", architecture.text[0]))
    modules = {"vae": vae, "scheduler": scheduler, "tokenizer": tokenizer, "text_encoder": text_encoder}
    unet = _unet(family, architecture)
    if family == "sdxl":
        modules["tokenizer_2"] = make_tokenizer(folder / "tokenizer_2", "!")
        second = text_config(modules["tokenizer_2"], True, architecture.text[1])
        modules["text_encoder_2"] = CLIPTextModelWithProjection(second)
        return StableDiffusionXLPipeline(**modules, unet=unet, add_watermarker=False)
    return StableDiffusionPipeline(
        **modules, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def tiny_pipeline(family: str, folder: Path, prediction: str = "epsilon", **options):
    """`random_pipeline` in its smallest size."""
    return random_pipeline(family, tiny_architecture(family), folder, prediction, **options)


def pictures(*sizes: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Smooth random pictures, (H, W, 3) in 0..1 each, always the same."""
    generator = torch.Generator().manual_seed(3)
    coarse = [torch.rand(1, 3, 6, 6, generator=generator) for _ in sizes]
    return tuple(
        torch.nn.functional.interpolate(c, size=size, mode="bicubic")[0].movedim(0, -1).clamp(0, 1)
        for c, size in zip(coarse, sizes, strict=True)
    )


def fingerprint(backbone) -> dict:
    """All of a pipeline that training could change by mistake."""
    found = {}
    for part, module in backbone.pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        found |= {f"{part}.{k}": v.clone() for k, v in module.state_dict().items()}
        found |= {f"{part}.{n} flag": p.requires_grad for n, p in module.named_parameters()}
        for name, m in module.named_modules():
            hooks = (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            attributes = tuple(sorted(k for k in m.__dict__ if k in ("forward", "peft_config")))
            found[f"{part}.{name} module"] = (type(m), m.training, hooks, attributes)
        found[f"{part} device"] = module.device
    return found


def same(before: dict, after: dict) -> bool:
    def equal_values(a, b):
        return torch.equal(a, b) if torch.is_tensor(a) else a == b

    return before.keys() == after.keys() and all(equal_values(before[k], after[k]) for k in before)
