"""What the cost benchmarks share: models of random weights, arguments, clocks.

Weights are random: cost does not depend on them. On a CPU the model has Stable Diffusion's architecture at a fraction
of its width; on CUDA it has full size.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from devtools.random_models import Architecture, random_pipeline
from palp_core.methods.alignment import AlignmentConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.families import FAMILIES as PALP_FAMILIES
from palp_core.models.families import TOY_FLOW

FAMILIES = {"sd15": "sd1", "sdxl": "sdxl"}

#: Measured on ComfyUI's own networks.
TRANSFORMERS = tuple(name for name, family in PALP_FAMILIES.items() if family.is_transformer and family != TOY_FLOW)

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
    """Describe Stable Diffusion 1.5 or SDXL, or the same block structure at a third of the width."""
    if family == "sdxl":
        channels, heads = ((320, 640, 1280), (5, 10, 20)) if full_size else ((96, 192, 384), (3, 6, 12))
        text = (CLIP_L, CLIP_G) if full_size else (SMALL_TEXT, SMALL_TEXT)
        return Architecture(
            text, {**SDXL_LEVELS, "block_out_channels": channels, "attention_head_dim": heads}, VAE_CHANNELS
        )
    channels = (320, 640, 1280, 1280) if full_size else (96, 192, 384, 384)
    text = (CLIP_L,) if full_size else (SMALL_TEXT,)
    return Architecture(text, {"block_out_channels": channels, "attention_head_dim": 8}, VAE_CHANNELS)


def random_backbone(args: argparse.Namespace) -> DiffusersBackbone:
    """Make a model of the family that was asked for, with random weights."""
    full_size, family = args.device == "cuda", FAMILIES[args.family]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = random_pipeline(family, architecture(family, full_size), Path(folder))
    if full_size:
        pipeline.to(torch.bfloat16)
    return DiffusersBackbone(pipeline, args.device)


def cost_arguments(description: str, batch_size: int, rounds: int) -> argparse.ArgumentParser:
    """Offer the options that all costs have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--family", default="sd15", choices=(*FAMILIES, *TRANSFORMERS))
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument(
        "--resolution", type=int, help="Sets the side of pictures, pixels; by default the family's own, 256 on a CPU."
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="Lets the kinds of step take turns this often.")
    parser.add_argument("--json", type=Path, help="Writes the figures to this file.")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line."""
    args = parser.parse_args()
    own = 512 if args.family == "sd15" else 1024
    args.resolution = args.resolution or (own if args.device == "cuda" else 256)
    return args


def setting(args: argparse.Namespace) -> str:
    """Say what was measured, on what."""
    return (
        f"{args.family} on {args.device}, batch {args.batch_size}, {args.resolution} pixels, torch {torch.__version__}"
    )


def keep(found: dict, args: argparse.Namespace) -> None:
    """Write the figures where they were asked for."""
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def steps_to_time(alignment: AlignmentConfig, least: int) -> int:
    """Count at least so many, in which what is done in some steps alone is done as often as in a whole training."""
    period = alignment.null_interval if alignment.weight else 1
    return period * math.ceil(least / period)


def timed(steps: Iterator, device: torch.device) -> float:
    """Take one step, and say how many seconds it took."""
    synchronize(device)
    start = time.perf_counter()
    next(steps)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
