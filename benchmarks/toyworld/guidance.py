"""Pick-and-Draw guidance of the base model and of personalized ones: the ablation of arXiv 2401.16762, sec. 4."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product

from torch import Tensor

from palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from palp_core.models.attention import PromptedDenoiser, prompted
from palp_core.models.backbone import LearnedWords
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import ClassWord, Individual, new_individual
from palp_core.toyworld.world import ToyTraining, World, paint, personalization, references

from .attention import attention_share
from .methods import TRAININGS, Model, described_alignment
from .pairs import Pairs, Prompt, target

#: Makes a context in which the model is the base model.
BaseModel = Callable[[], AbstractContextManager]

SAMPLES = 8


@dataclass(frozen=True)
class GuidedCell:
    """Name one model of one individual: the base model, or a trained one.

    Plain training serves all prompts of an individual.
    """

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
    """Judge each part of the guidance for each prompt, at the end of the training if there is one."""
    individual = new_individual(cell.individual, cell.class_word)
    if cell.model == "base":
        return rows(world, cell, individual, cell.class_word, {}, nullcontext)
    prompt = target(cell.class_word, cell.prompts[0]).prompt("a [V]")
    alignment, _ = TRAININGS[cell.model]
    run = personalization(world, individual, prompt, cell.steps, cell.seed, alignment)
    found = []
    for step in run.steps():
        if step.index + 1 == cell.steps:
            found = rows(world, cell, individual, "[V]", run.learner.result().words, run.learner.lora.disabled)
    return found


def rows(
    world: World, cell: GuidedCell, individual: Individual, word: str, words: LearnedWords, base_model: BaseModel
) -> list[dict]:
    """Draw with each part of the guidance, for each prompt, and judge."""
    found = []
    for prompt, (part, config) in product(cell.prompts, cell.parts.items()):
        wanted = target(cell.class_word, prompt)
        text = wanted.prompt(f"a {word}")
        class_prompt = prompted(world.backbone, wanted.prompt(f"a {cell.class_word}"), cell.class_word)
        guidance = PickAndDraw(
            generation=prompted(world.backbone, text, word, words),
            reference=prompted(world.backbone, f"a photo of a {word}", word, words),
            template=of_base_model(base_model, class_prompt),
            latents=world.backbone.encode_image(photos(individual, 1)[0]),
            levels=world.backbone.levels,
            config=config,
        )
        pictures = paint(world, text, words, SAMPLES, cell.seed, guidance)
        figures = asdict(judge(world.evaluators, pictures, wanted, references(individual)))
        share = attention_share(world, pictures, text, word, words)
        found.append({"method": f"{cell.model}, {part}", "prompt": prompt, **figures, "attention_share": share})
    return found


def of_base_model(base_model: BaseModel, denoiser: PromptedDenoiser) -> PromptedDenoiser:
    """Take the denoiser of the model before training."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with base_model():
            return denoiser.denoise(x, sigma)

    return denoiser._replace(denoise=denoise)
