"""Seconds and peak memory of steps: PALP's, the host's Train LoRA beside them, and guided sampling."""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable

import torch

from benchmarks.cost import guidance as guidance_cost
from benchmarks.cost.host_step import Cost, HostSteps
from benchmarks.cost.setup import random_backbone
from devtools.comfy_server import find_comfyui
from devtools.host_models import import_host, import_pack
from devtools.host_transformers import families_of
from palp_core.models.families import (
    ANIMA,
    CHROMA,
    FAMILIES,
    FLUX,
    KLEIN,
    KREA2,
    QWEN_IMAGE,
    SD1,
    SD3,
    SDXL,
    Z_IMAGE,
)

from .cards import smallest_card
from .figures import Figures

#: Family -> side of its pictures, pixels.
UNETS = {SD1.name: 512, SDXL.name: 1024}
TRANSFORMER_SIDE = 1024
QUICK_SIDE = 64
#: The kinds of step on a transformer, which hardly anybody trains without checkpointing.
CHECKPOINTED = ("plain checkpointed", "delta in each step checkpointed", "palp checkpointed")
#: The family on which the host's node is measured beside, too: each time it loads the model once more.
BESIDE = Z_IMAGE.name
#: Left out: a mean over twelve steps, each plain or of another kind.
DEFAULT = ("delta", "delta checkpointed")
#: The kinds that show whether the script runs.
QUICK = ("delta in each step", "Train LoRA")
#: In the order in which they are measured.
ORDER = (Z_IMAGE, ANIMA, SD3, KLEIN, CHROMA, KREA2, QWEN_IMAGE, FLUX)


def unets(figures: Figures, device: str, quick: bool) -> None:
    """Measure all kinds of step on Stable Diffusion 1.5 and SDXL."""
    load_host()
    for family, side in UNETS.items():
        steps = HostSteps(family, device, QUICK_SIDE if quick else side, batch_size=1, steps=1 if quick else 4)
        kinds = {k: m for k, m in steps.kinds().items() if k in QUICK or not (quick or k in DEFAULT)}
        measure(figures, steps, kinds)
        del steps
        free()


def transformers(figures: Figures, device: str, quick: bool) -> None:
    """Measure a step on each family of transformers that this ComfyUI has."""
    load_host()
    there = families_of(find_comfyui())
    for family in [family.name for family in ORDER if family.name in there][: 1 if quick else None]:
        try:
            side = QUICK_SIDE if quick else TRANSFORMER_SIDE
            steps = HostSteps(family, device, side, batch_size=1, steps=1 if quick else 2)
        except (RuntimeError, MemoryError) as error:
            figures.add(family, error=str(error).splitlines()[0])
            continue
        chosen = (*CHECKPOINTED, "delta in each step", "Train LoRA checkpointed") if family == BESIDE else CHECKPOINTED
        kinds = {name: how for name, how in steps.kinds().items() if name in chosen}
        measure(figures, steps, kinds)
        del steps, kinds
        free()


def load_host() -> None:
    """Import ComfyUI and this pack into it."""
    import_host(find_comfyui())
    import_pack()


def measure(figures: Figures, steps: HostSteps, kinds: dict[str, Callable[[], Cost]]) -> None:
    """Measure kinds of step, one after the other; one that fails is noted, and the others go on."""
    title = f"{FAMILIES[steps.family].title}, {steps.resolution} pixels, batch {steps.batch_size}"
    plain = float("nan")
    for name, how in kinds.items():
        free()
        try:
            cost = how()
        except (RuntimeError, ValueError) as error:
            figures.add(f"{title}: {name}", error=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        plain = cost.seconds if name.startswith("plain") and plain != plain else plain
        found = {"seconds": cost.seconds, "ratio": cost.seconds / plain, "peak_gb": cost.gigabytes}
        if steps.device.type == "cuda" and not name.startswith("Train LoRA"):
            found["card_gb"] = smallest_card(how, cost.gigabytes)
        figures.add(f"{title}: {name}", **found)


def free() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def guidance(figures: Figures, device: str, quick: bool) -> None:
    """Measure the steps of a sampler, guided and not."""
    for family, side in (("sd15", 512), ("sdxl", 1024)):
        rounds, side = (1, QUICK_SIDE) if quick else (8, side)
        args = argparse.Namespace(device=device, family=family, batch_size=1, rounds=rounds, resolution=side, cfg=7.5)
        backbone = random_backbone(args)
        backbone.pipeline.to(backbone.device)
        backbone.denoiser.requires_grad_(False)
        seconds = {k: statistics.median(taken) for k, taken in guidance_cost.measure(backbone, args).items()}
        for kind, label in guidance_cost.LABELS.items():
            ratio = seconds[kind] / seconds["unguided"]
            figures.add(f"{family}, {side} pixels: {label}", seconds=seconds[kind], ratio=ratio)
        if quick:
            return
