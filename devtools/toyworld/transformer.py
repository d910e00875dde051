"""Trains the toy world's flow-matching transformer: `python -m devtools.toyworld.transformer train --work FOLDER`.

It learns beside the embedded model's frozen text encoder and VAE, from what the embedded UNet says of noisy pictures:
pictures are one of many that the same noise could hide, and the UNet's answer is the mean of these. The training goes
on at one learning rate until it is stopped, and from its last checkpoint when it is started again. `--cooldown STEPS`
ends it from there, in a file of its own, so that the training itself can still go on. `draw` draws with the averaged
weights and has the judges look; `export` writes these weights to a file.
"""

from __future__ import annotations

import argparse
import copy
import time
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, ZImageTransformer2DModel
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from palp_core.files.images import write_image
from palp_core.files.safetensors_file import save_tensors
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.models.noise import NoiseLevels, VelocityPrediction, per_sample
from palp_core.toyworld import MODEL_FOLDER, scenes
from palp_core.toyworld.evaluators import Evaluators, Target, load_evaluators
from palp_core.toyworld.transformer import SHIFT, velocity

from .captions import encode_captions, random_captions
from .pictures import Drawn, as_pixels, chosen
from .plan import TrainingPlan
from .steps import (
    MAX_GRAD_NORM,
    learning_rate_factor,
    load_checkpoint,
    save_checkpoint,
    step_generators,
    take_step,
)
from .training import drawn_pictures
from .transformer_plan import (
    LATENT_SHAPE,
    MuonAdamW,
    TransformerPlan,
    new_transformer,
    shifted,
    spread_levels,
)
from .unet import follow, pixel_weights

STAGE = 20  # of the random numbers; the embedded model's own stages have those before
SAVE_SECONDS = 240
FOREVER = 10**9  # steps
DRAWING_STEPS = 24


class Lesson(NamedTuple):
    """Holds what a step learns from."""

    noisy: Tensor  # x_t, (B, 8, 16, 16)
    levels: Tensor  # s, (B,)
    context: Tensor  # (B, 32, 128)
    velocity: Tensor  # (B, 8, 16, 16), what is to be predicted


class Lessons:
    """Makes lessons from pictures by chance.

    pipeline: the embedded model, frozen, on the device that the lessons are to be on. latents: (N, 8, 16, 16), of the
    N pictures drawn.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TransformerPlan):
        self.pipeline, self.drawn, self.stage, self.device = pipeline, drawn, plan.stage, pipeline.device
        self.latents = latents.to(self.device)
        alphas = pipeline.scheduler.alphas_cumprod.double()
        self.levels = NoiseLevels(((1 - alphas) / alphas).sqrt().float().to(self.device))

    @torch.no_grad()
    def make(self, numbers: np.ndarray, rng: np.random.Generator, torch_rng: torch.Generator) -> Lesson:
        """Caption some of the pictures, add noise to them, and ask the UNet what is behind it."""
        captions = random_captions(chosen(self.drawn, numbers), self.stage, rng)
        context = encode_captions(self.pipeline, captions)
        latents = self.latents[torch.from_numpy(numbers).to(self.device)].float()
        levels = spread_levels(len(latents), torch_rng).to(self.device)
        noise = torch.randn(latents.shape, generator=torch_rng).to(self.device)
        noisy = latents.lerp(noise, per_sample(levels, latents))
        return Lesson(noisy, levels, context, self.taught(noisy, levels, context, noise - latents))

    def taught(self, noisy: Tensor, levels: Tensor, context: Tensor, truth: Tensor) -> Tensor:
        """Return the velocity that the UNet predicts, and the true one at noise levels that the UNet never saw."""
        sigma = levels / (1 - levels)
        x, prediction = noisy / per_sample(1 - levels, noisy), VelocityPrediction()
        output = self.pipeline.unet(prediction.network_input(x, sigma), self.levels.nearest(sigma), context).sample
        predicted = (noisy - prediction.denoised(x, sigma, output)) / per_sample(levels, noisy)
        known = (sigma >= self.levels.sigmas[0]) & (sigma <= self.levels.sigmas[-1])
        return torch.where(per_sample(known, noisy), predicted, truth)


class TransformerTraining:
    """Trains the transformer; the last of the pictures are held out and tell how good it is."""

    def __init__(self, lessons: Lessons, plan: TransformerPlan):
        torch.manual_seed(plan.seed)
        self.lessons, self.plan = lessons, plan
        self.transformer = new_transformer().to(lessons.device)
        self.average = copy.deepcopy(self.transformer).requires_grad_(False)
        self.kept = {"transformer": self.transformer, "average": self.average}
        self.optimizer = MuonAdamW(self.transformer)

    def run(self, work: Path, until: int = FOREVER, cooldown: int = 0) -> None:
        """Go on from the last checkpoint at one learning rate until that step, or to the end of a cooldown from it."""
        file = checkpoint_file(work)
        start = load_checkpoint(file, self.kept, self.optimizer)
        if cooldown:
            until, file = start + cooldown, work / f"cooldown_{start}_{cooldown}.safetensors"
            start = load_checkpoint(file, self.kept, self.optimizer) or start
        recent, saved = [], time.monotonic()
        for step, rng, torch_rng in step_generators(self.plan.seed, STAGE, range(start, until)):
            factor = learning_rate_factor(step, until, self.plan.warmup, cooldown / until)
            recent.append(self.step(step, factor, factor if cooldown else 1.0, rng, torch_rng))
            seconds = time.monotonic() - saved
            if seconds > SAVE_SECONDS or step + 1 == until:
                save_checkpoint(file, step + 1, self.kept, self.optimizer)
                self.report(step + 1, recent, seconds)
                recent, saved = [], time.monotonic()

    def step(
        self, step: int, factor: float, share: float, rng: np.random.Generator, torch_rng: torch.Generator
    ) -> float:
        """Take one step and return its loss.

        factor: of the learning rate. share: 1 for the stage's weights of subject and accessory, 0 for equal ones.
        """
        plan, drawn = self.plan, self.lessons.drawn
        numbers = rng.integers(len(drawn.labels) - plan.held_out, size=plan.batch)
        weights = pixel_weights(chosen(drawn, numbers), plan.stage, share).to(self.lessons.device)
        loss = (self.errors(self.transformer, self.lessons.make(numbers, rng, torch_rng)) * weights).mean()
        take_step(self.optimizer, loss, plan.learning_rate * factor, MAX_GRAD_NORM)
        follow({"": self.average}, {"": self.transformer}, step, plan.ema_decay)
        return loss.item()

    def errors(self, transformer: ZImageTransformer2DModel, lesson: Lesson) -> Tensor:
        """Return the squared errors of the velocity, (B, 8, 16, 16)."""
        return (velocity(transformer, lesson.noisy, lesson.levels, lesson.context) - lesson.velocity).square()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Measure the averaged weights' error on the pictures held out, always at the same noise."""
        count = len(self.lessons.drawn.labels)
        numbers = np.arange(count - self.plan.held_out, count)
        rng, torch_rng = np.random.default_rng(self.plan.seed), torch.Generator().manual_seed(self.plan.seed)
        return self.errors(self.average, self.lessons.make(numbers, rng, torch_rng)).mean().item()

    def report(self, step: int, recent: list[float], seconds: float) -> None:
        """Print how far it is."""
        print(
            f"step {step}: loss {np.mean(recent):.4f}, held out {self.held_out_loss():.4f}, "
            f"{seconds / len(recent):.2f} s a step",
            flush=True,
        )


def checkpoint_file(work: Path) -> Path:
    """Return where the training at one learning rate is kept."""
    return work / "constant.safetensors"


@torch.no_grad()
def encoded(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> Tensor:
    """Encode pictures with the embedded VAE, (N, 8, 16, 16) float16, once: the work folder keeps the latents."""
    file = work / "latents.safetensors"
    if not file.exists():
        batches = (as_pixels(pictures[at : at + 10]).to(vae.device) for at in range(0, len(pictures), 10))
        latents = torch.cat([vae.encode(batch).latent_dist.mode().half() for batch in batches])
        save_tensors(file, {"latents": latents.cpu()})
    return load_file(file)["latents"]


def train(plan: TransformerPlan, work: Path, until: int = FOREVER, cooldown: int = 0, device: str = "cpu") -> None:
    """Train the transformer, with checkpoints and caches in the work folder."""
    work.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(MODEL_FOLDER).to(device)
    drawn = drawn_pictures(TrainingPlan(seed=plan.seed, pictures=plan.pictures), work)
    lessons = Lessons(pipeline, encoded(pipeline.vae, drawn.pictures, work), drawn, plan)
    TransformerTraining(lessons, plan).run(work, until, cooldown)


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a checkpoint, by diffusers' names."""
    tensors = load_file(checkpoint)
    return {name.removeprefix("average."): t for name, t in tensors.items() if name.startswith("average.")}


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights in half precision."""
    save_tensors(out, {name: tensor.half() for name, tensor in averaged(checkpoint).items()})


def targets() -> list[Target]:
    """List what is drawn to see what a model can do: each style with each class, an accessory and a place."""
    return [
        Target(
            style,
            class_word,
            scenes.ACCESSORIES[number % len(scenes.ACCESSORIES)],
            scenes.PLACES[number * 5 % len(scenes.PLACES)],
        )
        for number, (style, class_word) in enumerate(product(scenes.STYLES, scenes.CLASSES))
    ]


@torch.no_grad()
def sample(transformer: ZImageTransformer2DModel, noise: Tensor, null: Tensor, context: Tensor, scale: float) -> Tensor:
    """Sample latents from noise, (B, 8, 16, 16), by Euler's method. null: (1, 32, 128). scale: of the guidance."""
    x, contexts = noise, torch.cat([null.expand_as(context), context])
    for level, following in pairwise(shifted(torch.linspace(1, 0, DRAWING_STEPS + 1), SHIFT)):
        unconditional, conditional = velocity(
            transformer, torch.cat([x, x]), level.expand(len(contexts)), contexts
        ).chunk(2)
        x = x + (following - level) * unconditional.lerp(conditional, scale)
    return x


@torch.no_grad()
def draw(checkpoint: Path, out: Path, scales: list[float], count: int) -> None:
    """Draw the targets, write the first of `count` pictures of each, and print how many elements the judges find."""
    pipeline, evaluators, transformer = load_pipeline(MODEL_FOLDER), load_evaluators(), new_transformer()
    transformer.load_state_dict(averaged(checkpoint))
    wanted = targets()
    prompts = [target.prompt(f"a {target.class_word}") for target in wanted]
    null, context = encode_captions(pipeline, ["", *prompts]).split([1, len(prompts)])
    noise = torch.randn((count, len(prompts), *LATENT_SHAPE), generator=torch.Generator().manual_seed(0))
    sheets = []
    for scale in scales:
        latents = [sample(transformer, some, null, context, scale) for some in noise]
        pictures = torch.stack([pipeline.vae.decode(some).sample.clamp(-1, 1) for some in latents])
        print(f"guidance {scale}: {found(evaluators, pictures, wanted)}", flush=True)
        sheets.append(rearrange(pictures[0], "(y x) c h w -> (y h) (x w) c", x=len(scenes.CLASSES)))
    sheet = torch.cat(sheets).add(1).div(2)
    write_image(sheet.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1), out)


def found(evaluators: Evaluators, pictures: Tensor, wanted: list[Target]) -> str:
    """Say which share of the elements the judges find, by kind. pictures: (count, targets, 3, 64, 64) in -1..1."""
    shown = [evaluators.recognized(some, target) for some, target in zip(pictures.unbind(1), wanted, strict=True)]
    return ", ".join(f"{name} {torch.stack([s[name] for s in shown]).mean():.1%}" for name in shown[0])


def main() -> None:
    """Train, draw or export, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="go on from the last checkpoint")
    training.add_argument("--work", type=Path, required=True, help="folder of checkpoints and caches, some 1 GB")
    training.add_argument("--device", default="cpu", help="torch's name of the device to train on")
    training.add_argument("--batch", type=int, default=TransformerPlan.batch, help="pictures a step")
    training.add_argument("--until", type=int, default=FOREVER, help="the step that it ends before")
    training.add_argument("--cooldown", type=int, default=0, help="lower the learning rate to 0 in so many steps")
    drawing = commands.add_parser("draw", help="draw what prompts say, and judge it")
    drawing.add_argument("--guidance", type=float, nargs="+", default=[1.5, 2.0, 3.0], help="scales to draw at")
    drawing.add_argument("--pictures", type=int, default=2, help="pictures of each prompt")
    exporting = commands.add_parser("export", help="write the averaged weights in half precision")
    for command in (drawing, exporting):
        command.add_argument("--checkpoint", type=Path, required=True, help="of the training or of a cooldown")
        command.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    if arguments.command == "train":
        plan = TransformerPlan(batch=arguments.batch)
        train(plan, arguments.work, arguments.until, arguments.cooldown, arguments.device)
    elif arguments.command == "draw":
        draw(arguments.checkpoint, arguments.out, arguments.guidance, arguments.pictures)
    else:
        export(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
