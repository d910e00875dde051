"""LoRA (arXiv 2106.09685) on the attention projections of a denoiser, attached by peft and taken off without a trace.

The adapters are named by the kohya key of their projection, which is the same whichever host holds the network, so that
the same seed gives the same initial weights, and the exported file loads in ComfyUI, A1111/Forge, kohya and diffusers.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from ..errors import ModelError
from .backbone import Backbone

ADAPTER = "palp"


class LoraAdapters:
    """The adapters while they are attached. `layers`: kohya name -> peft layer."""

    def __init__(self, layers: dict[str, LoraLayer], alpha: float):
        self.layers = layers
        self.alpha = alpha

    def parameters(self) -> list[nn.Parameter]:
        return [p for layer in self.layers.values() for p in (_down(layer), _up(layer))]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model: inside, every projection is its base layer alone."""
        try:
            for layer in self.layers.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU, float32: NAME.lora_down.weight (r, in), NAME.lora_up.weight (out, r), NAME.alpha ()."""
        state = {}
        for name, layer in self.layers.items():
            state[f"{name}.lora_down.weight"] = _copy(_down(layer))
            state[f"{name}.lora_up.weight"] = _copy(_up(layer))
            state[f"{name}.alpha"] = torch.tensor(float(self.alpha))
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave; other keys are passed over. Raises KeyError where a projection is missing."""
        for name, layer in self.layers.items():
            _down(layer).copy_(state[f"{name}.lora_down.weight"])
            _up(layer).copy_(state[f"{name}.lora_up.weight"])


@contextmanager
def attached_lora(backbone: Backbone, rank: int, seed: int) -> Iterator[LoraAdapters]:
    """Attach fresh adapters to every attention projection; on leaving, the module tree is the one that was found.

    Their alpha is the rank, so that the scale is 1. They are float32 on their projection's device and start as the
    identity: A is Kaiming-uniform from the seed and the projection's name, B is zero. Raises ModelError when the
    denoiser has adapters already, or no projection that can carry one.
    """
    denoiser, targets = backbone.denoiser, backbone.family.lora_targets
    if any(isinstance(module, LoraLayer) for module in denoiser.modules()):
        raise ModelError("the model already carries a peft adapter. Fuse or unload it before training another one.")
    flags = [(p, p.requires_grad) for p in denoiser.parameters()]
    projections = {name: m for name, m in denoiser.named_modules() if re.fullmatch(targets, name)}
    try:
        _attach(denoiser, targets, rank)
        layers = {backbone.kohya_name(n): m for n, m in denoiser.named_modules() if isinstance(m, LoraLayer)}
        for name, layer in layers.items():
            _initialise(name, layer, seed)
        yield LoraAdapters(layers, rank)
    finally:  # not peft's unload, which cannot undo an attach that failed half-way
        for name, module in projections.items():
            parent, _, child = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), child, module)
        denoiser.__dict__.pop("peft_config", None)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _attach(denoiser: nn.Module, targets: str, rank: int) -> None:
    try:
        LoraModel(denoiser, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), ADAPTER)
    except ValueError as error:
        raise ModelError(
            f"LoRA cannot be attached to this model's attention ({error}). Use an unquantised checkpoint (fp32, fp16, "
            "bf16, or plain fp8 weights) of Stable Diffusion 1.x, 2.x or SDXL."
        ) from error


def _initialise(name: str, layer: LoraLayer, seed: int) -> None:
    """As the LoRA paper (sec. 4.1) and peft do it, but from a generator of the layer's own."""
    down, up = _down(layer), _up(layer)
    generator = torch.Generator().manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
    bound = 1 / math.sqrt(down.shape[1])
    weight = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
    down.data = weight.to(down.device)
    up.data = torch.zeros(up.shape, device=up.device)


def _down(layer: LoraLayer) -> nn.Parameter:
    return layer.lora_A[ADAPTER].weight


def _up(layer: LoraLayer) -> nn.Parameter:
    return layer.lora_B[ADAPTER].weight


def _copy(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to("cpu", torch.float32, copy=True)
