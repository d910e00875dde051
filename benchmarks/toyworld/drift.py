"""How far a training moves what the model says for the empty prompt, which classifier-free guidance multiplies.

Pictures are drawn at E^a(y) = E(null) + a*(E(y) - E(null)), of which a training changes (1 - a) times what it changes
of E(null), and a times what it changes of E(y).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from palp_core.methods.personalization_learner import PersonalizationLearner
from palp_core.models.backbone import Conditioning, predict_noise
from palp_core.models.noise import per_sample
from palp_core.models.sampling import sample, sampling_levels
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import SAMPLING_STEPS, ToyTraining, World, initial_noise
from palp_core.training.loop import closing

from .methods import METHODS, Method, is_curve
from .pairs import INDIVIDUALS, PROMPTS, Pairs, target
from .run import settings_of
from .scores import LEVELS
from .statistics import mean_of_independent
from .training import TrainingCell, learner_of, lora_training
from .twin import world_of

#: What moves, by the prompt: empty, with the class word, and with what was learned.
PROMPT_NAMES = ("null", "clean", "target")


@dataclass(frozen=True)
class Drift:
    """Print how far E(null) and E(clean prompt) moved in a training, as shares of what E(target prompt) moved.

    At the noise levels of `scores`, on pictures of the base model, each individual with one prompt. The last column is
    the part of a guided prediction's change that the empty prompt has, as a share of what the target prompt has.
    """

    methods: tuple[Method, ...] = ("ti_db", "delta", "delta_null_prior", "palp")
    pairs: Pairs = "tuning"
    #: Only the first so many individuals.
    individuals: int = 2
    steps: int = 200
    seed: int = 0
    #: Other settings of the trainings, such as ema_decay=0.98.
    set: tuple[str, ...] = ()
    #: Weights of a UNet that predicts noise, in the place of the embedded one's.
    unet: Path | None = None
    #: Scale of guidance at which pictures are drawn; none for the world's own.
    guidance: float | None = None
    #: Pictures on which predictions are compared.
    pictures: int = 8

    def run(self) -> None:
        if without := [name for name in self.methods if not is_curve(METHODS[name])]:
            raise ValueError(f"{' and '.join(without)}: no LoRA is trained, so that nothing drifts.")
        world = world_of(self.unet, self.guidance)
        print("| method | level | E(null) | E(clean) | in the guided prediction |")
        print("|---" * 5 + "|")
        for name in self.methods:
            moved = torch.stack([drift(world, cell) for cell in self.cells(name)])  # (individuals, levels, prompts)
            for line in lines(moved, world.guidance_scale):
                print(f"| {name} | {line} |")

    def cells(self, name: Method) -> Iterator[TrainingCell]:
        """Name the trainings of a method."""
        prompts = PROMPTS[self.pairs]
        for at, (class_word, number) in enumerate(INDIVIDUALS[self.pairs][: self.individuals]):
            shared = {"samples": self.pictures, "steps": (self.steps,), "settings": settings_of(self.set)}
            who = (self.pairs, class_word, number, self.seed, (prompts[at % len(prompts)],))
            yield TrainingCell(name, *who, METHODS[name], ToyTraining(), **shared)


def lines(moved: Tensor, scale: float) -> Iterator[str]:
    """Write a line for each noise level. moved: (individuals, levels, prompts). scale: of guidance."""
    for level, (null, clean, subject) in zip(LEVELS, moved.permute(1, 2, 0), strict=True):
        shares = (null / subject, clean / subject, (scale - 1) * null / (scale * subject))
        yield " | ".join([f"{level:.0%}", *(mean_of_independent(share.tolist()) for share in shares)])


def drift(world: World, cell: TrainingCell) -> Tensor:
    """Train, and measure how far each prediction is from the base model's: root mean square, (levels, prompts).

    That of the target prompt is compared with the base model's for the clean prompt.
    """
    run = lora_training(world, cell, new_individual(cell.individual, cell.class_word))
    pictures = base_pictures(world, cell)
    with closing(run.steps()) as steps:
        for _ in islice(steps, cell.steps[-1]):  # not to the end, at which the model is put back
            pass
        return distances(world, learner_of(run), pictures)


def base_pictures(world: World, cell: TrainingCell) -> Tensor:
    """Draw latents of the clean prompt, (B, C, H, W), with a model that nothing was trained on."""
    encode, (prompt,) = world.backbone.encode_prompt, cell.prompts
    with torch.no_grad():
        null, clean = encode("", {}), encode(target(cell.class_word, prompt).prompt(f"a {cell.class_word}"), {})
    levels = sampling_levels(world.backbone.levels, SAMPLING_STEPS)
    return sample(world.backbone, initial_noise(cell.samples, cell.seed), levels, null, clean, world.guidance_scale)


@torch.no_grad()
def distances(world: World, learner: PersonalizationLearner, x0: Tensor) -> Tensor:
    """Compare the trained model with the base model on noisy pictures, (levels, prompts)."""
    method = learner.method
    null, clean = learner.fixed.null, learner.fixed.scene
    trained = {"null": null, "clean": clean, "target": method.encode(method.target_prompt, learner.result().words)}
    found = []
    for level in LEVELS:
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(round(100 * level))).to(x0)
        sigma = world.backbone.levels.at(level).expand(len(x0))
        x = x0 + per_sample(sigma, x0) * noise
        ours = predictions(world, x, sigma, [trained[name] for name in PROMPT_NAMES])
        with learner.lora.disabled():
            theirs = predictions(world, x, sigma, [null, clean, clean])
        found.append((ours - theirs).square().flatten(1).mean(dim=1).sqrt())
    return torch.stack(found)


def predictions(world: World, x: Tensor, sigma: Tensor, prompts: list[Conditioning]) -> Tensor:
    """Predict the noise for each prompt, (prompts, B, C, H, W)."""
    return torch.stack(predict_noise(world.backbone.denoise, x, sigma, [[prompt] for prompt in prompts]))
