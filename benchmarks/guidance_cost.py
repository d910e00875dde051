"""What Pick-and-Draw guidance costs: a guided sampler step beside an unguided one, both with classifier-free guidance.

    python -m benchmarks.guidance_cost [--device cuda --family sdxl] [--json PATH]

Weights are random: cost does not depend on them. The kinds of step take turns in one process on the same model, each at
a noise level of its own, so that the reference's palette is computed in every guided step, as it is in a sampling.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from palp_core.alignment import guided_noise
from palp_core.diffusers_backbone import DiffusersBackbone
from palp_core.pick_and_draw import PickAndDraw, PickAndDrawConfig, prompted

from .cost import cost_arguments, keep, parsed, random_backbone, setting, synchronize

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


def main() -> None:
    parser = cost_arguments(__doc__, batch_size=1, rounds=8)
    parser.add_argument("--cfg", type=float, default=7.5, help="1 is without the negative prompt")
    args = parsed(parser)
    backbone = random_backbone(args)
    backbone.pipeline.to(backbone.device)
    backbone.denoiser.requires_grad_(False)  # as in ComfyUI
    seconds = {kind: statistics.median(values) for kind, values in measure(backbone, args).items()}
    ratios = {kind: value / seconds["unguided"] for kind, value in seconds.items()}
    print(setting(args))
    print(f"{'':26}{'seconds':>10}{'ratio':>8}")
    for kind, label in LABELS.items():
        print(f"{label:26}{seconds[kind]:10.3f}{ratios[kind]:8.2f}")
    keep({"setting": setting(args), "cfg": args.cfg, "seconds": seconds, "ratios": ratios}, args)


if __name__ == "__main__":
    main()
