"""The choice `memory`: a training's settings are lowered until it fits a card, and what it takes is said beforehand.

Nothing here stops a training: an estimate may be wrong, and whoever trains is told what to lower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..models.backbone import Backbone
from ..models.memory import computes_bf16
from ..settings import check_settings, setting
from ..training.demand import Demand, Workload, demand
from .personalization import Personalization
from .textual_inversion import TextualInversion

Method = Personalization | TextualInversion
#: Of a card's memory, what its driver and the screen take, GB.
TAKEN = 0.7
#: What pictures are advised to be brought to where nothing else is left to lower, pixels.
SMALL_RESOLUTION = 512


@dataclass(frozen=True)
class MemoryConfig:
    """What memory a training has to do with."""

    memory: Literal["auto", "8", "12", "16", "24"] = setting(
        "auto",
        "Fits the training to a card of so many GB: gradient_checkpointing on, then a smaller batch_size, then bf16. "
        "With auto all stays as set, and you are told what to lower.",
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def room(self) -> float | None:
        """What a training may take, GB; None with auto."""
        return None if self.memory == "auto" else float(self.memory) - TAKEN


def fit_memory(method: Method, memory: MemoryConfig, free: float | None) -> None:
    """Lower a training's settings as the choice wants it, and note in the method what is to be said of its memory.

    To be called before anything asks for the training's identity. free: of the device's memory, GB, None where that is
    not known. On a CPU nothing is lowered.
    """
    if method.backbone.device.type == "cpu":
        method.memory_note = estimate(method)
        return
    chosen = ""
    if memory.room is not None:
        words = lower(method, memory.room, computes_bf16(method.backbone.device))
        chosen = f"Chosen for {memory.memory} GB: {', '.join(words)}." if words else ""
    room = min((size for size in (memory.room, free) if size is not None), default=None)
    told = [estimate(method, room), chosen, advice(method, room)]
    method.memory_note = " ".join(filter(None, told))


def workload(method: Method) -> Workload:
    """Return what a training's memory depends on, with its settings as they are."""
    config, backbone = method.config, method.backbone
    processes = method.workers.count
    shared = config.batch_size // processes, method.resolution, config.gradient_checkpointing, backbone.compute_dtype
    if isinstance(method, TextualInversion):
        return Workload(*shared, learns_words=True, processes=processes)
    averages = config.ema_decay > 0
    compares = config.alignment.weight > 0 or config.masked_prior > 0
    loras = config.rank, averages, compares, config.optimizer, config.targets
    return Workload(*shared, method.learns_words, *loras, processes)


def cheaper(work: Workload, bf16: bool) -> Iterator[Workload]:
    """Yield a workload, and what takes less and less memory: checkpointed, smaller batches, half precision.

    bf16: whether the device computes in it.
    """
    yield work
    work = replace(work, gradient_checkpointing=True)
    yield work
    for batch_size in range(work.batch_size - 1, 0, -1):
        work = replace(work, batch_size=batch_size)
        yield work
    if bf16 and work.dtype == torch.float32:
        yield replace(work, dtype=torch.bfloat16)


def lower(method: Method, room: float, bf16: bool) -> list[str]:
    """Lower a training's settings until it takes no more than the room, GB, or as far as they go.

    bf16: whether the device computes in it. Returns what was lowered, in words.
    """
    before = workload(method)
    found, _ = _first_that_fits(method.backbone, list(cheaper(before, bf16)), room)
    checkpointing, size = found.gradient_checkpointing, found.batch_size * found.processes
    method.config = replace(method.config, gradient_checkpointing=checkpointing, batch_size=size)
    if found.dtype != before.dtype:
        method.backbone.compute_in_bf16()
    return changes(before, found)


def _first_that_fits(backbone: Backbone, works: list[Workload], room: float) -> tuple[Workload, bool]:
    """Find the first workload that takes no more than the room, GB, else the last; and whether it does."""
    for work in works:
        if demand(backbone, work).on_device(bool(backbone.offloading), room) <= room:
            return work, True
    return works[-1], False


def changes(before: Workload, after: Workload) -> list[str]:
    """Say what is lower in one workload than in another, as a user would set it."""
    words = {
        "gradient_checkpointing on": after.gradient_checkpointing != before.gradient_checkpointing,
        f"batch_size {after.batch_size * after.processes}": after.batch_size != before.batch_size,
        "precision bf16": after.dtype != before.dtype,
        f"resolution {after.resolution}": after.resolution != before.resolution,
    }
    return [word for word, changed in words.items() if changed]


def estimate(method: Method, room: float | None = None) -> str:
    """Say what a training takes: "Takes about 7.1 GB of the card's memory." room: what the device has, GB."""
    needed = demand(method.backbone, workload(method))
    if method.backbone.device.type == "cpu":
        return f"Takes about {_gigabytes(needed.weights + needed.step)} of RAM."
    taken = needed.on_device(bool(method.backbone.offloading), room)
    in_ram = needed.weights + needed.step - taken
    rest = f", and keeps {_gigabytes(in_ram)} of weights in RAM" if in_ram > 0 else ""
    return f"Takes about {_gigabytes(taken)} of the card's memory{rest}."


def advice(method: Method, room: float | None) -> str:
    """Say what to lower where a training takes more than the room, GB; nothing where it fits, or nobody knows."""
    backbone, work = method.backbone, workload(method)
    if room is None or _first_that_fits(backbone, [work], room)[1]:
        return ""
    works = list(cheaper(work, computes_bf16(backbone.device)))
    works.append(replace(works[-1], resolution=min(SMALL_RESOLUTION, work.resolution)))
    found, fits = _first_that_fits(backbone, works, room)
    words = changes(work, found)
    if not fits and backbone.offloading is False:
        words.append("offloading on")
    remedies = [f"Set {', '.join(words)}."] if words else []
    if not fits:
        remedies.append(_smaller_model(backbone, demand(backbone, found)))
    return " ".join([f"That is more than the {_gigabytes(room)} that there are.", *remedies])


def _smaller_model(backbone: Backbone, found: Demand) -> str:
    """Say which weights would take less."""
    count = sum(p.numel() for p in backbone.denoiser.parameters())
    in_fp8 = found.weights * 1e9 < 1.5 * count
    if in_fp8 or not backbone.family.is_transformer:
        return "Or take a smaller model."
    return "Or load the model from an fp8 file."


def _gigabytes(size: float) -> str:
    return f"{size:.1f} GB"
