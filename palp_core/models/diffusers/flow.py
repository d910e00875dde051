"""Transformers of the diffusers library that predict a flow, called alike: latents, s and text in, velocity out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..backbone import Conditioning
from ..families import Targets
from ..noise import PREDICTIONS, NoiseLevels, flow_levels
from .architecture import Architecture, Schedule, Velocity
from .flux import FLUX_1
from .klein import FLUX_2_KLEIN
from .qwen_image import QWEN
from .sd3 import SD_3_5
from .z_image import Z

#: By the class of the pipeline.
ARCHITECTURES: dict[str, Architecture] = {a.pipeline: a for a in (SD_3_5, FLUX_1, FLUX_2_KLEIN, QWEN, Z)}
#: Where `LatentTransformer` holds diffusers' transformer.
INNER = "transformer"


def architecture_of(pipeline) -> Architecture | None:
    """Return what is special about a pipeline's transformer; None for a UNet.

    A pipeline that is not of the diffusers library, as the demo world's, says it itself.
    """
    return getattr(pipeline, "architecture", None) or ARCHITECTURES.get(type(pipeline).__name__)


class LatentTransformer(nn.Module):
    """A pipeline's transformer, itself and no copy, that takes and gives latents as they are."""

    def __init__(self, transformer: nn.Module, velocity: Velocity):
        super().__init__()
        self.transformer, self.velocity = transformer, velocity

    def forward(self, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Return eps - x0, (B, C, ..., h, w). x: the same at share s of noise, (B,)."""
        return self.velocity(self.transformer, x, s, text)


class FlowNetwork:
    """A pipeline's transformer as `DiffusersBackbone` asks for it."""

    prediction = PREDICTIONS["flow"]

    def __init__(self, pipeline, architecture: Architecture):
        self.architecture, self.joint = architecture, architecture.joint
        self.module = LatentTransformer(pipeline.transformer, architecture.velocity)
        self.dtype = pipeline.transformer.dtype
        family = architecture.family
        self.native_resolution = family.native_resolutions["flow"]
        shares = schedule_shares(architecture.schedule, pipeline.scheduler)
        self.levels: NoiseLevels = flow_levels(shares, family.timesteps)

    def predict(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        """Return the velocities (B, ...) at x_t; prompts of other lengths are a call of their own."""
        block = len(x) // len(conds)
        inputs, shares = x.to(self.dtype).split(block), (sigma / (1 + sigma)).split(block)
        outputs: dict[int, Tensor] = {}
        for numbers in _alike(conds):
            rows, s = (torch.cat([parts[n] for n in numbers]) for parts in (inputs, shares))
            text = stacked([conds[n] for n in numbers], len(rows))
            found = self.module(rows, s, {name: t.to(rows) for name, t in text.items()})
            outputs.update(zip(numbers, found.split(block), strict=True))
        return torch.cat([outputs[n] for n in range(len(conds))])

    def projections(self, targets: Targets) -> dict[str, tuple[str, ...]]:
        """Name the projections as the contract says."""
        found = named_projections(self.architecture, self.module.transformer, targets)
        return {key: tuple(f"{INNER}.{name}" for name in names) for key, names in found.items()}

    def checkpointed_modules(self) -> list[nn.Module]:
        """List the transformer's blocks."""
        stacks = [part for part in self.module.transformer.children() if isinstance(part, nn.ModuleList)]
        return [block for stack in stacks for block in stack]


def named_projections(
    architecture: Architecture, transformer: nn.Module, targets: Targets = "attention+ff+proj"
) -> dict[str, tuple[str, ...]]:
    """Map kohya's name of each projection that the transformer has -> the modules that together hold it."""
    modules, layers = [name for name, _ in transformer.named_modules()], architecture.family.lora_layers(targets)
    return {
        f"lora_unet_{host.format(number).replace('.', '_')}": tuple(part.format(number) for part in parts)
        for host, parts in architecture.projections.items()
        if layers.fullmatch(host.format(0))
        for number in _numbers(parts[0], modules)
    }


def _numbers(pattern: str, modules: Sequence[str]) -> Iterator[str]:
    """Find the blocks that have a module of this name."""
    before, after = map(re.escape, pattern.split("{}"))
    matches = (re.fullmatch(rf"{before}(\d+){after}", name) for name in modules)
    return (match[1] for match in matches if match)


def schedule_shares(schedule: Schedule, scheduler) -> Tensor:
    """Return the table of s, (N,), ascending up to 1. Raises ModelError for a scheduler that has no shift."""
    shift = schedule.shift if schedule.shift is not None else scheduler.config.get("shift")
    if shift is None:
        raise ModelError(
            f"the pipeline's scheduler ({type(scheduler).__name__}) is not one for flows. Use the one that the model "
            "came with, FlowMatchEulerDiscreteScheduler."
        )
    even = torch.arange(1, schedule.steps + 1) / schedule.steps
    return shift * even / (1 + (shift - 1) * even)


def _alike(conds: Sequence[Conditioning]) -> list[list[int]]:
    """Group prompts by number whose tensors have the same shapes."""
    groups = defaultdict(list)
    for number, cond in enumerate(conds):
        groups[tuple(tensor.shape for tensor in cond.tensors.values())].append(number)
    return list(groups.values())


def stacked(conds: Sequence[Conditioning], batch: int) -> dict[str, Tensor]:
    """Stack prompts of one length, each repeated for the samples that it stands for: name -> (batch, ...)."""
    times = batch // len(conds)
    rows = {name: [cond.tensors[name] for cond in conds] for name in conds[0].tensors}
    return {name: torch.cat([t.expand(times, *[-1] * (t.ndim - 1)) for t in tensors]) for name, tensors in rows.items()}
