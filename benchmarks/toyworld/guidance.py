"""Pick-and-Draw guidance of the untouched model and of personalized ones: the ablation of arXiv 2401.16762, sec. 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from torch import Tensor

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from palp_core.models.attention import PromptedDenoiser, prompted
from palp_core.models.backbone import LearnedWords
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import ClassWord, Individual, new_individual
from palp_core.toyworld.world import (
    PAPERS_ALIGNMENT,
    ToyTraining,
    World,
    load_world,
    paint,
    personalization,
    references,
)

from .attention import attention_share
from .pairs import INDIVIDUALS, Pairs, Prompt, prompts_of_trainings, target
from .results import FOLDER, compute, require_label
from .training import described_alignment

Model = Literal["vanilla", "palp", "over-fitted"]
#: What a model was trained with, and for how many steps: the prompt kept alive and likeness left to win, or plain
#: training for so long that it forgets.
TRAININGS: dict[Model, tuple[AlignmentConfig, int]] = {
    "palp": (PAPERS_ALIGNMENT, 50),
    "over-fitted": (AlignmentConfig(weight=0.0), 200),
}
Part = Literal["unguided", "pick", "draw", "pick and draw"]
#: Makes a context in which the model is as it was before training.
Untouched = Callable[[], AbstractContextManager]

SAMPLES = 8
PARTS: dict[Part, PickAndDrawConfig] = {
    "unguided": PickAndDrawConfig(pick_weight=0, draw_weight=0),
    "pick": PickAndDrawConfig(draw_weight=0),
    "draw": PickAndDrawConfig(pick_weight=0),
    "pick and draw": PickAndDrawConfig(),
}


@dataclass(frozen=True)
class GuidedCell:
    """One model of one individual: untouched, or trained. Plain training serves all prompts of an individual."""

    model: Model
    pairs: Pairs
    class_word: ClassWord
    individual: int
    seed: int
    steps: int
    prompts: tuple[Prompt, ...]
    parts: dict[str, PickAndDrawConfig]

    @property
    def description(self) -> dict:
        described = {**asdict(self), "training": asdict(ToyTraining()), "samples": SAMPLES}
        if self.model in TRAININGS:
            described["alignment"] = described_alignment(TRAININGS[self.model][0])
        return described

    @property
    def labels(self) -> dict:
        who = [self.class_word, self.individual]
        return {"pairs": self.pairs, "individual": who, "seed": self.seed, "step": self.steps}


def measure(world: World, cell: GuidedCell) -> list[dict]:
    individual = new_individual(cell.individual, cell.class_word)
    if cell.model == "vanilla":
        return rows(world, cell, individual, cell.class_word, {}, nullcontext)
    prompt = target(cell.class_word, cell.prompts[0]).prompt("a [V]")
    alignment, _ = TRAININGS[cell.model]
    run = personalization(world, individual, prompt, cell.steps, cell.seed, alignment)
    found = []
    for step in run.steps():
        if step.index + 1 == cell.steps:
            found = rows(world, cell, individual, "[V]", run.learner.result().words, run.untouched)
    return found


def rows(
    world: World, cell: GuidedCell, individual: Individual, word: str, words: LearnedWords, untouched: Untouched
) -> list[dict]:
    found = []
    for prompt, (part, config) in product(cell.prompts, cell.parts.items()):
        wanted = target(cell.class_word, prompt)
        text = wanted.prompt(f"a {word}")
        guidance = PickAndDraw(
            generation=prompted(world.backbone, text, word, words),
            reference=prompted(world.backbone, f"a photo of a {word}", word, words),
            template=without(
                untouched, prompted(world.backbone, wanted.prompt(f"a {cell.class_word}"), cell.class_word)
            ),
            latents=world.backbone.encode_image(photos(individual, 1)[0]),
            sigmas=world.backbone.levels.sigmas,
            config=config,
        )
        pictures = paint(world, text, words, SAMPLES, cell.seed, guidance)
        figures = asdict(judge(world.evaluators, pictures, wanted, references(individual)))
        share = attention_share(world, pictures, text, word, words)
        method = f"{cell.model}, {part}"
        found.append({"method": method, "prompt": prompt, **figures, "attention_share": share})
    return found


def without(untouched: Untouched, denoiser: PromptedDenoiser) -> PromptedDenoiser:
    """The denoiser of the model before training."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with untouched():
            return denoiser.denoise(x, sigma)

    return denoiser._replace(denoise=denoise)


@dataclass(frozen=True)
class Guide:
    """Draw with and without guidance, with the same seeds, and judge what is missing."""

    models: tuple[Model, ...] = ("vanilla", *TRAININGS)
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0,)
    parts: tuple[Part, ...] = tuple(PARTS)
    #: Added to the methods' names, where settings below are not the usual.
    label: str = ""
    #: Other settings of the guidance; none for the usual.
    step_size: float | None = None
    threshold: float | None = None
    end_percent: float | None = None
    results: Path = FOLDER / "toyworld_guidance.jsonl"

    def run(self) -> None:
        require_label(self.label, changed=bool(self._changes()))
        world = load_world()
        compute(self._cells(), lambda cell: measure(world, cell), self.results)

    def _changes(self) -> dict:
        names = ("step_size", "threshold", "end_percent")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _cells(self) -> Iterator[GuidedCell]:
        for seed, (class_word, number), model in product(self.seeds, INDIVIDUALS[self.pairs], self.models):
            _, steps = TRAININGS.get(model, (None, 0))
            for prompts in prompts_of_trainings(self.pairs, reads_prompt=model == "palp"):
                yield GuidedCell(model, self.pairs, class_word, number, seed, steps, prompts, self._parts(model))

    def _parts(self, model: Model) -> dict[str, PickAndDrawConfig]:
        """The untouched model is its own template: there is no layout for it to be drawn to."""
        able = [part for part in self.parts if model != "vanilla" or not PARTS[part].draw_weight]
        return {f"{part}{self.label}": replace(PARTS[part], **self._changes()) for part in able}
