"""The smallest MODEL, CLIP and VAE that the host's own classes make, so that hundreds of trainings take a minute."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from ..host_models import assembled_clip
from ..host_transformers import TinyVae, randomize, tiny_clip, tiny_model

WIDTH = 32
#: Of the host's transformers, smaller than their tiny models.
NETWORKS = {"z_image": {"n_layers": 1, "n_refiner_layers": 1}}
TEXT = {"num_hidden_layers": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
TIMES = 6 * 256  # numbers of SDXL's size conditioning
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": WIDTH,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


class Parts(NamedTuple):
    """What a checkpoint loader of the host gives."""

    model: object
    clip: object
    vae: object

    @property
    def network(self) -> nn.Module:
        """The network that every look at the model runs through."""
        return self.model.model.diffusion_model

    @property
    def encoders(self) -> list[nn.Module]:
        """The transformers that read prompts."""
        text = self.clip.cond_stage_model
        return [part.transformer for part in text.children() if hasattr(part, "transformer")]


def smallest_parts(family: str) -> Parts:
    """Make them with random weights, always the same. family: sd1, sdxl, or a key of NETWORKS."""
    if family not in ("sd1", "sdxl"):
        return Parts(tiny_model(family, sizes=NETWORKS[family]), tiny_clip(family), TinyVae(family))
    return Parts(_model(family), _clip(family), _vae())


def _model(family: str):
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    kind = comfy.supported_models.SDXL if family == "sdxl" else comfy.supported_models.SD15
    config = kind(_unet(family))
    config.unet_config |= {"num_heads": 2, "num_head_channels": -1}  # the family's own heads do not fit
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.SDXL if family == "sdxl" else comfy.model_base.BaseModel
    model = base(config, comfy.model_base.ModelType.EPS)
    randomize(model.diffusion_model, seed=0)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def _unet(family: str) -> dict:
    """One level, with a transformer on the way down and one on the way up."""
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": WIDTH,
        "num_res_blocks": [1],
        "channel_mult": (1,),
        "transformer_depth": [1],
        "transformer_depth_output": [1, 0],
        "transformer_depth_middle": -1,
        "context_dim": 2 * WIDTH if family == "sdxl" else WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": family == "sdxl",
        "legacy": False,
        "adm_in_channels": WIDTH + TIMES if family == "sdxl" else None,
        "use_temporal_attention": False,
    }
    return {**config, "num_classes": "sequential"} if family == "sdxl" else config


def _clip(family: str):
    import comfy.sd1_clip
    import comfy.sdxl_clip

    kinds = {
        "sd1": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
        "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    }
    kind, tokenizer = kinds[family]
    layers = {"num_hidden_layers": 3} if family == "sdxl" else {}  # of which it reads the last but one
    shape = {**TEXT, **layers, "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407}
    options = {f"clip_{letter}_model_config": shape for letter in "lg"}
    model = kind(dtype=torch.float32, model_options=options)
    randomize(model, seed=1)
    return assembled_clip(model, tokenizer())


def _vae():
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    make = partial(AutoencoderKL, ddconfig=VAE, embed_dim=4)
    weights = make()
    randomize(weights, seed=2)
    return comfy.sd.VAE(sd=weights.state_dict(), config={"params": {"ddconfig": VAE, "embed_dim": 4}})
