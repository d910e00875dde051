"""Random models of the host in the size of real ones, and narrow ones of the same blocks, for what training costs."""

from __future__ import annotations

import torch

from palp_core.models.families import FAMILIES, SD1, SDXL

from .host_models import assembled_clip
from .host_transformers import TinyVae, randomize, tiny_clip, tiny_model
from .transformer_sizes import MEMBERS, NARROW

_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
#: The host's UNets in full size.
UNETS = {
    SD1.name: {
        **_UNET,
        "adm_in_channels": None,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "num_heads": 8,
    },
    SDXL.name: {
        **_UNET,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_head_channels": 64,
    },
}
NARROW_CHANNELS = 64  # of a UNet on a CPU
#: Text encoders of few layers, for a CPU.
SHALLOW = {
    "clip_l_model_config": {"num_hidden_layers": 3, "intermediate_size": 768},
    "clip_g_model_config": {"num_hidden_layers": 3, "intermediate_size": 1280},
}
#: A picture of 64 x 64 pixels.
UNET_LATENTS = (4, 8, 8)
#: Sizes that a tiny text encoder has, and no real one.
TEXT_SIZES = {"context_in_dim", "cap_feat_dim", "joint_attention_dim", "txtdim", "txtheads", "txtkvheads"}
TEXT_SIZES |= {"vec_in_dim", "adm_in_channels"}


def sized_parts(family: str, device: str) -> tuple:
    """Make the host's MODEL, CLIP and VAE: the network in full size on CUDA or meta, narrow on a CPU.

    A UNet has its real text encoders on CUDA, because it trains through them; a transformer has tiny ones, because it
    does without when it trains. A VAE's place is taken by averages of colors.
    """
    if FAMILIES[family].is_transformer:
        return sized_model(family, device), tiny_clip(family), TinyVae(family)
    return sized_model(family, device), _unet_clip(family, device), TinyVae(family, UNET_LATENTS)


def sized_model(family: str, device: str):
    """Make the host's MODEL in full size on CUDA or meta, in the precision that the host chooses; narrow on a CPU."""
    if not FAMILIES[family].is_transformer:
        return _unet_model(family, device)
    if device == "cpu":
        return tiny_model(family, sizes=NARROW[family])
    sizes = next(member.sizes for member in MEMBERS if member.family == family)
    own = {name: size for name, size in sizes.items() if name not in TEXT_SIZES}
    return tiny_model(family, torch.bfloat16, sizes=own, device=device)


def _unet_model(family: str, device: str):
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    full = device != "cpu"
    sizes = UNETS[family] if full else {**UNETS[family], "model_channels": NARROW_CHANNELS}
    config = {SD1.name: comfy.supported_models.SD15, SDXL.name: comfy.supported_models.SDXL}[family](dict(sizes))
    config.set_inference_dtype(torch.float16 if full else torch.float32, None)
    model = config.get_model({}, "", device=torch.device(device))
    randomize(model.diffusion_model, 0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, comfy.model_management.get_torch_device(), cpu)


def _unet_clip(family: str, device: str):
    import comfy.sd1_clip
    import comfy.sdxl_clip

    kinds = {
        SD1.name: (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
        SDXL.name: (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
    }
    model, tokenizer = kinds[family]
    full = device != "cpu"
    options = {} if full else SHALLOW
    encoder = model(device=device, dtype=torch.float16 if full else torch.float32, model_options=options)
    randomize(encoder, 1)
    return assembled_clip(encoder, tokenizer())
