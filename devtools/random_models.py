"""Seeded random models of Stable Diffusion's architectures: the tiny ones run every code path in seconds on a CPU."""

from __future__ import annotations

import copy
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


#: Where the two levels have cross-attention, of which most of a UNet's work is: as in the models themselves, SD 1.x has
#: none where the picture is smallest, and SDXL none where it is largest. SD 2.x has it in both.
CROSS_ATTENTION = {"sd1": (True, False), "sd2": (True, True), "sdxl": (False, True)}
#: Transformer layers of SDXL's attention.
SDXL_DEPTH = 2


def tiny_architecture(family: str) -> Architecture:
    """Two levels; SDXL's with several transformer layers."""
    crossed = CROSS_ATTENTION[family]
    unet = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in crossed),
        "up_block_types": tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(crossed)),
        "attention_head_dim": 4,
    }
    if family == "sdxl":
        return Architecture((TINY_TEXT, TINY_TEXT), {**unet, "transformer_layers_per_block": (1, SDXL_DEPTH)})
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


Tokenizers = dict[str, CLIPTokenizer]
Networks = dict[str, torch.nn.Module]


def random_pipeline(
    family: str, architecture: Architecture, folder: Path, prediction: str = "epsilon", seed: int = 0
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """family: sd1, sd2 or sdxl. folder: where the tokenizer's files are written."""
    tokenizers = _tokenizers(family, folder, byte_tokenizer)
    return _pipeline(family, _random_networks(family, architecture, tokenizers, seed), tokenizers, prediction)


def tiny_pipeline(
    family: str,
    folder: Path,
    prediction: str = "epsilon",
    seed: int = 0,
    make_tokenizer: Callable[[Path, str], CLIPTokenizer] = byte_tokenizer,
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """`random_pipeline` in its smallest size, with weights that are drawn once and copied."""
    tokenizers = _tokenizers(family, folder, make_tokenizer)
    return _pipeline(family, _tiny_networks(family, tokenizers, seed), tokenizers, prediction)


#: By family, vocabulary and seed: networks, and where drawing them left torch's random numbers.
_drawn: dict[tuple, tuple[Networks, torch.Tensor]] = {}


def _tiny_networks(family: str, tokenizers: Tokenizers, seed: int) -> Networks:
    """Copy what was drawn: it takes a fifth of the time, and random numbers go on as if it had been drawn again."""
    key = (family, seed, *((len(tokenizer), tokenizer.model_max_length) for tokenizer in tokenizers.values()))
    if key not in _drawn:
        with torch.inference_mode(False):
            networks = _random_networks(family, tiny_architecture(family), tokenizers, seed)
        _drawn[key] = networks, torch.get_rng_state()
    networks, state = _drawn[key]
    torch.set_rng_state(state)
    return copy.deepcopy(networks)


def _tokenizers(family: str, folder: Path, make_tokenizer: Callable[[Path, str], CLIPTokenizer]) -> Tokenizers:
    tokenizers = {"tokenizer": make_tokenizer(folder / "tokenizer", "!" if family == "sd2" else "<|endoftext|>")}
    if family == "sdxl":
        tokenizers["tokenizer_2"] = make_tokenizer(folder / "tokenizer_2", "!")
    return tokenizers


def _random_networks(family: str, architecture: Architecture, tokenizers: Tokenizers, seed: int) -> Networks:
    """VAE, text encoders and UNet of a seed."""
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
    first = text_config(tokenizers["tokenizer"], family == "sd2", architecture.text[0])
    networks = {"vae": vae, "text_encoder": CLIPTextModel(first), "unet": _unet(family, architecture)}
    if family == "sdxl":
        second = text_config(tokenizers["tokenizer_2"], True, architecture.text[1])
        networks["text_encoder_2"] = CLIPTextModelWithProjection(second)
    return networks


def _pipeline(
    family: str, networks: Networks, tokenizers: Tokenizers, prediction: str
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    modules = {**networks, **tokenizers, "scheduler": scheduler}
    if family == "sdxl":
        return StableDiffusionXLPipeline(**modules, add_watermarker=False)
    return StableDiffusionPipeline(
        **modules, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


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
