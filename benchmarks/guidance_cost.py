"""What Pick-and-Draw guidance costs: a guided sampler step beside an unguided one, both with classifier-free guidance.

    python -m benchmarks.guidance_cost [--device cuda --family sdxl] [--json PATH]

Weights are random: cost does not depend on them. The kinds of step take turns in one process on the same model, each at
a noise level of its own, so that the reference's palette is computed in every guided step, as it is in a sampling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from palp_core.alignment import guided_noise
from palp_core.diffusers_backbone import DiffusersBackbone
from palp_core.pick_and_draw import PickAndDraw, PickAndDrawConfig, prompted

from .step_cost import FAMILIES, architecture, random_pipeline, synchronize

END = 0.5
KINDS = {
    "unguided": PickAndDrawConfig(pick_weight=0, draw_weight=0),
    "pick": PickAndDrawConfig(draw_weight=0, end_percent=END),
    "draw": PickAndDrawConfig(pick_weight=0, end_percent=END),
    "both": PickAndDrawConfig(end_percent=END),
    "after_the_end": PickAndDrawConfig(end_percent=END),
}
LABELS = {
    "unguided": "unguided step",
    "pick": "pick",
    "draw": "draw",
    "both": "pick and draw",
    "after_the_end": "guided run, after its end",
}


def step(
    backbone: DiffusersBackbone, guidance: PickAndDraw, x: Tensor, sigma: Tensor, conds: tuple, cfg: float
) -> None:
    """What a sampler evaluates in one step."""
    with torch.no_grad():
        guided_noise(backbone.denoise, guidance(x, sigma), sigma, *conds, cfg)


def measure(backbone: DiffusersBackbone, args: argparse.Namespace) -> dict[str, list[float]]:
    """kind -> seconds of every measured step."""
    side = args.resolution // 8
    x = torch.randn(args.batch_size, 4, side, side, device=backbone.device)
    conds = tuple(backbone.encode_prompt(prompt, {}) for prompt in ("", "a cat"))
    parts = [prompted(backbone, "a cat", "cat")] * 2 + [prompted(backbone, "a dog", "dog")]
    guidance = {kind: PickAndDraw(*parts, x[:1], backbone.sigmas, config) for kind, config in KINDS.items()}
    levels = torch.linspace(0.6, 0.95, args.rounds + 1)  # of the schedule, all before END
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for level in levels.tolist():
        for kind in KINDS:
            at = level - 0.55 if kind == "after_the_end" else level
            sigma = backbone.sigmas[round(at * (len(backbone.sigmas) - 1))].to(backbone.device)
            synchronize(backbone.device)
            start = time.perf_counter()
            step(backbone, guidance[kind], x * sigma, sigma.expand(len(x)), conds, args.cfg)
            synchronize(backbone.device)
            found[kind].append(time.perf_counter() - start)
    return {kind: seconds[1:] for kind, seconds in found.items()}  # the first round warms up


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--family", default="sd15", choices=tuple(FAMILIES))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--cfg", type=float, default=7.5, help="1 is without the negative prompt")
    parser.add_argument("--resolution", type=int, help="pixels; by default the family's own, 256 on a CPU")
    parser.add_argument("--rounds", type=int, default=8, help="how often the kinds of step take turns")
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
        pipeline.to("cuda", torch.bfloat16)
    pipeline.unet.requires_grad_(False)  # as in ComfyUI
    seconds = {
        kind: statistics.median(values)
        for kind, values in measure(DiffusersBackbone(pipeline, args.device), args).items()
    }
    ratios = {kind: value / seconds["unguided"] for kind, value in seconds.items()}
    setting = (
        f"{args.family} on {args.device}, batch {args.batch_size}, CFG {args.cfg:g}, {args.resolution} pixels, "
        f"torch {torch.__version__}"
    )
    print(setting)
    print(f"{'':26}{'seconds':>10}{'ratio':>8}")
    for kind, label in LABELS.items():
        print(f"{label:26}{seconds[kind]:10.3f}{ratios[kind]:8.2f}")
    if args.json:
        args.json.write_text(json.dumps({"setting": setting, "seconds": seconds, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
