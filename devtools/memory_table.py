"""Computes what training takes of a card's memory, and writes docs/memory.md: `python -m devtools.memory_table`.

The host's own networks are made in full size on torch's meta device, which holds shapes and no numbers, and run forward
once: what autograd keeps for the backward pass is counted. No weights are needed, and nothing is measured on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from palp_core.models.families import ANIMA, CHROMA, FAMILIES, FLUX, KLEIN, KREA2, QWEN_IMAGE, SD3, Z_IMAGE

from .comfy_server import find_comfyui
from .host_models import import_host, import_pack
from .host_transformers import TINY

OUT = Path(__file__).parents[1] / "docs/memory.md"
META = torch.device("meta")
GIGABYTE = 1e9
RESOLUTIONS = (512, 1024)
#: What the host, the picture's latents and torch's own kernels take besides, by experience.
REST = 1.0

FLUX_SIZES = {
    "axes_dim": [16, 56, 56],
    "num_heads": 24,
    "hidden_size": 3072,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "depth": 19,
    "depth_single_blocks": 38,
}


@dataclass(frozen=True)
class Member:
    """One model in full size: what differs from its family's tiny one."""

    title: str
    family: str
    sizes: Mapping[str, object]
    #: Of the prompt: tokens and width.
    context: tuple[int, int]


MEMBERS = (
    Member(
        "Z-Image",
        Z_IMAGE.name,
        {"dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48]},
        (64, 2560),
    ),
    Member(
        "FLUX.2 Klein 4B",
        KLEIN.name,
        {**FLUX_SIZES, "axes_dim": [32] * 4, "vec_in_dim": None, "context_in_dim": 7680, "depth": 5}
        | {"depth_single_blocks": 20},
        (512, 7680),
    ),
    Member(
        "FLUX.2 Klein 9B",
        KLEIN.name,
        {**FLUX_SIZES, "axes_dim": [32] * 4, "vec_in_dim": None, "context_in_dim": 12288, "depth": 8}
        | {"depth_single_blocks": 24, "hidden_size": 4096, "num_heads": 32},
        (512, 12288),
    ),
    Member("FLUX.1 dev", FLUX.name, FLUX_SIZES, (512, 4096)),
    Member(
        "Chroma",
        CHROMA.name,
        {**FLUX_SIZES, "vec_in_dim": None, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5},
        (512, 4096),
    ),
    Member(
        "Qwen-Image",
        QWEN_IMAGE.name,
        {"num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584}
        | {"axes_dims_rope": (16, 56, 56)},
        (64, 3584),
    ),
    Member(
        "Stable Diffusion 3.5 medium",
        SD3.name,
        {
            "depth": 24,
            "adm_in_channels": 2048,
            "x_block_self_attn_layers": list(range(13)),
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 1536},
            },
            "pos_embed_max_size": 384,
            "num_patches": 384**2,
        },
        (154, 4096),
    ),
    Member(
        "Stable Diffusion 3.5 large",
        SD3.name,
        {
            "depth": 38,
            "adm_in_channels": 2048,
            "x_block_self_attn_layers": [],
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 2432},
            },
            "pos_embed_max_size": 192,
            "num_patches": 192**2,
        },
        (154, 4096),
    ),
    Member(
        "Krea 2",
        KREA2.name,
        {"features": 6144, "tdim": 256, "txtdim": 2560, "heads": 48, "kvheads": 12, "multiplier": 4, "layers": 28}
        | {"txtheads": 20, "txtkvheads": 20},
        (64, 12 * 2560),
    ),
    Member(
        "Anima",
        ANIMA.name,
        {"model_channels": 2048, "num_blocks": 28, "num_heads": 16, "adaln_lora_dim": 256},
        (512, 1024),
    ),
)


@dataclass(frozen=True)
class Demand:
    """What a model takes, gigabytes, with one image a step. activations: by resolution, with checkpointing."""

    parameters: float  # thousand millions
    adapters: float
    activations: dict[int, float]
    unchecked: dict[int, float]


def demand(member: Member) -> Demand:
    """Compute one model's demand."""
    network = _network(member)
    count = len(_blocks(network))
    found = {side: _kept(network, member, side) for side in RESOLUTIONS}
    plain = {side: kept for side, (kept, _) in found.items()}
    # All blocks' inputs, and of the block that is run again, what it would have kept.
    checkpointed = {side: inputs + kept / count for side, (kept, inputs) in found.items()}
    parameters = sum(p.numel() for p in network.parameters()) / 1e9
    return Demand(parameters, _adapters(network, member), checkpointed, plain)


def _network(member: Member) -> nn.Module:
    import comfy.supported_models

    tiny = TINY[member.family]
    config = getattr(comfy.supported_models, tiny.kind)({**tiny.network, **member.sizes})
    config.set_inference_dtype(torch.bfloat16, None)
    return config.get_model({}, "", device=META).diffusion_model


def _blocks(network: nn.Module) -> list[nn.Module]:
    return [block for stack in network.children() if isinstance(stack, nn.ModuleList) for block in stack]


def _kept(network: nn.Module, member: Member, side: int) -> tuple[float, float]:
    """Gigabytes that autograd keeps of a run forward, weights apart, and of all blocks' inputs."""
    import palp_pack.nodes.host.gradients as gradients

    channels, *film, scaled, _ = TINY[member.family].latents
    shape = (1, channels, *film, side * scaled // 64, side * scaled // 64)
    x = torch.empty(shape, device=META, dtype=torch.bfloat16, requires_grad=True)
    weights = {_address(p) for p in network.parameters()}
    kept: dict[int, int] = {}
    inputs: dict[int, Tensor] = {}  # which keeps them alive, or another would have its address

    def note_inputs(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        tensors = (value for value in (*args, *kwargs.values()) if torch.is_tensor(value))
        inputs.update({_address(tensor): tensor for tensor in tensors})

    def note(tensor: Tensor) -> Tensor:
        if _address(tensor) not in weights:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    extra = _extra_inputs(member)
    context = torch.empty(1, *member.context, device=META, dtype=torch.bfloat16)
    options = {"optimized_attention_override": _fused_attention}
    blocks = _blocks(network)
    handles = [block.register_forward_pre_hook(note_inputs, with_kwargs=True) for block in blocks]
    with gradients.differentiable_transformer(network, blocks), torch.autograd.graph.saved_tensors_hooks(note, _same):
        network(x, torch.empty(1, device=META), context=context, transformer_options=options, **extra)
    for handle in handles:
        handle.remove()
    held = sum(tensor.untyped_storage().nbytes() for tensor in inputs.values())
    return sum(kept.values()) / GIGABYTE, held / GIGABYTE


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep, and not the matrix of all places with all places."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


def _fused_attention(_chosen, q: Tensor, k: Tensor, v: Tensor, heads: int, *_args, **options) -> Tensor:
    out = _FusedAttention.apply(q, k, v)
    if options.get("skip_reshape") and not options.get("skip_output_reshape"):
        return out.transpose(1, 2).flatten(2)
    return out


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _extra_inputs(member: Member) -> dict:
    half = {"device": META, "dtype": torch.bfloat16}
    if member.family == Z_IMAGE.name:
        return {"num_tokens": member.context[0]}
    if member.family == SD3.name:
        return {"y": torch.empty(1, 2048, **half)}
    if member.family in (FLUX.name, CHROMA.name, KLEIN.name):
        pooled = {"y": torch.empty(1, 768, **half)} if member.family == FLUX.name else {}
        return {"guidance": torch.empty(1, device=META), **pooled}
    return {}


def _adapters(network: nn.Module, member: Member, rank: int = 32) -> float:
    """LoRA in float32, its gradients and Adam's two moments, gigabytes."""
    targets = FAMILIES[member.family].lora_targets
    sizes = [m.in_features + m.out_features for n, m in network.named_modules() if re.fullmatch(targets, n)]
    return sum(sizes) * rank * 4 * 4 / GIGABYTE


def table() -> str:
    """Write the page: what each model takes, and what fits on which card."""
    rows = [_row(member, demand(member)) for member in MEMBERS]
    return PAGE + "\n".join([HEAD, *rows, "", "For Stable Diffusion 1.x, 2.x and SDXL see [costs](costs.md).", ""])


def _row(member: Member, found: Demand) -> str:
    checked, plain = found.activations, found.unchecked
    sides = [f"{checked[side]:.1f} ({plain[side]:.0f})" for side in RESOLUTIONS]
    fits = " / ".join(_advice(found, card) for card in (8, 12, 16, 24))
    numbers = [
        f"{found.parameters:.1f} B",
        f"{2 * found.parameters:.1f} / {found.parameters:.1f}",
        f"{found.adapters:.1f}",
    ]
    return f"| {' | '.join([member.title, *numbers, *sides, fits])} |"


def _advice(found: Demand, card: int) -> str:
    """Name the best that fits on a card, with one image a step and checkpointing; sizes in GB."""
    for weights, bytes_each in (("bf16", 2), ("fp8", 1)):
        for side in reversed(RESOLUTIONS):
            needed = bytes_each * found.parameters + found.adapters + found.activations[side] + REST
            if needed <= card:
                return f"{weights} {side}"
    return "no"


PAGE = f"""# Memory

What training on a transformer takes of a card's memory. It is computed, and not measured: ComfyUI's own networks are
run in full size on shapes without numbers, and what the backward pass needs is counted. No real weights and no card
were at hand. The table is made by `python -m devtools.memory_table`.

- Sizes are in GB, of one image a step (**batch_size** 1) at rank 32. Each further image takes the activations again.
- Activations are given with **gradient_checkpointing**, and without it in brackets.
- Text encoder and VAE are off the card while training. Encoding the prompts before needs the text encoder once.
- The last column says what fits on a card of that size, with {REST:g} GB for the rest: the precision of the model's
  file, and **resolution**. An fp8 file takes half of a bf16 file.

"""
HEAD = """| model | parameters | weights bf16 / fp8 | LoRA, optimizer | 512 pixels | 1024 pixels | 8 / 12 / 16 / 24 GB |
|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    import_host(find_comfyui())
    import_pack()
    OUT.write_text(table(), encoding="utf-8")
