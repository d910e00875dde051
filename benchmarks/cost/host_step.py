"""What a training step costs on one of ComfyUI's transformers, beside a step of ComfyUI's own Train LoRA node.

All in one process, on the same random weights, in turns. On a CPU the network is a narrow one of the same blocks; on
CUDA it has full size, in bf16. Train LoRA puts adapters on all layers, PALP on the attention alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from devtools.comfy_server import find_comfyui
from devtools.host_models import import_host, import_pack
from devtools.host_transformers import TinyVae, sized_model, tiny_clip
from devtools.random_models import pictures
from palp_core.models.families import FAMILIES

from .setup import keep, setting, synchronize

PROMPT = "a sketch of [V] in Paris"
RANK = 32
#: Of Train LoRA; the rest as the node has it.
NODE_WIDGETS = {
    "grad_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "rank": RANK,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 0,
    "quantized_backward": False,
    "algorithm": "LoRA",
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}


def run(args: argparse.Namespace) -> dict:
    """Measure every kind of step and print the table; returns the figures."""
    import_host(find_comfyui())
    import_pack()
    model, clip, vae = sized_model(args.family, args.device), tiny_clip(args.family), TinyVae(args.family)
    # Train LoRA loads the model anew, as a loader would.
    model.cached_patcher_init = (_loaded_again, (args.family, args.device))
    kinds = _kinds(args, model, clip, vae)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(args.rounds):
        for name, measure in kinds.items():
            seconds[name].append(measure())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    _print(args, median)
    found = {f"{name}_seconds": value for name, value in median.items()}
    found |= {f"{name}_ratio": value / median["plain"] for name, value in median.items()}
    found["setting"] = setting(args)
    keep(found, args)
    return found


def _loaded_again(family: str, device: str, disable_dynamic: bool = True):
    """Make the same weights again, as the host's loaders do."""
    return sized_model(family, device)


def _kinds(args: argparse.Namespace, model, clip, vae) -> dict[str, Callable[[], float]]:
    from palp_pack.palp_core import AlignmentConfig
    from palp_pack.palp_core.methods.scores import Palp

    alignments = {"plain": AlignmentConfig(weight=0), "delta": AlignmentConfig()}
    if FAMILIES[args.family].guidance == "classifier-free":
        alignments["palp"] = AlignmentConfig(score=Palp())
    ours = {
        f"{name}{suffix}": _ours(args, model, clip, vae, alignment, checkpointing)
        for name, alignment in alignments.items()
        for suffix, checkpointing in (("", False), (" checkpointed", True))
    }
    theirs = {
        "Train LoRA": lambda: _node_step(args, model, clip, vae, checkpointing=False),
        "Train LoRA checkpointed": lambda: _node_step(args, model, clip, vae, checkpointing=True),
    }
    return {**ours, **theirs}


def _ours(args: argparse.Namespace, model, clip, vae, alignment, checkpointing: bool) -> Callable[[], float]:
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject
    from palp_pack.palp_core.training.loop import Training

    config = PersonalizationConfig(
        steps=args.steps + 1,
        batch_size=args.batch_size,
        resolution=args.resolution,
        rank=RANK,
        alignment=alignment,
        gradient_checkpointing=checkpointing,
    )
    photo = pictures((args.resolution, args.resolution))

    def measure() -> float:
        backbone = ComfyBackbone(model, clip, vae)
        steps = Training(Personalization(backbone, [Subject(photo, "cat")], PROMPT, config)).steps()
        next(steps)  # warms up
        synchronize(backbone.device)
        start = time.perf_counter()
        for _ in range(args.steps):
            next(steps)
        synchronize(backbone.device)
        taken = time.perf_counter() - start
        steps.close()
        return taken / args.steps

    return measure


def _node_step(args: argparse.Namespace, model, clip, vae, checkpointing: bool) -> float:
    """Seconds of one step of the node: of a long run less a short one. NaN where the node fails."""
    latents = vae.encode(pictures((args.resolution, args.resolution))[0][None])
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of ohwx cat"))
    precision = "bf16" if args.device == "cuda" else "fp32"
    widgets = {**NODE_WIDGETS, "gradient_checkpointing": checkpointing}
    widgets |= {"training_dtype": precision, "lora_dtype": precision, "batch_size": args.batch_size}
    latents = latents.repeat(args.batch_size, *[1] * (latents.ndim - 1))

    def taken(steps: int) -> float:
        from comfy_extras.nodes_train import TrainLoraNode

        start = time.perf_counter()
        inputs = {name: [value] for name, value in {**widgets, "steps": steps}.items()}
        with torch.inference_mode():
            TrainLoraNode.execute(model=[model], latents=[{"samples": latents}], positive=[positive], **inputs)
        synchronize(torch.device(args.device))
        return time.perf_counter() - start

    try:
        short = taken(1)
        return (taken(1 + args.steps) - short) / args.steps
    except (RuntimeError, ValueError) as error:
        print(f"Train LoRA, checkpointing {checkpointing}: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
        return float("nan")


def _print(args: argparse.Namespace, median: dict[str, float]) -> None:
    print(setting(args))
    print(f"{'':26}{'seconds':>10}{'ratio':>8}")
    for name, value in median.items():
        print(f"{name:26}{value:10.3f}{value / median['plain']:8.2f}")
