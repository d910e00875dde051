"""Trains the embedded model from nothing: `python -m devtools.toyworld.training --work FOLDER --out FOLDER`.

Pictures are drawn, the VAE learns on crops of them, their latents are cached, and the UNet learns together with its
text encoder. Everything comes from one seed, and every stage goes on from its last checkpoint in the work folder.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from palp_core.files.safetensors_file import save_tensors
from palp_core.toyworld import scenes

from .captions import encode_captions, introduce_looks, random_captions
from .model import new_pipeline, save_model, standardise_latents
from .pictures import Drawn, as_pixels, chosen, draw_pictures
from .plan import TrainingPlan
from .steps import (
    MAX_GRAD_NORM,
    SAVE_EVERY,
    learning_rate_factor,
    load_checkpoint,
    save_checkpoint,
    step_generators,
    take_step,
)
from .unet import denoising_loss, follow, noised, pixel_weights, taught
from .vae import train_vae


def drawn_pictures(plan: TrainingPlan, work: Path) -> Drawn:
    """Draw the plan's pictures, once: the work folder keeps them."""
    file = work / "pictures.npz"
    if not file.exists():
        save_arrays(file, **asdict(draw_pictures(plan.pictures, plan.seed)))
    with np.load(file) as arrays:
        return Drawn(**arrays)


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write a file that appears whole or not at all, because what is there is not drawn again."""
    partial = file.with_name(f"part_{file.name}")
    np.savez(partial, **arrays)
    partial.replace(file)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """Encode pictures, (N, C, 16, 16) float16, standardised; the VAE is changed so that it gives these."""
    parts = [
        vae.encode(as_pixels(pictures[at : at + 50])).latent_dist.mode()
        for at in tqdm(range(0, len(pictures), 50), "encoding", mininterval=10)
    ]
    latents = torch.cat(parts)
    means, stds = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    standardise_latents(vae, means, stds)
    return ((latents - means.view(1, -1, 1, 1)) / stds.view(1, -1, 1, 1)).half()


def cached_latents(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> Tensor:
    """Encode pictures, once: the work folder keeps the latents, and the VAE that gives them."""
    file = work / "latents.safetensors"
    if not file.exists():
        latents = encode_pictures(vae, pictures)
        save_tensors(file, {"latents": latents, **vae.state_dict()})
    tensors = load_file(file)
    latents = tensors.pop("latents")
    vae.load_state_dict(tensors)
    return latents


def train_unet(
    pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TrainingPlan, work: Path
) -> None:
    """Train the UNet and its text encoder stage by stage, each on the pictures of its styles."""
    for number, stage in enumerate(plan.stages):
        if number > 0 and any(stage.looks) and not any(plan.stages[number - 1].looks):
            introduce_looks(pipeline, plan.seed)
        suited = np.flatnonzero(np.isin(drawn.labels[:, 0], [scenes.STYLES.index(style) for style in stage.styles]))
        StageTraining(pipeline, latents[torch.from_numpy(suited)], chosen(drawn, suited), plan, number).run(work)


class StageTraining:
    """Trains the UNet and its text encoder through one stage.

    latents: (N, 8, 16, 16), of the N pictures drawn. number: of the stage in the plan.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TrainingPlan, number: int
    ):
        self.pipeline, self.latents, self.drawn = pipeline, latents, drawn
        self.plan, self.number, self.stage = plan, number, plan.stages[number]
        self.teacher = copy.deepcopy(pipeline) if self.stage.taught else None
        self.modules = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
        self.averages = {name: copy.deepcopy(m).requires_grad_(False) for name, m in self.modules.items()}
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def run(self, work: Path) -> None:
        """Go on from the last checkpoint to the stage's end, and leave the averaged weights in the pipeline."""
        stage, title = self.stage, f"UNet, part {self.number + 1}"
        kept = {**self.modules, **{f"ema_{name}": module for name, module in self.averages.items()}}
        file = work / f"unet_{self.number}.safetensors"
        start = load_checkpoint(file, kept, self.optimizer)
        progress = tqdm(total=stage.steps, initial=start, desc=title, mininterval=60)
        recent = []
        for step, rng, torch_rng in step_generators(self.plan.seed, 2 + self.number, range(start, stage.steps)):
            recent.append(self.step(step, rng, torch_rng))
            progress.update()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                save_checkpoint(file, step + 1, kept, self.optimizer)
                tqdm.write(f"{title}, {step + 1}: loss {np.mean(recent):.4f}")
                recent.clear()
        for name, module in self.modules.items():
            module.load_state_dict(self.averages[name].state_dict())

    def step(self, step: int, rng: np.random.Generator, torch_rng: torch.Generator) -> float:
        """Take one step and return its loss."""
        stage = self.stage
        factor = learning_rate_factor(step, stage.steps, stage.warmup, stage.cooldown)
        loss = self.loss(factor, rng, torch_rng)
        take_step(self.optimizer, loss, stage.learning_rate * factor, MAX_GRAD_NORM)
        follow(self.averages, self.modules, step, self.plan.ema_decay)
        return loss.item()

    def loss(self, share: float, rng: np.random.Generator, torch_rng: torch.Generator) -> Tensor:
        """Measure the error on a batch of pictures, captions and noise by chance.

        share: 1 for the stage's weights of subject and accessory, 0 for equal ones.
        """
        pipeline, stage = self.pipeline, self.stage
        numbers = rng.integers(len(self.latents), size=self.plan.unet_batch)
        shown = chosen(self.drawn, numbers)
        captions = random_captions(shown, stage, rng)
        context = encode_captions(pipeline, captions, round(stage.words_only * len(captions)))
        batch = noised(pipeline, self.latents[torch.from_numpy(numbers)].float(), stage.lowest_level, torch_rng)
        if self.teacher is not None:
            batch = taught(self.teacher, batch, captions)
        return denoising_loss(pipeline, batch, context, pixel_weights(shown, stage, share), self.plan.weight_limit)


def train(plan: TrainingPlan, work: Path, out: Path) -> None:
    """Train the model.

    work: checkpoints and caches, some 1 GB. out: where the finished model is written, in half precision.
    """
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    pipeline = new_pipeline(work / "tokenizer")
    drawn = drawn_pictures(plan, work)
    train_vae(pipeline.vae, drawn.pictures, plan, work)
    latents = cached_latents(pipeline.vae, drawn.pictures, work)
    train_unet(pipeline, latents, drawn, plan, work)
    save_model(pipeline, out)


def main() -> None:
    """Train with the default plan, in the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and caches, some 1 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    arguments = parser.parse_args()
    train(TrainingPlan(), arguments.work, arguments.out)


if __name__ == "__main__":
    main()
