"""What prompt alignment costs: time and peak memory of a plain LoRA step and of a PALP step, side by side.

    python -m benchmarks.step_cost [--device cuda --family sdxl] [--json PATH]

Weights are random: cost does not depend on them. The three kinds of step take turns in one process on the same model.
On a CPU the model has Stable Diffusion's architecture at a fraction of its width; on CUDA it has full size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
from palp_core.diffusers_backbone import DiffusersBackbone

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the builder of random models

from tiny import Architecture, pictures, random_pipeline

KINDS = {
    "plain": AlignmentConfig(weight=0),
    "palp": AlignmentConfig(alpha=15, beta=7.5),
    "palp_beta1": AlignmentConfig(alpha=7.5, beta=1),
}
FAMILIES = {"sd15": "sd1", "sdxl": "sdxl"}

SMALL_TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
SDXL_LEVELS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
}
VAE_CHANNELS = (128, 256, 512, 512)


def architecture(family: str, full_size: bool) -> Architecture:
    """Stable Diffusion 1.5 or SDXL, or the same block structure at a third of the width."""
    if family == "sdxl":
        channels, heads = ((320, 640, 1280), (5, 10, 20)) if full_size else ((96, 192, 384), (3, 6, 12))
        text = (CLIP_L, CLIP_G) if full_size else (SMALL_TEXT, SMALL_TEXT)
        return Architecture(
            text, {**SDXL_LEVELS, "block_out_channels": channels, "attention_head_dim": heads}, VAE_CHANNELS
        )
    channels = (320, 640, 1280, 1280) if full_size else (96, 192, 384, 384)
    text = (CLIP_L,) if full_size else (SMALL_TEXT,)
    return Architecture(text, {"block_out_channels": channels, "attention_head_dim": 8}, VAE_CHANNELS)


class Memory:
    """Peak of what tensors occupy inside the context, weights included, bytes."""

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
    """kind -> seconds and peak bytes of every measured step."""
    found = {kind: {"seconds": [], "bytes": []} for kind in KINDS}
    modules = (backbone.denoiser, *backbone._text_encoders())
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    for _ in range(args.rounds):
        for kind, alignment in KINDS.items():
            run = Personalization(backbone, subjects(args), "a sketch of [V] in Paris", config(args, alignment))
            steps = run.steps()
            next(steps)  # warms up
            for _ in range(args.steps):
                found[kind]["seconds"].append(timed(steps, backbone.device))
            with Memory(backbone.device, weights) as memory:
                next(steps)
            found[kind]["bytes"].append(memory.peak)
            steps.close()
    return found


def timed(steps, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    next(steps)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def subjects(args: argparse.Namespace) -> list[Subject]:
    return [Subject(pictures((args.resolution, args.resolution)), "cat")]


def config(args: argparse.Namespace, alignment: AlignmentConfig) -> PersonalizationConfig:
    return PersonalizationConfig(
        steps=args.steps + 2, batch_size=args.batch_size, resolution=args.resolution, alignment=alignment
    )


def summary(found: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    median = {kind: {name: statistics.median(values) for name, values in f.items()} for kind, f in found.items()}
    plain = median["plain"]
    return {
        "step_ratio": median["palp"]["seconds"] / plain["seconds"],
        "step_ratio_beta1": median["palp_beta1"]["seconds"] / plain["seconds"],
        "memory_ratio": max(median[k]["bytes"] for k in ("palp", "palp_beta1")) / plain["bytes"],
        **{f"{kind}_seconds": m["seconds"] for kind, m in median.items()},
        **{f"{kind}_bytes": m["bytes"] for kind, m in median.items()},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--family", default="sd15", choices=tuple(FAMILIES))
    parser.add_argument("--batch-size", type=int, default=PersonalizationConfig.batch_size)
    parser.add_argument("--resolution", type=int, help="pixels; by default the family's own, 256 on a CPU")
    parser.add_argument("--rounds", type=int, default=3, help="how often the kinds of step take turns")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a kind in each round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    own = {"sd15": 512, "sdxl": 1024}[args.family]
    args.resolution = args.resolution or (own if args.device == "cuda" else 256)
    return args


def main() -> None:
    args = arguments()
    full_size = args.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        family = FAMILIES[args.family]
        pipeline = random_pipeline(family, architecture(family, full_size), Path(folder))
    if full_size:
        pipeline.to(torch.bfloat16)
    found = summary(measure(DiffusersBackbone(pipeline, args.device), args))
    found["setting"] = (
        f"{args.family} on {args.device}, batch {args.batch_size}, {args.resolution} pixels, torch {torch.__version__}"
    )
    print(found["setting"])
    print(f"{'':24}{'seconds':>10}{'peak MiB':>10}")
    labels = {"plain": "plain LoRA step", "palp": "PALP, alpha 15 beta 7.5", "palp_beta1": "PALP, alpha 7.5 beta 1"}
    for kind, label in labels.items():
        print(f"{label:24}{found[f'{kind}_seconds']:10.3f}{found[f'{kind}_bytes'] / 2**20:10.0f}")
    print(
        f"ratios: {found['step_ratio']:.2f} and {found['step_ratio_beta1']:.2f} in time, "
        f"{found['memory_ratio']:.2f} in memory"
    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
