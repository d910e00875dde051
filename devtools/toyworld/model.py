"""The embedded model: Stable Diffusion's architecture in its smallest useful size, in diffusers' layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from palp_core.toyworld import LATENT_CHANNELS, LATENT_SIZE
from palp_core.toyworld.scenes import vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32  # of a prompt, with start and end
TEXT_WIDTH = 128


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Each word of the world's captions is one token; any other word is spelled in pieces. Writes its files there."""
    letters = [chr(c) for c in range(33, 127)]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in vocabulary():
        pieces = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:  # each merge comes after all others, so that words already whole stay whole
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            tokens.append(pieces[0])
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: number for number, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, pad_token=END, model_max_length=MAX_TOKENS)


def _merged(pieces: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: merges are applied in their order."""
    for first, second in merges:
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == (first, second):
                pieces = [*pieces[:at], first + second, *pieces[at + 2 :]]
            at += 1
    return pieces


def new_vae() -> AutoencoderKL:
    """64x64 pixels to 16x16 latents."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=32,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=(2, 4, 4),  # numbers of heads, 32 channels each: diffusers' name for it misleads
        cross_attention_dim=TEXT_WIDTH,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, with v-prediction (arXiv 2202.00512, sec. 2.4).

    A network that predicts noise has to copy its input at high noise, and what it gets wrong there is multiplied by
    sigma: colors drift. After 1,000 steps with v, styles and places were right; after 1,750 with noise they were not.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def new_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Random weights. folder: where the tokenizer's files are written."""
    tokenizer = make_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=new_vae(),
        text_encoder=new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=new_unet(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, means: Tensor, stds: Tensor) -> None:
    """Fold a shift and scale of each latent channel into the 1x1 convolutions beside the latents.

    Latents then have mean 0 and standard deviation 1 in every channel, and any program that loads the weights has it
    without knowing. means, stds: (C,), of the latents as they are now.
    """
    moments, back = vae.quant_conv, vae.post_quant_conv
    channels = len(means)
    moments.weight[:channels] /= stds.view(-1, 1, 1, 1)
    moments.bias[:channels] = (moments.bias[:channels] - means) / stds
    moments.bias[channels:] -= 2 * stds.log()
    back.bias += back.weight[:, :, 0, 0] @ means
    back.weight *= stds.view(1, -1, 1, 1)


def save_model(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """In half precision, with a tokenizer of plain text files, which every version of transformers reads."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    shutil.rmtree(folder / "tokenizer")
    make_tokenizer(folder / "tokenizer")
