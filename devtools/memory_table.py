"""Computes what training takes of a card's memory, and writes docs/memory.md: `python -m devtools.memory_table`.

The host's own networks are made in full size on torch's meta device, which holds shapes and no numbers, and run forward
once: what autograd keeps for the backward pass is counted. No weights are needed, and nothing is measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from palp_core.models.families import CHROMA, FAMILIES, FLUX, KLEIN, SD3, Z_IMAGE

from .comfy_server import find_comfyui
from .host_models import import_host, import_pack
from .transformer_sizes import MEMBERS, TINY, Member

OUT = Path(__file__).parents[1] / "docs/memory.md"
META = torch.device("meta")
GIGABYTE = 1e9
RESOLUTIONS = (512, 1024)
#: What the host, the picture's latents and torch's own kernels take besides, by experience.
REST = 1.0


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
    layers = FAMILIES[member.family].lora_layers("attention")
    sizes = [m.in_features + m.out_features for n, m in network.named_modules() if layers.fullmatch(n)]
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

## The estimate before the first step

Each training says before its first step about what it takes, under the node or on the command line: *Takes about 10.7
GB of the card's memory.* Weights count as they are loaded, the LoRA with its gradients and Adam's moments, text
encoders where a word is learned, and activations by **batch_size** and **resolution**. The figures of activations are
those of the table, and where a card took more, those that were [measured](costs.md#on-a-gpu). All measurements there
are met within 15 %. They are of one image a step, in bf16 or fp16; larger batches, fp32, fp8 and other **targets** are
computed from them.

**memory** in PALP Options, or `--memory`, says what to do with it. The estimate never stops a training.

- With `auto` all stays as set. Where the card has less memory than that, you are told what to lower.
- With 8, 12, 16 or 24 (GB) the settings are lowered until the estimate fits, less 0.7 GB for driver and screen: first
  **gradient_checkpointing** on, then a smaller **batch_size**, then bf16 where the model computes in fp32. You are
  told what was chosen, and what else there is where that does not suffice: **resolution**, **offloading**, an fp8 file.
- On a CPU nothing is lowered, and the estimate is of RAM.

## The table

What training on a transformer takes of a card's memory. It is computed: ComfyUI's own networks are run in full size on
shapes without numbers, and what the backward pass needs is counted. On a card it was measured for two of them, at 1024
pixels: FLUX.2 Klein 4B took 11.0 GB checkpointed and 26.1 GB without, FLUX.1 dev 28.4 and 54.3 GB. That is 1.3 GB more
than the table's sum with checkpointing, and 4 to 5 GB more without. The table is made by `python -m
devtools.memory_table`.

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
