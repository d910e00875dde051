"""Pictures of trained models with more and less of their LoRA, and with the base model for the empty prompt.

With E_s the model with s times the LoRA, E_0 the base model, a the scale of guidance, and t the share of the noise
schedule that is left, 1 where it is all noise:

    E = E_n(null) + a*(E_s(y) - E_n(null))        s = early*t + late*(1 - t),  n = 0 or s
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from palp_core.methods.personalization_learner import PersonalizationLearner
from palp_core.models.backbone import Conditioning
from palp_core.models.lora import ADAPTER
from palp_core.models.sampling import sample, sampling_levels
from palp_core.sweep.engine import Worker, in_process
from palp_core.toyworld import world as toyworld
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.scenes import ClassWord, new_individual
from palp_core.toyworld.world import ToyTraining, World, as_pictures, initial_noise, load_world, references
from palp_core.training.loop import closing

from .attention import attention_share
from .methods import METHODS, described_alignment, reads_prompt
from .pairs import INDIVIDUALS, Pairs, Prompt, prompts_of_trainings, target
from .rows import FOLDER, compute
from .training import TrainingCell, lora_training

Model = Literal["ti_db", "delta"]


@dataclass(frozen=True)
class Way:
    """How a trained model is drawn."""

    #: The LoRA's strength where the schedule starts, and where it ends.
    early: float
    late: float
    #: Whether the base model predicts for the empty prompt.
    base_null: bool = False


#: The first is as samplers do it by themselves. Those of one strength are as any loader of LoRA files does it.
WAYS: dict[str, Way] = {
    "as trained": Way(1.0, 1.0),
    "strength 0.8": Way(0.8, 0.8),
    "strength 0.6": Way(0.6, 0.6),
    "strength 0.5": Way(0.5, 0.5),
    "strength 0.4": Way(0.4, 0.4),
    "0.5, base": Way(0.5, 0.5, base_null=True),
    "0.4, base": Way(0.4, 0.4, base_null=True),
    "0.7 to 0.3": Way(0.7, 0.3),
    "0.7 to 0.3, base": Way(0.7, 0.3, base_null=True),
}
RESULTS = FOLDER / "toyworld_balance.jsonl"
SAMPLES = 8


@dataclass(frozen=True)
class BalanceCell:
    """Name one training, and the ways in which pictures of it are drawn."""

    model: Model
    pairs: Pairs
    class_word: ClassWord
    individual: int
    seed: int
    steps: int
    prompts: tuple[Prompt, ...]
    ways: dict[str, Way]
    samples: int = SAMPLES

    @property
    def training(self) -> TrainingCell:
        """Name the training, of which plain training serves all prompts."""
        who = (self.pairs, self.class_word, self.individual, self.seed, self.prompts)
        return TrainingCell(self.model, *who, METHODS[self.model], ToyTraining(), steps=(self.steps,))

    @property
    def description(self) -> dict:
        trained = {"alignment": described_alignment(METHODS[self.model]), "training": asdict(ToyTraining())}
        return {**asdict(self), **trained}

    @property
    def labels(self) -> dict:
        who = [self.class_word, self.individual]
        return {"pairs": self.pairs, "individual": who, "seed": self.seed, "step": self.steps}


@dataclass(frozen=True)
class Balance:
    """Draw trained models in several ways, with the same seeds, and judge what is missing."""

    models: tuple[Model, ...] = ("ti_db", "delta")
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0,)
    steps: int = 200
    #: Only the first so many individuals; none for all.
    individuals: int | None = None
    #: Only the first so many prompts of each individual; none for all.
    prompts: int | None = None
    #: Of those that are known; all by default.
    ways: tuple[str, ...] = tuple(WAYS)
    results: Path = RESULTS

    def run(self) -> None:
        if unknown := set(self.ways) - set(WAYS):
            raise ValueError(f"there is no way {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}.")
        compute(self.cells(), in_process(self.worker), self.results)

    def worker(self) -> Worker[BalanceCell]:
        """Load the world in which cells are measured."""
        world = load_world()
        return lambda cell: measure(world, cell)

    def cells(self) -> Iterator[BalanceCell]:
        """Name all that is asked for, whether it is there or not."""
        ways = {name: WAYS[name] for name in self.ways}
        people = INDIVIDUALS[self.pairs][: self.individuals]
        for seed, (class_word, number), model in product(self.seeds, people, self.models):
            for some in prompts_of_trainings(self.pairs, reads_prompt(METHODS[model]))[: self.prompts]:
                prompts = some[: self.prompts]
                yield BalanceCell(model, self.pairs, class_word, number, seed, self.steps, prompts, ways)


def measure(world: World, cell: BalanceCell) -> list[dict]:
    """Train, and judge each prompt in each way."""
    who = new_individual(cell.individual, cell.class_word)
    run, found = lora_training(world, cell.training, who), []
    with closing(run.steps()) as steps:
        for _ in islice(steps, cell.steps):  # not to the end, at which the model is put back
            pass
        for prompt, (name, way) in product(cell.prompts, cell.ways.items()):
            wanted = target(cell.class_word, prompt)
            text, words = wanted.prompt("a [V]"), run.learner.result().words
            pictures = drawn(world, run.learner, cell, text, way)
            figures = asdict(judge(world.evaluators, pictures, wanted, references(who)))
            share = attention_share(world, pictures, text, "[V]", words)
            found.append({"method": f"{cell.model}, {name}", "prompt": prompt, **figures, "attention_share": share})
    return found


@torch.no_grad()
def drawn(world: World, learner: PersonalizationLearner, cell: BalanceCell, prompt: str, way: Way) -> Tensor:
    """Draw (samples, 3, 64, 64) in -1..1, from the noise that every way begins with."""
    backbone, encode = world.backbone, world.backbone.encode_prompt
    null, cond = encode("", {}), encode(prompt, learner.result().words)
    levels = sampling_levels(backbone.levels, toyworld.SAMPLING_STEPS)
    noise = initial_noise(cell.samples, cell.seed)
    latents = sample(Balanced(learner, way), noise, levels, null, cond, world.guidance_scale)
    return as_pictures(backbone.decode_latents(latents))


class Balanced:
    """A model in training in the place of a backbone, for a sampler that asks for null and target prompt at once."""

    def __init__(self, learner: PersonalizationLearner, way: Way):
        self.learner, self.way, self.backbone = learner, way, learner.backbone
        self.device = self.backbone.device

    def denoise(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        """Return D for the null and for the target prompt, (2*B, ...)."""
        share = self.backbone.levels.nearest(sigma[:1]).item() / len(self.backbone.levels)
        strength = self.way.early * share + self.way.late * (1 - share)
        with at_strength(self.learner, strength):
            if not self.way.base_null:
                return self.backbone.denoise(x, sigma, conds)
            own = self.backbone.denoise(x.chunk(2)[1], sigma.chunk(2)[1], conds[1:])
        with self.learner.lora.disabled():
            return torch.cat([self.backbone.denoise(x.chunk(2)[0], sigma.chunk(2)[0], conds[:1]), own])


@contextmanager
def at_strength(learner: PersonalizationLearner, strength: float) -> Iterator[None]:
    """Let the model have so many times the LoRA."""
    layers = [layer for parts in learner.lora.layers.values() for layer in parts]
    usual = [layer.scaling[ADAPTER] for layer in layers]
    try:
        for layer, scale in zip(layers, usual, strict=True):
            layer.scaling[ADAPTER] = strength * scale
        yield
    finally:
        for layer, scale in zip(layers, usual, strict=True):
            layer.scaling[ADAPTER] = scale
