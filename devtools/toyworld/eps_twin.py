"""Teaches the embedded UNet to predict noise: `python -m devtools.toyworld.eps_twin --work FOLDER --out FILE`.

Stable Diffusion 1.x and SDXL predict noise, and the embedded UNet predicts v. Its twin shares text encoder, VAE and
noise levels with it, begins from its weights, and learns what it says, without noise of its own: eps = a*v + s*x_t,
with a the signal's and s the noise's share of x_t (arXiv 2202.00512, appendix D).
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from palp_core.files.safetensors_file import save_tensors
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER

from .captions import encode_captions, random_captions
from .pictures import Drawn, chosen
from .plan import Stage, TrainingPlan
from .steps import MAX_GRAD_NORM, learning_rate_factor, load_checkpoint, save_checkpoint, step_generators, take_step
from .training import drawn_pictures
from .transformer import encoded
from .unet import follow, noised

STAGE = 40  # of its random numbers, apart from all of the others
SAVE_EVERY = 100  # steps


@dataclass(frozen=True)
class TwinPlan:
    """Holds all numbers of the training; the defaults are those of the twin that is measured."""

    seed: int = 0
    pictures: int = 6_000
    steps: int = 1_600
    batch: int = 16
    learning_rate: float = 6e-4
    warmup: int = 100
    #: Share of the steps, at the end, in which the learning rate falls to 0.
    cooldown: float = 0.5
    ema_decay: float = 0.998
    #: What the captions say, which is what prompts say later.
    captions: Stage = Stage(0, 0.0, 0, 0.0, looks=(0.4, 0.6, 0.4), words_only=0.3)


class TwinTraining:
    """Trains the twin's UNet. latents: (N, 8, 16, 16), of the N pictures drawn."""

    def __init__(self, pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TwinPlan):
        self.pipeline, self.latents, self.drawn, self.plan = pipeline, latents, drawn, plan
        self.unet = copy.deepcopy(pipeline.unet)
        self.average = copy.deepcopy(self.unet).requires_grad_(False)
        self.kept = {"unet": self.unet, "average": self.average}
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def run(self, work: Path) -> None:
        """Go on from the last checkpoint to the end."""
        plan, file = self.plan, work / "twin.safetensors"
        start, recent = load_checkpoint(file, self.kept, self.optimizer), []
        for step, rng, torch_rng in step_generators(plan.seed, STAGE, range(start, plan.steps)):
            rate = plan.learning_rate * learning_rate_factor(step, plan.steps, plan.warmup, plan.cooldown)
            loss = self.loss(rng, torch_rng)
            take_step(self.optimizer, loss, rate, MAX_GRAD_NORM)
            follow({"": self.average}, {"": self.unet}, step, plan.ema_decay)
            recent.append(loss.item())
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
                save_checkpoint(file, step + 1, self.kept, self.optimizer)
                print(f"step {step + 1}: loss {np.mean(recent):.5f}", flush=True)
                recent.clear()

    def loss(self, rng: np.random.Generator, torch_rng: torch.Generator) -> Tensor:
        """Measure the error of the noise as one of v, which is 1 / a times as large: what is drawn depends on it."""
        numbers = rng.integers(len(self.latents), size=self.plan.batch)
        captions = random_captions(chosen(self.drawn, numbers), self.plan.captions, rng)
        batch = noised(self.pipeline, self.latents[torch.from_numpy(numbers)].float(), 0.0, torch_rng)
        signal = self.pipeline.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)  # a^2
        with torch.no_grad():
            context = encode_captions(self.pipeline, captions, round(self.plan.captions.words_only * len(captions)))
            velocity = self.pipeline.unet(batch.latents, batch.timesteps, context).sample
            wanted = signal.sqrt() * velocity + (1 - signal).sqrt() * batch.latents
        predicted = self.unet(batch.latents, batch.timesteps, context).sample
        return ((predicted - wanted).square() / signal).mean()


def train(plan: TwinPlan, work: Path) -> None:
    """Train the twin, with checkpoints and caches in the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(MODEL_FOLDER)
    drawn = drawn_pictures(TrainingPlan(seed=plan.seed, pictures=plan.pictures), work)
    latents = encoded(pipeline.vae, drawn.pictures, work)
    TwinTraining(pipeline, latents, drawn, plan).run(work)


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights in half precision."""
    tensors = load_file(checkpoint)
    named = {name.removeprefix("average."): t.half() for name, t in tensors.items() if name.startswith("average.")}
    save_tensors(out, named)


def main() -> None:
    """Train with the default plan, in the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and caches, some 200 MB")
    parser.add_argument("--out", type=Path, required=True, help="file of the finished UNet")
    arguments = parser.parse_args()
    train(TwinPlan(), arguments.work)
    export(arguments.work / "twin.safetensors", arguments.out)


if __name__ == "__main__":
    main()
