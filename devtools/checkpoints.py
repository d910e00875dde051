"""Checkpoint files with random weights, which the host's own CheckpointLoaderSimple takes for SD 1.5, SD 2.1 and SDXL.

The denoisers are as narrow and shallow as its detection admits. The text encoders and the VAE have their full size,
which the host prescribes, or the SMALL one, which it takes with devtools/small_parts.py among its node packs. Only key
names and shapes are written down here, so neither host nor diffusers is imported.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]

WIDTH = 320  # of every level; the host knows SD 1.5, 2.1 and SDXL by it
TIME = 4 * WIDTH
VOCABULARY = 49408
TOKENS = 77
#: The encoder's last layer, so that latents of photos have a deviation of about 1 after the host's factor of 0.18215.
GAIN = {"first_stage_model.encoder.conv_out.weight": 8.0}
POOL = 1_000_003  # random numbers in a file; prime, so that no two rows of a matrix are alike
#: Where the host looks whether an SD 2 model predicts v: it does if this bias deviates by more than 0.09.
V_PREDICTION_KEY = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass(frozen=True)
class Sizes:
    """Of what the host's detection does not read."""

    text_layers: int  # at most
    text_hidden: int  # between a layer's last two matrices, in widths
    vae_widths: tuple[int, ...]


FULL = Sizes(text_layers=32, text_hidden=4, vae_widths=(128, 256, 512, 512))
SMALL = Sizes(text_layers=2, text_hidden=1, vae_widths=(32, 64, 128, 128))
#: The host knows SDXL's second text encoder by this layer, whatever its shape.
BIGG_KEY = "conditioner.embedders.1.model.transformer.resblocks.30.mlp.c_fc.weight"


@dataclass(frozen=True)
class Denoiser:
    """What the host's detection reads from a UNet's weights."""

    levels: tuple[tuple[int, ...], ...]  # transformer depth of each residual block, level by level
    middle_depth: int
    context: int  # width of the text encoder's output
    linear_projections: bool  # else the transformers' proj_in and proj_out are 1x1 convolutions
    label: int | None = None  # width of the pooled-text-and-size vector


SD15 = Denoiser(levels=((1,), (1,)), middle_depth=1, context=768, linear_projections=False)
SD2 = Denoiser(levels=((1,), (1,)), middle_depth=1, context=1024, linear_projections=True)
#: Depths of Segmind Vega, the shallowest layout that the host handles by its SDXL class.
SDXL = Denoiser(levels=((0, 0), (1, 1), (2, 2)), middle_depth=2, context=2048, linear_projections=True, label=2816)


def write_sd15_checkpoint(path: Path, sizes: Sizes = FULL, seed: int = 0) -> Path:
    """SD 1.5: predicts the noise; CLIP-L."""
    text_encoder = _hf_text_encoder("cond_stage_model.transformer.text_model", 768, 12, sizes)
    return _write(path, seed, _denoiser(SD15), _vae(sizes.vae_widths), text_encoder)


def write_sd2_checkpoint(path: Path, sizes: Sizes = FULL, seed: int = 0) -> Path:
    """SD 2.1 at 768: predicts v; OpenCLIP-H. The host logs one unexpected key, by which it sees the v prediction."""
    text_encoder = _openclip_text_encoder("cond_stage_model.model", 1024, 24, sizes)
    marker = iter([(V_PREDICTION_KEY, (WIDTH,))])
    return _write(path, seed, _denoiser(SD2), _vae(sizes.vae_widths), text_encoder, marker)


def write_sdxl_checkpoint(path: Path, sizes: Sizes = FULL, seed: int = 0) -> Path:
    """SDXL: predicts the noise; CLIP-L and OpenCLIP-bigG, which makes up most of a full-size file."""
    clip_l = _hf_text_encoder("conditioner.embedders.0.transformer.text_model", 768, 12, sizes)
    clip_g = _openclip_text_encoder("conditioner.embedders.1.model", 1280, 32, sizes)
    marker = iter([(BIGG_KEY, (1,))])  # first: the layer itself, if the file has it, takes its place
    return _write(path, seed, _denoiser(SDXL), _vae(sizes.vae_widths), clip_l, marker, clip_g)


def _write(path: Path, seed: int, *parts: Shapes) -> Path:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(POOL, generator=generator)
    weights = {key: _weight(key, shape, numbers) for part in parts for key, shape in part}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"format": "pt"})
    return path


def _weight(key: str, shape: tuple[int, ...], numbers: Tensor) -> Tensor:
    """Norms and biases neutral; embeddings 0.02; all else keeps the variance of what it is applied to.

    Large matrices repeat the random numbers, each from a place of its own; drawing as many as they have takes longest.
    """
    if key == V_PREDICTION_KEY:
        return numbers[: shape[0]].half()
    if len(shape) == 1:
        return (torch.zeros if key.endswith("bias") else torch.ones)(shape, dtype=torch.float16)
    std = 0.02 if "embedding" in key else GAIN.get(key, 1.0) / math.sqrt(math.prod(shape[1:]))
    start, size = zlib.crc32(key.encode()) % POOL, math.prod(shape)
    own = numbers.roll(-start).mul_(std).half()
    return own.repeat(-(-size // POOL))[:size].view(shape)


def _denoiser(layout: Denoiser, prefix: str = "model.diffusion_model") -> Shapes:
    yield from _linear(f"{prefix}.time_embed.0", WIDTH, TIME)
    yield from _linear(f"{prefix}.time_embed.2", TIME, TIME)
    if layout.label:
        yield from _linear(f"{prefix}.label_emb.0.0", layout.label, TIME)
        yield from _linear(f"{prefix}.label_emb.0.2", TIME, TIME)
    yield from _down_blocks(layout, f"{prefix}.input_blocks")
    yield from _residual(f"{prefix}.middle_block.0", WIDTH)
    yield from _transformer(f"{prefix}.middle_block.1", layout.middle_depth, layout)
    yield from _residual(f"{prefix}.middle_block.2", WIDTH)
    yield from _up_blocks(layout, f"{prefix}.output_blocks")
    yield from _norm(f"{prefix}.out.0", WIDTH)
    yield from _conv(f"{prefix}.out.2", WIDTH, 4, 3)


def _down_blocks(layout: Denoiser, prefix: str) -> Shapes:
    yield from _conv(f"{prefix}.0.0", 4, WIDTH, 3)
    index = 1
    for level, depths in enumerate(layout.levels):
        if level > 0:
            yield from _conv(f"{prefix}.{index}.0.op", WIDTH, WIDTH, 3)
            index += 1
        for depth in depths:
            yield from _residual(f"{prefix}.{index}.0", WIDTH)
            yield from _transformer(f"{prefix}.{index}.1", depth, layout)
            index += 1


def _up_blocks(layout: Denoiser, prefix: str) -> Shapes:
    index = 0
    for level, depths in reversed(list(enumerate(layout.levels))):
        for depth in (*depths, depths[-1]):  # one more than on the way down, for the skip from the level's entrance
            yield from _residual(f"{prefix}.{index}.0", 2 * WIDTH)
            yield from _transformer(f"{prefix}.{index}.1", depth, layout)
            index += 1
        if level > 0:
            place = 2 if depths[-1] else 1  # after the residual block and its transformer, if it has one
            yield from _conv(f"{prefix}.{index - 1}.{place}.conv", WIDTH, WIDTH, 3)


def _residual(prefix: str, width_in: int) -> Shapes:
    yield from _norm(f"{prefix}.in_layers.0", width_in)
    yield from _conv(f"{prefix}.in_layers.2", width_in, WIDTH, 3)
    yield from _linear(f"{prefix}.emb_layers.1", TIME, WIDTH)
    yield from _norm(f"{prefix}.out_layers.0", WIDTH)
    yield from _conv(f"{prefix}.out_layers.3", WIDTH, WIDTH, 3)
    if width_in != WIDTH:
        yield from _conv(f"{prefix}.skip_connection", width_in, WIDTH, 1)


def _transformer(prefix: str, depth: int, layout: Denoiser) -> Shapes:
    """Nothing at depth 0."""
    if depth == 0:
        return
    yield from _norm(f"{prefix}.norm", WIDTH)
    for name in ("proj_in", "proj_out"):
        if layout.linear_projections:
            yield from _linear(f"{prefix}.{name}", WIDTH, WIDTH)
        else:
            yield from _conv(f"{prefix}.{name}", WIDTH, WIDTH, 1)
    for block in (f"{prefix}.transformer_blocks.{index}" for index in range(depth)):
        for attention, context in (("attn1", WIDTH), ("attn2", layout.context)):
            for name, width in (("to_q", WIDTH), ("to_k", context), ("to_v", context)):
                yield f"{block}.{attention}.{name}.weight", (WIDTH, width)
            yield from _linear(f"{block}.{attention}.to_out.0", WIDTH, WIDTH)
        yield from _linear(f"{block}.ff.net.0.proj", WIDTH, 8 * WIDTH)  # values and gates
        yield from _linear(f"{block}.ff.net.2", 4 * WIDTH, WIDTH)
        for name in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{block}.{name}", WIDTH)


def _hf_text_encoder(prefix: str, width: int, layers: int, sizes: Sizes) -> Shapes:
    """CLIP's text encoder with the key names of transformers."""
    yield f"{prefix}.embeddings.token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}.embeddings.position_embedding.weight", (TOKENS, width)
    for layer in (f"{prefix}.encoder.layers.{index}" for index in range(min(layers, sizes.text_layers))):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width)
        yield from _linear(f"{layer}.mlp.fc1", width, sizes.text_hidden * width)
        yield from _linear(f"{layer}.mlp.fc2", sizes.text_hidden * width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm(f"{prefix}.final_layer_norm", width)


def _openclip_text_encoder(prefix: str, width: int, layers: int, sizes: Sizes) -> Shapes:
    """The same network with the key names of OpenCLIP, whose q, k and v are one matrix."""
    yield f"{prefix}.token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}.positional_embedding", (TOKENS, width)
    for layer in (f"{prefix}.transformer.resblocks.{index}" for index in range(min(layers, sizes.text_layers))):
        yield f"{layer}.attn.in_proj_weight", (3 * width, width)
        yield f"{layer}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{layer}.attn.out_proj", width, width)
        yield from _linear(f"{layer}.mlp.c_fc", width, sizes.text_hidden * width)
        yield from _linear(f"{layer}.mlp.c_proj", sizes.text_hidden * width, width)
        yield from _norm(f"{layer}.ln_1", width)
        yield from _norm(f"{layer}.ln_2", width)
    yield from _norm(f"{prefix}.ln_final", width)
    yield f"{prefix}.text_projection", (width, width)


def _vae(widths: tuple[int, ...], prefix: str = "first_stage_model") -> Shapes:
    """The KL autoencoder of Stable Diffusion: 8 times smaller, 4 channels."""
    yield from _conv(f"{prefix}.encoder.conv_in", 3, widths[0], 3)
    width_in = widths[0]
    for level, width in enumerate(widths):
        yield from _vae_level(f"{prefix}.encoder.down.{level}", width_in, width, blocks=2)
        if level < len(widths) - 1:
            yield from _conv(f"{prefix}.encoder.down.{level}.downsample.conv", width, width, 3)
        width_in = width
    yield from _vae_ends(f"{prefix}.encoder", widths[-1], widths[-1], 8)
    yield from _conv(f"{prefix}.quant_conv", 8, 8, 1)
    yield from _conv(f"{prefix}.post_quant_conv", 4, 4, 1)
    yield from _conv(f"{prefix}.decoder.conv_in", 4, widths[-1], 3)
    for level, width in reversed(list(enumerate(widths))):
        yield from _vae_level(f"{prefix}.decoder.up.{level}", width_in, width, blocks=3)
        if level > 0:
            yield from _conv(f"{prefix}.decoder.up.{level}.upsample.conv", width, width, 3)
        width_in = width
    yield from _vae_ends(f"{prefix}.decoder", widths[-1], widths[0], 3)


def _vae_level(prefix: str, width_in: int, width: int, blocks: int) -> Shapes:
    for index in range(blocks):
        yield from _vae_block(f"{prefix}.block.{index}", width_in if index == 0 else width, width)


def _vae_ends(prefix: str, middle: int, width_out: int, channels: int) -> Shapes:
    """The middle, and the last layers of an encoder or a decoder."""
    yield from _vae_block(f"{prefix}.mid.block_1", middle, middle)
    yield from _norm(f"{prefix}.mid.attn_1.norm", middle)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{prefix}.mid.attn_1.{name}", middle, middle, 1)
    yield from _vae_block(f"{prefix}.mid.block_2", middle, middle)
    yield from _norm(f"{prefix}.norm_out", width_out)
    yield from _conv(f"{prefix}.conv_out", width_out, channels, 3)


def _vae_block(prefix: str, width_in: int, width: int) -> Shapes:
    yield from _norm(f"{prefix}.norm1", width_in)
    yield from _conv(f"{prefix}.conv1", width_in, width, 3)
    yield from _norm(f"{prefix}.norm2", width)
    yield from _conv(f"{prefix}.conv2", width, width, 3)
    if width_in != width:
        yield from _conv(f"{prefix}.nin_shortcut", width_in, width, 1)


def _linear(prefix: str, width_in: int, width: int) -> Shapes:
    yield f"{prefix}.weight", (width, width_in)
    yield f"{prefix}.bias", (width,)


def _conv(prefix: str, width_in: int, width: int, size: int) -> Shapes:
    yield f"{prefix}.weight", (width, width_in, size, size)
    yield f"{prefix}.bias", (width,)


def _norm(prefix: str, width: int) -> Shapes:
    yield f"{prefix}.weight", (width,)
    yield f"{prefix}.bias", (width,)
