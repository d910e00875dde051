"""Tiny random models of the host's transformer families, of its own classes: every code path in seconds on a CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palp_core.models.families import FAMILIES, FLUX, QWEN_IMAGE, Z_IMAGE

from .dynamic_vram import patcher_of, weights_at_once
from .host_models import assembled_clip, tokenizer_of
from .transformer_sizes import CLIP, QWEN, T5, TINY


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
    device: str = "cpu",
):
    """Make the host's MODEL.

    dtype: of the weights. operations: the host's layers, by default the plain ones. sizes: others than the tiny ones.
    device: where it is made; the host moves it where it computes.
    """
    import comfy.supported_models

    tiny = TINY[family]
    config = getattr(comfy.supported_models, tiny.kind)({**tiny.network, **(sizes or {})})
    manual = None if dtype in (torch.float32, torch.bfloat16) else torch.bfloat16
    config.set_inference_dtype(dtype, manual)
    if operations is not None:
        config.custom_operations = operations
    with weights_at_once():
        model = config.get_model({}, "", device=torch.device(device))
    randomize(model.diffusion_model, seed)
    return patcher_of(model)


def tiny_clip(family: str, seed: int = 2):
    """Make the host's CLIP: the family's tokenizer with its real vocabulary, and encoders of a few narrow layers."""
    tiny = TINY[family]
    encoders = ("qwen25_7b", "qwen3_4b", "qwen3_8b", "qwen3_06b", "qwen3vl_4b")
    configs = {"clip_l_model_config": CLIP, "clip_g_model_config": dict(CLIP), "t5xxl_model_config": dict(T5)}
    configs |= {f"{name}_model_config": QWEN for name in encoders}
    options = {"dtype": torch.float32, "device": "cpu", "model_options": {**configs, **tiny.text_options}}
    with weights_at_once():
        model, tokenizer = tiny.text(options)
    randomize(model, seed)
    return assembled_clip(model, tokenizer_of(tokenizer))


class TinyVae:
    """Stands for the family's VAE, whose architecture is of no interest here: averages of colors, repeated."""

    def __init__(self, family: str, latents: tuple[int, ...] | None = None):
        """latents: of a picture of 64 x 64 pixels, by default the family's."""
        self.shape = latents or TINY[family].latents

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
    device = next(module.parameters()).device
    if device.type == "meta":  # which holds no numbers
        return
    generator = torch.Generator(device).manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and name.rpartition(".")[2] not in UNTOUCHED:
            tensor.data.copy_(_random(name, tensor, generator).to(tensor.dtype))


#: Buffers that are computed, and not loaded.
UNTOUCHED = ("inv_freq", "seq", "dim_spatial_range", "dim_temporal_range")


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(tensor.shape, generator=generator, device=generator.device)
    owner = name.split(".")[-2].lower() if "." in name else ""
    if ("norm" in owner or owner.startswith("ln_")) and name.endswith("weight"):
        return 1 + 0.1 * drawn
    if tensor.ndim < 2 or "embed" in name or "shared" in name:
        return 0.05 * drawn
    return drawn * tensor[0].numel() ** -0.5


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
    models = []
    with weights_at_once():
        for _ in range(2):
            models.append(tiny_model(family, operations=operations).model)
            models[-1].diffusion_model.load_state_dict(tensors, strict=False)
    return patcher_of(models[0], whole=models[1])


def _is_block_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2 and ".0." in name and "norm" not in name


def _scaled(name: str, tensor: Tensor) -> dict[str, Tensor]:
    scale = tensor.abs().max() / torch.finfo(torch.float8_e4m3fn).max
    kind = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    stem = name.removesuffix("weight")
    return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale, f"{stem}comfy_quant": kind}
