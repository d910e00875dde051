"""What a training takes of a device's memory, computed before its first step from the model's own modules.

Weights count as they are loaded. LoRA is float32, with its gradients and what the optimizer keeps. Activations follow
the family's figures (`Activations` in models/families.py), which were counted on full-size networks and measured on
cards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..models.backbone import Backbone
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

    batch_size: int
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
    #: Whether a score compares the personalized model with the base model in every step.
    compares: bool = False
    optimizer: OptimizerName = "adamw"


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
    features = _lora_features(backbone)
    adapters = features * work.rank * (TRAINED_BYTES + KEPT_BYTES[work.optimizer] + 4 * work.averages)
    in_ram = backbone.device.type == "cpu"  # where text encoders have nowhere else to go
    encoders = backbone.text_encoders() if work.learns_words or in_ram else []
    held = adapters + _bytes(encoders) + _activations(backbone, work, features) + _casts(backbone, work)
    return Demand(_bytes([backbone.denoiser]) / GIGABYTE, held / GIGABYTE + REST)


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(p.nbytes for module in modules for p in module.parameters())


def _lora_features(backbone: Backbone) -> int:
    """Count what goes into and comes out of the projections that LoRA is attached to: the widths of all blocks."""
    found = 0
    for names in backbone.projections().values():
        layers = [backbone.denoiser.get_submodule(name) for name in names]
        found += layers[0].in_features + sum(layer.out_features for layer in layers)
    return found


def _activations(backbone: Backbone, work: Workload, features: int) -> float:
    """Bytes that autograd keeps for the backward pass, and that the score's evaluations take."""
    known = backbone.family.activations
    figure = known.checkpointed if work.gradient_checkpointing else known.plain
    if work.compares:
        figure += EVALUATIONS * known.checkpointed
    tokens = work.resolution**2 / PIXELS_OF_A_TOKEN + known.text_tokens
    return work.batch_size * tokens * features * figure * work.dtype.itemsize / 2


def _casts(backbone: Backbone, work: Workload) -> float:
    """Bytes of weights in the number format that is computed in, where they are loaded in another one, as fp8.

    Autograd keeps these copies of all layers for the backward pass; with checkpointing, of one block at a time.
    """
    size = work.dtype.itemsize
    matrices = [p for p in backbone.denoiser.parameters() if p.ndim > 1]
    cast = sum(p.numel() * size for p in matrices if p.dtype != work.dtype or p.nbytes != p.numel() * size)
    return cast / len(backbone.checkpointed_modules()) if work.gradient_checkpointing else cast
