"""What a step of textual inversion costs: ours and diffusers' recipe on the same random weights, side by side.

    python -m benchmarks.cost.word [--device cuda --family sdxl] [--json PATH]

The recipe is that of diffusers' example script: the image goes through the VAE in every step, the text encoder's whole
token table is a parameter of AdamW, and all rows but the new one are written back afterwards. A second form of it has
the latents at hand, as ours has. Kinds of step take turns in one process. The table has 49408 rows, as CLIP's.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import closing

import torch
import torch.nn.functional as F

from devtools.random_models import pictures
from palp_core import Concept, TextualInversion, TextualInversionConfig, Training
from palp_core.models.diffusers.backbone import DiffusersBackbone

from .setup import cost_arguments, keep, parsed, random_backbone, setting, timed

VOCABULARY = 49408
LABELS = {
    "ours": "ours",
    "recipe": "diffusers' recipe",
    "recipe_cached": "the same, latents at hand",
}


def ours(backbone: DiffusersBackbone, args: argparse.Namespace) -> Iterator[object]:
    """Take the steps of our training."""
    concept = Concept(pictures((args.resolution, args.resolution)), "c")
    config = TextualInversionConfig(
        steps=args.steps + 1, batch_size=args.batch_size, resolution=args.resolution, learning_rate=1e-4
    )
    yield from Training(TextualInversion(backbone, concept, config)).steps()


def recipe(backbone: DiffusersBackbone, args: argparse.Namespace, cached: bool) -> Iterator[None]:
    """Take the steps of the example script's loop, for one placeholder token in each text encoder."""
    pipeline, device = backbone.pipeline.to(backbone.device), backbone.device
    pipeline.unet.requires_grad_(False).eval()
    pipeline.vae.requires_grad_(False).eval()
    (picture,) = pictures((args.resolution, args.resolution))
    pixels = (picture.movedim(-1, 0)[None] * 2 - 1).repeat(args.batch_size, 1, 1, 1).to(device, pipeline.vae.dtype)
    encoders = [backbone.text.parts(name) for name in backbone.family.encoders]
    tables = [encoder.get_input_embeddings().weight for _, encoder in encoders]
    for (_, encoder), table in zip(encoders, tables, strict=True):
        encoder.requires_grad_(False).train()
        table.requires_grad_(True)
    frozen_rows = torch.ones(VOCABULARY, dtype=torch.bool, device=device)
    frozen_rows[-1] = False
    originals = [table.detach().clone() for table in tables]
    optimizer = torch.optim.AdamW(tables, lr=1e-4)
    latents = _encode(pipeline, pixels)
    try:
        while True:
            x0 = latents if cached else _encode(pipeline, pixels)
            noise = torch.randn_like(x0)
            timesteps = torch.randint(1000, (len(x0),), device=device)
            noisy = pipeline.scheduler.add_noise(x0, noise, timesteps)
            context, extra = _encode_text(backbone, encoders, len(x0), args.resolution)
            prediction = pipeline.unet(noisy, timesteps, context.to(noisy), added_cond_kwargs=extra).sample
            F.mse_loss(prediction.float(), noise.float()).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for table, original in zip(tables, originals, strict=True):
                    table[frozen_rows] = original[frozen_rows]
            yield
    finally:
        for table in tables:
            table.requires_grad_(False)


@torch.no_grad()
def _encode(pipeline, pixels: torch.Tensor) -> torch.Tensor:
    latents = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
    return latents.to(pipeline.unet.dtype)


def _encode_text(backbone: DiffusersBackbone, encoders: list, batch: int, resolution: int) -> tuple:
    """Context and, for SDXL, the rest of the conditioning; the new token is the last row of each table."""
    outputs = []
    for tokenizer, encoder in encoders:
        ids = tokenizer(["a photo of a c"] * batch, padding="max_length", return_tensors="pt").input_ids
        ids[:, 5] = VOCABULARY - 1
        outputs.append(encoder(ids.to(backbone.device), output_hidden_states=len(encoders) > 1))
    if len(encoders) == 1:
        return outputs[0].last_hidden_state, None
    sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]] * batch, device=backbone.device)
    pooled = outputs[-1][0].to(backbone.denoiser.dtype)
    context = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return context, {"text_embeds": pooled, "time_ids": sizes.to(pooled)}


def measure(backbone: DiffusersBackbone, args: argparse.Namespace) -> dict[str, list[float]]:
    """Take the seconds of every measured step, by kind."""
    kinds = {
        "ours": lambda: ours(backbone, args),
        "recipe": lambda: recipe(backbone, args, cached=False),
        "recipe_cached": lambda: recipe(backbone, args, cached=True),
    }
    seconds = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind, make in kinds.items():
            with closing(make()) as steps:
                next(steps)  # warms up
                seconds[kind] += [timed(steps, backbone.device) for _ in range(args.steps)]
    return seconds


def main() -> None:
    parser = cost_arguments(__doc__, batch_size=TextualInversionConfig.batch_size, rounds=3)
    parser.add_argument("--steps", type=int, default=4, help="Times this many steps of each kind in each round.")
    args = parsed(parser)
    backbone = random_backbone(args)
    for encoder in backbone.text.modules():
        encoder.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    seconds = {kind: statistics.median(values) for kind, values in measure(backbone, args).items()}
    found = {f"{kind}_seconds": value for kind, value in seconds.items()}
    found |= {f"ratio_to_{kind}": seconds["ours"] / seconds[kind] for kind in ("recipe", "recipe_cached")}
    found["setting"] = setting(args)
    print(found["setting"])
    for kind, label in LABELS.items():
        print(f"{label:28}{seconds[kind]:8.3f} s a step{seconds['ours'] / seconds[kind]:8.2f}")
    print("the last column: our time as a share of it")
    keep(found, args)


if __name__ == "__main__":
    main()
