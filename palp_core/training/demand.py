"""What a training takes of a device's memory, computed before its first step from the model's own modules.

Weights count as they are loaded. LoRA is float32, with its gradients and what the optimizer keeps. Activations follow
the family's figures (`Activations` in models/families.py), which were counted on full-size networks and measured on
cards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ..models.backbone import Backbone
from ..models.families import Targets
from .optimizer_kinds import KEPT_BYTES, OptimizerName

GIGABYTE = 1e9
#: Of a picture: what a transformer takes as one token is a patch of 2 x 2 latents of 1/8 size.
PIXELS_OF_A_TOKEN = 16 * 16
#: What torch's kernels and the pictures' latents take besides, GB.
REST = 0.15
#: What a score's evaluations without gradients take, of the activations with checkpointing; measured: 0.1 to 0.6.
EVALUATIONS = 1 / 3
#: Bytes of a number that LoRA trains, without what the optimizer keeps of it: float32, and its gradient.
TRAINED_BYTES = 2 * 4
#: Of the card's memory, what weights may take when others stay in RAM; the rest is left to what a step computes.
SHARE_OF_WEIGHTS = 2 / 3


@dataclass(frozen=True)
class Workload:
    """What a training's memory depends on, apart from the model."""

    batch_size: int  # of one process
    #: Side of a square of the pictures' area, pixels.
    resolution: int
    gradient_checkpointing: bool
    #: What the model computes in.
    dtype: torch.dtype
    #: Whether the text encoders are needed in every step.
    learns_words: bool
    #: Of the LoRA; 0 where none is trained.
    rank: int = 0
    #: Whether an average of what is trained is kept.
    averages: bool = False
    #: Whether a score compares the personalized model with the base model, in all steps or in some.
    compares: bool = False
    optimizer: OptimizerName = "adamw"
    #: What LoRA is attached to.
    targets: Targets = "attention"
    #: How many processes share each batch.
    processes: int = 1


@dataclass(frozen=True)
class Demand:
    """What a training takes of a device's memory, GB."""

    #: The denoiser's, as they are loaded.
    weights: float
    #: What has to be on the device besides the denoiser's weights.
    step: float

    def on_device(self, offloading: bool, room: float | None) -> float:
        """Return what comes to lie on the device, GB, if it has that much room; None where that is not known.

        offloading: weights beyond two thirds of the room stay in RAM.
        """
        if not offloading or room is None:
            return self.weights + self.step
        return min(self.weights, SHARE_OF_WEIGHTS * room) + self.step


def demand(backbone: Backbone, work: Workload) -> Demand:
    """Estimate what a training takes; on cards that it was measured on, it was right within a quarter."""
    features = _lora_features(backbone, work.targets)
    adapters = features.all * work.rank * (TRAINED_BYTES + KEPT_BYTES[work.optimizer] + 4 * work.averages)
    in_ram = backbone.device.type == "cpu"  # where text encoders have nowhere else to go
    encoders = backbone.text_encoders() if work.learns_words or in_ram else []
    held = adapters + _bytes(encoders) + _activations(backbone, work, features) + _casts(backbone, work)
    return Demand(_bytes([backbone.denoiser]) / GIGABYTE, held / GIGABYTE + REST)


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(p.nbytes for module in modules for p in module.parameters())


class _Features(NamedTuple):
    """Widths of all layers that LoRA is attached to."""

    #: What goes into them and comes out of them.
    all: int
    #: That of attention alone, which is a measure of the network's width.
    attention: int
    #: What goes into the others.
    other_inputs: int


def _lora_features(backbone: Backbone, targets: Targets) -> _Features:
    attention, found = backbone.projections(), {}
    for key, names in backbone.projections(targets).items():
        sizes = [_sizes(backbone.denoiser.get_submodule(name)) for name in names]
        found[key] = (sizes[0][0], sum(out for _, out in sizes))
    others = sum(inputs for key, (inputs, _) in found.items() if key not in attention)
    return _Features(sum(map(sum, found.values())), sum(sum(found[key]) for key in attention), others)


def _sizes(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def _activations(backbone: Backbone, work: Workload, features: _Features) -> float:
    """Bytes that autograd keeps for the backward pass, and that the score's evaluations take."""
    known = backbone.family.activations
    figure = known.checkpointed if work.gradient_checkpointing else known.plain
    if work.compares:
        figure += EVALUATIONS * known.checkpointed
    tokens = work.resolution**2 / PIXELS_OF_A_TOKEN + known.text_tokens
    blocks = len(backbone.checkpointed_modules()) if work.gradient_checkpointing else 1
    each = features.attention * figure + features.other_inputs * known.other_inputs / blocks
    return work.batch_size * tokens * each * work.dtype.itemsize / 2


def _casts(backbone: Backbone, work: Workload) -> float:
    """Bytes of weights in the number format that is computed in, where they are loaded in another one, as fp8.

    Autograd keeps these copies of all layers for the backward pass; with checkpointing, of one block at a time.
    """
    size = work.dtype.itemsize
    matrices = [p for p in backbone.denoiser.parameters() if p.ndim > 1]
    cast = sum(p.numel() * size for p in matrices if p.dtype != work.dtype or p.nbytes != p.numel() * size)
    return cast / len(backbone.checkpointed_modules()) if work.gradient_checkpointing else cast
