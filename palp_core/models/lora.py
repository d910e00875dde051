"""LoRA (arXiv 2106.09685) on attention and other layers of a denoiser, attached by peft and taken off without a trace.

The adapters are named by the kohya key of their projection, which is the same whichever host holds the network, so that
the same seed gives the same initial weights, and the exported file loads in ComfyUI, A1111/Forge, kohya and diffusers.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .backbone import Backbone
from .families import Targets
from .quantizers import broken_packages_hidden, packages_hidden

with broken_packages_hidden():
    from peft import LoraConfig
    from peft.tuners.lora import Linear, LoraLayer, LoraModel

ADAPTER = "palp"


class LoraAdapters:
    """The adapters while they are attached. `layers`: kohya name -> peft layers, which share their lora_down."""

    def __init__(self, layers: dict[str, list[LoraLayer]], alpha: float):
        self.layers = layers
        self.alpha = alpha

    def parameters(self) -> list[nn.Parameter]:
        return [p for parts in self.layers.values() for p in (_down(parts[0]), *map(_up, parts))]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model: inside, every projection is its base layer alone."""
        try:
            for layer in chain(*self.layers.values()):
                layer.enable_adapters(False)
            yield
        finally:
            for layer in chain(*self.layers.values()):
                layer.enable_adapters(True)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU, float32: NAME.lora_down.weight (r, in), NAME.lora_up.weight (out, r), NAME.alpha ()."""
        state = {}
        for name, parts in self.layers.items():
            state[f"{name}.lora_down.weight"] = _copy(_down(parts[0]))
            state[f"{name}.lora_up.weight"] = torch.cat([_copy(_up(part)) for part in parts])
            state[f"{name}.alpha"] = torch.tensor(float(self.alpha))
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave; other keys are passed over. Raises KeyError where a projection is missing."""
        for name, parts in self.layers.items():
            _down(parts[0]).copy_(state[f"{name}.lora_down.weight"])
            rows = state[f"{name}.lora_up.weight"].split([len(_up(part)) for part in parts])
            for part, some in zip(parts, rows, strict=True):
                _up(part).copy_(some)


@contextmanager
def attached_lora(backbone: Backbone, rank: int, seed: int, targets: Targets = "attention") -> Iterator[LoraAdapters]:
    """Attach fresh adapters to every projection of these; on leaving, the module tree is the one that was found.

    Their alpha is the rank, so that the scale is 1. They are float32 on the backbone's device and start as the
    identity: A is Kaiming-uniform from the seed and the projection's name, B is zero. Raises ModelError when the
    denoiser has adapters already, or no projection that can carry one.
    """
    denoiser, names = backbone.denoiser, backbone.projections(targets)
    if any(isinstance(module, LoraLayer) for module in denoiser.modules()):
        raise ModelError("the model already carries a peft adapter. Fuse or unload it before training another one.")
    flags = [(p, p.requires_grad) for p in denoiser.parameters()]
    modules = {name: denoiser.get_submodule(name) for name in chain(*names.values())}
    try:
        _attach(denoiser, modules, rank)
        layers = {key: [denoiser.get_submodule(name) for name in parts] for key, parts in names.items()}
        for key, parts in layers.items():
            _initialise(key, parts, seed, backbone.device)
        yield LoraAdapters(layers, rank)
    finally:  # not peft's unload, which cannot undo an attach that failed half-way
        for name, module in modules.items():
            parent, _, child = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), child, module)
        denoiser.__dict__.pop("peft_config", None)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _attach(denoiser: nn.Module, modules: Mapping[str, nn.Module], rank: int) -> None:
    """Attach by full names. Linear layers that are no nn.Linear, as the host has for scaled fp8, are peft's to wrap."""
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(map(re.escape, modules)))
    foreign = {type(m) for m in modules.values() if not isinstance(m, nn.Linear) and hasattr(m, "in_features")}
    config._register_custom_module(dict.fromkeys(foreign, Linear))
    try:
        with packages_hidden(), _random_state_kept(modules):
            LoraModel(denoiser, config, ADAPTER)
    except ValueError as error:
        raise ModelError(
            f"LoRA cannot be attached to this model's layers ({error}). Use a checkpoint in fp32, fp16, bf16 or fp8."
        ) from error


def _random_state_kept(modules: Mapping[str, nn.Module]) -> AbstractContextManager[None]:
    """Torch's own random numbers, from which peft draws weights that are then replaced, are nobody's but the user's."""
    devices = {p.device for module in modules.values() for p in module.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(sorted(devices, key=str))


def _initialise(name: str, parts: list[LoraLayer], seed: int, device: torch.device) -> None:
    """As the LoRA paper (sec. 4.1) and peft do it, but from a generator of the projection's own.

    The projection itself may lie in RAM while the backbone computes on a card.
    """
    first = parts[0].lora_A[ADAPTER]
    generator = torch.Generator().manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
    bound = 1 / math.sqrt(first.weight.shape[1])
    weight = torch.empty(first.weight.shape).uniform_(-bound, bound, generator=generator)
    first.weight.data = weight.to(device)
    for part in parts:
        part.lora_A[ADAPTER] = first
        _up(part).data = torch.zeros(_up(part).shape, device=device)


def _down(layer: LoraLayer) -> nn.Parameter:
    return layer.lora_A[ADAPTER].weight


def _up(layer: LoraLayer) -> nn.Parameter:
    return layer.lora_B[ADAPTER].weight


def _copy(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to("cpu", torch.float32, copy=True)
