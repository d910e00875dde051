"""What Pick-and-Draw guidance and recording attention cost, beside a plain sampler step, with classifier-free guidance.

    python -m benchmarks.cost.guidance [--device cuda --family sdxl] [--json PATH]

Weights are random: cost does not depend on them. The kinds of step take turns in one process on the same model, each at
a noise level of its own, so that the reference's palette is computed in every guided step, as it is in a sampling.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from palp_core.methods.heatmap import HeatMaps
from palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from palp_core.models.attention import is_decoder, prompted, recorded_attention
from palp_core.models.backbone import guided_noise
from palp_core.models.diffusers.backbone import DiffusersBackbone

from .setup import cost_arguments, keep, parsed, random_backbone, setting, synchronize

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
    "recorded": "unguided step, words recorded",
}


def sampler_steps(backbone: DiffusersBackbone, x: Tensor, cfg: float) -> dict[str, Callable[[float], None]]:
    """Make, by kind, what a sampler evaluates in one step at a share of the schedule. x: latents of variance 1."""
    null, cond = (backbone.encode_prompt(prompt, {}) for prompt in ("", "a cat"))
    parts = [prompted(backbone, "a cat", "cat")] * 2 + [prompted(backbone, "a dog", "dog")]

    @torch.no_grad()
    def step(guidance: PickAndDraw, share: float) -> None:
        sigma = backbone.levels.at(share).to(x)
        levels = sigma.expand(len(x))
        guided_noise(backbone.denoise, guidance(x * sigma, levels), levels, null, cond, cfg)

    words, heat = backbone.token_positions("a cat", "a cat", {}), HeatMaps()
    rows = torch.arange(len(x)) + (0 if cfg == 1 else len(x))  # the prompt's, behind those of the null prompt

    def recorded(share: float) -> None:
        with recorded_attention(backbone.denoiser, words, rows, only=is_decoder) as layers:
            found["unguided"](share)
        heat.add(layers, tuple(x.shape[-2:]), len(x))

    found = {kind: partial(step, PickAndDraw(*parts, x[:1], backbone.levels, config)) for kind, config in KINDS.items()}
    return {**found, "recorded": recorded}


def measure(backbone: DiffusersBackbone, args: argparse.Namespace) -> dict[str, list[float]]:
    """Take the seconds of every measured step, by kind."""
    side = args.resolution // 8
    steps = sampler_steps(backbone, torch.randn(args.batch_size, 4, side, side, device=backbone.device), args.cfg)
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for share in torch.linspace(0.6, 0.95, args.rounds + 1).tolist():  # all before END
        for kind, step in steps.items():
            synchronize(backbone.device)
            start = time.perf_counter()
            step(share - 0.55 if kind == "after_the_end" else share)
            synchronize(backbone.device)
            found[kind].append(time.perf_counter() - start)
    return {kind: seconds[1:] for kind, seconds in found.items()}  # the first round warms up


def main() -> None:
    parser = cost_arguments(__doc__, batch_size=1, rounds=8)
    parser.add_argument(
        "--cfg",
        type=float,
        default=7.5,
        help="Sets the scale of classifier-free guidance; 1 is without the negative prompt.",
    )
    args = parsed(parser)
    backbone = random_backbone(args)
    backbone.pipeline.to(backbone.device)
    backbone.denoiser.requires_grad_(False)  # as in ComfyUI
    seconds = {kind: statistics.median(values) for kind, values in measure(backbone, args).items()}
    ratios = {kind: value / seconds["unguided"] for kind, value in seconds.items()}
    print(setting(args))
    print(f"{'':32}{'seconds':>10}{'ratio':>8}")
    for kind, label in LABELS.items():
        print(f"{label:32}{seconds[kind]:10.3f}{ratios[kind]:8.2f}")
    keep({"setting": setting(args), "cfg": args.cfg, "seconds": seconds, "ratios": ratios}, args)


if __name__ == "__main__":
    main()
