"""Teaches the embedded UNet to draw two subjects: `python -m devtools.toyworld.two_subjects --work FOLDER --out FILE`.

The other shares text encoder, VAE and noise levels with it, and begins from its weights. It learns from scenes of two,
side by side, "a sketch of a cat and a mug in the snow", and what the embedded one says of scenes of one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER, scenes
from palp_core.toyworld.drawing import placed
from palp_core.toyworld.drawing.places import place_shapes
from palp_core.toyworld.drawing.shapes import Shape, role_mask
from palp_core.toyworld.drawing.styles import STYLES
from palp_core.toyworld.drawing.subjects import SUBJECTS
from palp_core.toyworld.scenes import Individual, Place, Style, random_individual

from .captions import encode_captions, joined, random_captions, random_subject
from .eps_twin import export
from .pictures import chosen, latent_mask
from .plan import Stage, TrainingPlan
from .steps import MAX_GRAD_NORM, learning_rate_factor, load_checkpoint, save_checkpoint, step_generators, take_step
from .training import drawn_pictures, save_arrays
from .transformer import encoded
from .unet import denoising_loss, follow, noised

STAGE = 50  # of its random numbers, apart from all of the others
SAVE_EVERY = 100  # steps
#: Each is so large beside one alone in its picture, and fits into a square of so much of the picture's side.
SIZE = 0.6


@dataclass(frozen=True)
class SceneOfTwo:
    """Say what to draw. who: from left to right. jitter: seed of what nothing names."""

    who: tuple[Individual, Individual]
    style: Style
    place: Place
    jitter: int = 0


def render_two(scene: SceneOfTwo) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene; (64, 64, 3) uint8, and how much of each pixel shows a subject, (64, 64) in 0..1."""
    rng = np.random.default_rng(scene.jitter)
    shapes = [*place_shapes(scene.place, rng), *_subjects(scene, rng)]
    return STYLES[scene.style](shapes, rng).astype(np.uint8), role_mask(shapes, "subject")


def _subjects(scene: SceneOfTwo, rng: np.random.Generator) -> Iterator[Shape]:
    for number, who in enumerate(scene.who):
        zoom = SIZE * rng.uniform(0.94, 1.06)
        size = (0.345 * who.width * zoom, 0.355 * who.height * zoom)
        middle = 0.48 * SIZE + number * (1 - SIZE)
        centre = (middle + rng.uniform(-0.02, 0.02), 0.94 - size[1] + rng.uniform(-0.02, 0.02))
        body, _ = SUBJECTS[who.class_word](who)
        yield from (placed(shape, centre, size) for shape in body)


@dataclass(frozen=True)
class Pairs:
    """Holds pictures of two, and what each of them shows.

    pictures: (N, 64, 64, 3) uint8. labels: (N, 4), the numbers of style, the left class, the right one, and place.
    looks: (N, 2, 3), those of both subjects. subject: (N, 16, 16) uint8, how much of each latent pixel they cover.
    """

    pictures: np.ndarray
    labels: np.ndarray
    looks: np.ndarray
    subject: np.ndarray


def draw_pairs(count: int, seed: int) -> Pairs:
    """Draw scenes of two different classes by chance."""
    rng = np.random.default_rng((seed, STAGE))
    drawn, labels, looks = [], [], []
    for jitter in range(count):
        style, place = rng.integers(len(scenes.STYLES)), rng.integers(len(scenes.PLACES))
        classes = rng.choice(len(scenes.CLASSES), size=2, replace=False)
        who = tuple(random_individual(rng, scenes.CLASSES[number]) for number in classes)
        drawn.append(render_two(SceneOfTwo(who, scenes.STYLES[style], scenes.PLACES[place], jitter)))
        labels.append((style, *classes, place))
        looks.append([(*map(scenes.PALETTE.index, (w.main, w.second)), scenes.PATTERNS.index(w.pattern)) for w in who])
    masks = np.stack([latent_mask(mask) for _, mask in drawn])
    return Pairs(np.stack([pixels for pixels, _ in drawn]), np.array(labels), np.array(looks), masks)


def pair_captions(pairs: Pairs, stage: Stage, rng: np.random.Generator) -> list[str]:
    """Name both subjects, most styles and places; looks of one may be joined in one token. One of ten is empty."""
    captions = []
    for (style, *classes, place), looks in zip(pairs.labels, pairs.looks, strict=True):
        apart = Stage(0, 0.0, 0, 0.0, looks=stage.looks)
        subjects = [random_subject(*one, apart, rng) for one in zip(classes, looks, strict=True)]
        if rng.random() < stage.joined:
            one = rng.integers(2)
            subjects[one] = joined(subjects[one])
        named = rng.random(3) < (0.9, 0.9, 0.9)
        caption = scenes.caption(
            " and ".join(f"a {subject}" for subject in subjects),
            scenes.STYLES[style] if named[0] else None,
            scenes.PLACES[place] if named[1] else None,
            None,
        )
        captions.append(caption if named[2] else "")
    return captions


@dataclass(frozen=True)
class TwoPlan:
    """Holds all numbers of the training; the defaults are those of the model that is measured."""

    seed: int = 0
    pictures: int = 6_000
    pairs: int = 6_000
    steps: int = 1_600
    #: Of each batch, scenes of two, and of one.
    batch: tuple[int, int] = (12, 4)
    learning_rate: float = 6e-4
    warmup: int = 100
    #: Share of the steps, at the end, in which the learning rate falls to 0.
    cooldown: float = 0.5
    ema_decay: float = 0.998
    subject_weight: float = 4.0
    weight_limit: float = TrainingPlan.weight_limit
    #: What the captions say.
    captions: Stage = Stage(0, 0.0, 0, 0.0, looks=(0.4, 0.6, 0.4), joined=0.4, words_only=0.3)


class TwoTraining:
    """Trains the UNet of a pipeline; the teacher has the embedded one. work: caches and checkpoints."""

    def __init__(self, plan: TwoPlan, work: Path):
        self.plan, self.work = plan, work
        self.teacher, self.pipeline, self.average = (load_pipeline(MODEL_FOLDER) for _ in range(3))
        self.singles = drawn_pictures(TrainingPlan(seed=plan.seed, pictures=plan.pictures), work)
        self.single_latents = encoded(self.teacher.vae, self.singles.pictures, work)
        (work / "pairs").mkdir(exist_ok=True)
        self.pairs = drawn_pairs(plan, work)
        self.pair_latents = encoded(self.teacher.vae, self.pairs.pictures, work / "pairs")
        self.kept = {"unet": self.pipeline.unet, "average": self.average.unet}
        parameters = self.pipeline.unet.parameters()
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def run(self) -> None:
        """Go on from the last checkpoint to the end."""
        plan, file = self.plan, self.work / "two.safetensors"
        start, recent = load_checkpoint(file, self.kept, self.optimizer), []
        for step, rng, torch_rng in step_generators(plan.seed, STAGE, range(start, plan.steps)):
            factor = learning_rate_factor(step, plan.steps, plan.warmup, plan.cooldown)
            loss = self.loss(factor, rng, torch_rng)
            take_step(self.optimizer, loss, plan.learning_rate * factor, MAX_GRAD_NORM)
            follow({"": self.average.unet}, {"": self.pipeline.unet}, step, plan.ema_decay)
            recent.append(loss.item())
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
                save_checkpoint(file, step + 1, self.kept, self.optimizer)
                print(f"step {step + 1}: loss {np.mean(recent):.5f}", flush=True)
                recent.clear()

    def loss(self, share: float, rng: np.random.Generator, torch_rng: torch.Generator) -> Tensor:
        """Measure the error on scenes of two, and how far scenes of one are told otherwise than by the teacher.

        share: 1 for the plan's weight of subjects, 0 for an equal one.
        """
        two, one = (rng.integers(n, size=b) for n, b in zip(self._counts(), self.plan.batch, strict=True))
        shown = Pairs(**{field.name: getattr(self.pairs, field.name)[two] for field in fields(Pairs)})
        latents = torch.cat([self.pair_latents[torch.from_numpy(two)], self.single_latents[torch.from_numpy(one)]])
        batch = noised(self.teacher, latents.float(), 0.0, torch_rng)
        context = torch.cat(
            [
                self._read(pair_captions(shown, self.plan.captions, rng)),
                self._read(random_captions(chosen(self.singles, one), self.plan.captions, rng)),
            ]
        )
        taught = slice(len(two), None)
        with torch.no_grad():
            told = self.teacher.unet(batch.latents[taught], batch.timesteps[taught], context[taught]).sample
        batch = batch._replace(velocity=torch.cat([batch.velocity[: len(two)], told]))
        more = share * (self.plan.subject_weight - 1) * shown.subject / 255
        weights = torch.ones(len(latents), 1, *latents.shape[2:])
        weights[: len(two), 0] += torch.from_numpy(more).float()
        return denoising_loss(self.pipeline, batch, context, weights / weights.mean(), self.plan.weight_limit)

    def _counts(self) -> tuple[int, int]:
        return len(self.pair_latents), len(self.single_latents)

    @torch.no_grad()
    def _read(self, captions: list[str]) -> Tensor:
        return encode_captions(self.teacher, captions, round(self.plan.captions.words_only * len(captions)))


def drawn_pairs(plan: TwoPlan, work: Path) -> Pairs:
    """Draw the plan's scenes of two, once: the work folder keeps them."""
    file = work / "pairs.npz"
    if not file.exists():
        save_arrays(file, **asdict(draw_pairs(plan.pairs, plan.seed)))
    with np.load(file) as arrays:
        return Pairs(**arrays)


def main() -> None:
    """Train with the default plan, in the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and caches, some 400 MB")
    parser.add_argument("--out", type=Path, required=True, help="file of the finished UNet")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    TwoTraining(TwoPlan(), arguments.work).run()
    export(arguments.work / "two.safetensors", arguments.out)


if __name__ == "__main__":
    main()
