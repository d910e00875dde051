"""The demo world's transformer, in diffusers' layout, as the host's own MODEL of Z-Image's kind."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from .demo_model import ToyWorldLatents, read_config, read_weights

#: What the host's description of the network says beside the sizes.
KIND = {
    "image_model": "lumina2",
    "qk_norm": True,
    "ffn_dim_multiplier": 8 / 3,
    "z_image_modulation": True,
    "pad_tokens_multiple": 32,
}
SIZES = ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads", "cap_feat_dim", "rope_theta")
SIZES += ("axes_dims", "axes_lens")


class ToyWorldTransformer(comfy.supported_models.ZImage):
    latent_format = ToyWorldLatents


def load_transformer(folder: Path, disable_dynamic: bool = False):
    """MODEL. disable_dynamic: as the host's own loaders have it; this model is never loaded dynamically."""
    described = read_config(folder / "transformer")
    config = ToyWorldTransformer(
        {
            **KIND,
            **{name: described[name] for name in SIZES},
            "patch_size": described["all_patch_size"][0],
            "time_scale": described["t_scale"],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(_renamed(read_weights(folder / "transformer"), config.unet_config))
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
    patcher.cached_patcher_init = (load_transformer, (folder,))
    return patcher


def _renamed(weights: dict[str, Tensor], sizes: dict) -> dict[str, Tensor]:
    """Name diffusers' weights as the host does, which holds q, k and v in one."""
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for theirs, ours in comfy.utils.z_image_to_diffusers(sizes).items():
        if theirs in weights:
            name, start = (ours[0], ours[1][1]) if isinstance(ours, tuple) else (ours, 0)
            parts.setdefault(name, []).append((start, weights[theirs]))
    return {name: torch.cat([w for _, w in sorted(found, key=lambda p: p[0])]) for name, found in parts.items()}
