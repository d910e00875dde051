"""What prompt alignment costs: time and peak memory of a plain LoRA step and of a PALP step, side by side.

    python -m benchmarks.cost step [--device cuda --family sdxl] [--json PATH]
    python -m benchmarks.cost step --family z_image      on ComfyUI's network, beside its own Train LoRA

Weights are random: cost does not depend on them. The kinds of step take turns in one process on the same model. On a
CPU the model has Stable Diffusion's architecture at a fraction of its width; on CUDA it has full size. Beside them
stand diffusers' DreamBooth LoRA recipe on that model, and where ComfyUI is found, its Train LoRA on its own network.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Generator
from functools import partial

import torch

from devtools.comfy_server import find_comfyui
from devtools.random_models import pictures
from palp_core import AlignmentConfig, Delta, Palp, Personalization, PersonalizationConfig, Subject, Training
from palp_core.models.diffusers.backbone import DiffusersBackbone

from . import host_step
from .dreambooth import dreambooth
from .setup import FAMILIES, cost_arguments, keep, parsed, random_backbone, setting, steps_to_time, timed

KINDS = {
    "plain": AlignmentConfig(weight=0),
    "lora_alone": AlignmentConfig(weight=0),
    "delta": AlignmentConfig(),
    "delta_each_step": AlignmentConfig(score=Delta(interval=1, null_prior=0)),
    "palp": AlignmentConfig(score=Palp()),
    "palp_beta1": AlignmentConfig(score=Palp(alpha=7.5, beta=1)),
}


class Memory:
    """Record the peak of what tensors occupy inside the context, weights included, bytes."""

    def __init__(self, device: torch.device, weights: int):
        self.device, self.weights, self.peak = device, weights, 0

    def __enter__(self) -> Memory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated()
            return
        self.profile.__exit__(*error)
        events = self.profile.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        held = 0
        for _, change in changes:
            held += change
            self.peak = max(self.peak, held)
        self.peak += self.weights


def measure(backbone: DiffusersBackbone, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Take the mean seconds of a round's steps, which need not be alike, and their peak bytes; by kind."""
    modules = (backbone.denoiser, *backbone.text.modules())
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    makers = {**{kind: partial(ours, backbone, args, kind) for kind in KINDS}, **recipes(backbone, args)}
    plain = AlignmentConfig(weight=0)
    found = {kind: {"seconds": [], "bytes": []} for kind in makers}
    for _ in range(args.rounds):
        for kind, make in makers.items():
            steps = make()
            next(steps)  # warms up
            alignment = KINDS.get(kind, plain)
            taken = [timed(steps, backbone.device) for _ in range(steps_to_time(alignment, args.steps))]
            found[kind]["seconds"].append(statistics.fmean(taken))
            with Memory(backbone.device, weights) as memory:
                for _ in range(alignment.score.interval if alignment.weight else 1):
                    next(steps)
            found[kind]["bytes"].append(memory.peak)
            steps.close()
    return found


def ours(backbone: DiffusersBackbone, args: argparse.Namespace, kind: str) -> Generator[object, None, None]:
    """Take the steps of our training; of LoRA alone, no word is learned."""
    sizes = {"steps": 1000, "batch_size": args.batch_size, "resolution": args.resolution}
    rates = {"embedding_learning_rate": 0.0} if kind == "lora_alone" else {}
    config = PersonalizationConfig(**sizes, **rates, alignment=KINDS[kind])
    subject = Subject(pictures((args.resolution, args.resolution)), "cat")
    return Training(Personalization(backbone, [subject], "a sketch of [V] in Paris", config)).steps()


def recipes(backbone: DiffusersBackbone, args: argparse.Namespace) -> dict[str, Callable[[], Generator]]:
    """Name the forms of diffusers' recipe."""
    rank = PersonalizationConfig.rank
    return {
        "dreambooth": partial(dreambooth, backbone, args, rank, cached=False),
        "dreambooth_cached": partial(dreambooth, backbone, args, rank, cached=True),
    }


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    median = {kind: {name: statistics.median(values) for name, values in f.items()} for kind, f in found.items()}
    plain = median["plain"]
    return {
        **{f"{kind}_step_ratio": m["seconds"] / plain["seconds"] for kind, m in median.items()},
        **{f"{kind}_memory_ratio": m["bytes"] / plain["bytes"] for kind, m in median.items()},
        **{f"{kind}_seconds": m["seconds"] for kind, m in median.items()},
        **{f"{kind}_bytes": m["bytes"] for kind, m in median.items()},
    }


def main() -> None:
    parser = cost_arguments(__doc__, batch_size=PersonalizationConfig.batch_size, rounds=3)
    parser.add_argument("--steps", type=int, default=4, help="Times at least so many of each kind in each round.")
    parser.add_argument(
        "--host", action=argparse.BooleanOptionalAction, default=True, help="Measures ComfyUI's Train LoRA, too."
    )
    args = parsed(parser)
    if args.family not in FAMILIES:  # one of ComfyUI's transformers
        keep(host_step.measured(args, args.family), args)
        return
    found = summary(measure(random_backbone(args), args))
    found["setting"] = setting(args)
    print(found["setting"])
    print(f"{'':18}{'seconds':>10}{'ratio':>8}{'peak MiB':>10}{'ratio':>8}")
    for kind in [name.removesuffix("_seconds") for name in found if name.endswith("_seconds")]:
        seconds, peak = found[f"{kind}_seconds"], found[f"{kind}_bytes"] / 2**20
        ratios = found[f"{kind}_step_ratio"], found[f"{kind}_memory_ratio"]
        print(f"{kind:18}{seconds:10.3f}{ratios[0]:8.2f}{peak:10.0f}{ratios[1]:8.2f}")
    if args.host and find_comfyui():
        found["host"] = host_step.measured(args, FAMILIES[args.family])
    keep(found, args)


if __name__ == "__main__":
    main()
