"""Trainings for two subjects in one picture, on a UNet that draws two (devtools/toyworld/two_subjects.py).

Style and place are judged in the whole picture. Class and looks of each subject are judged in the square of the picture
in which it stands, made as large as a picture of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from devtools.toyworld.two_subjects import SIZE
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.personalization import Personalization
from palp_core.methods.personalization_config import PersonalizationConfig
from palp_core.methods.personalization_learner import Weights
from palp_core.methods.scores import Palp
from palp_core.models.backbone import LearnedWords
from palp_core.sweep.engine import Worker, in_process
from palp_core.toyworld import scenes
from palp_core.toyworld.evaluators import Evaluators, Target, diversity
from palp_core.toyworld.metrics import Figures, mean_and_error
from palp_core.toyworld.scenes import ClassWord, Individual, new_individual
from palp_core.toyworld.world import (
    GUIDANCE_SCALE,
    PAPERS_ALIGNMENT,
    RESOLUTION,
    ToyTraining,
    World,
    paint,
    references,
    subject,
)
from palp_core.training.loop import Training

from .attention import attention_share
from .methods import METHODS, described_alignment
from .pairs import INDIVIDUALS, PROMPTS, Pairs
from .rows import FOLDER, compute
from .training import SETTINGS, learner_of, timed
from .twin import twin_world, weights_digest

RESULTS = FOLDER / "toyworld_two.jsonl"
UNET = Path(__file__).with_name("unet_two.safetensors")
PLACEHOLDERS = ("[V1]", "[V2]")
MethodOfTwo = Literal["base", "ti_db", "delta", "palp", "palp_several"]
#: The paper's for several subjects has alpha at the scale of guidance, and beta 1.
PAPERS_FOR_SEVERAL = AlignmentConfig(PAPERS_ALIGNMENT.weight, Palp(alpha=GUIDANCE_SCALE, beta=1.0))
Who = tuple[ClassWord, int]


@dataclass(frozen=True)
class CellOfTwo:
    """Name one training. who: from left to right."""

    name: str
    pairs: Pairs
    who: tuple[Who, Who]
    style: scenes.Style
    place: scenes.Place
    seed: int
    method: AlignmentConfig | None
    unet: str
    training: ToyTraining = ToyTraining()
    #: At which it is judged, ascending.
    steps: tuple[int, ...] = (100, 200)
    samples: int = 16

    @property
    def description(self) -> dict:
        return {**asdict(self), "method": self.method and described_alignment(self.method)}

    @property
    def labels(self) -> dict:
        prompt = {"prompt": [self.style, None, self.place]}
        return {"method": self.name, "pairs": self.pairs, "individual": self.who, "seed": self.seed, **prompt}

    @property
    def individuals(self) -> list[Individual]:
        """Describe both."""
        return [new_individual(number, class_word) for class_word, number in self.who]

    @property
    def words(self) -> list[str]:
        """Name what stands for each in the prompt that is drawn."""
        return list(PLACEHOLDERS) if self.method else [class_word for class_word, _ in self.who]

    @property
    def prompt(self) -> str:
        """Write that prompt."""
        return scenes.caption(" and ".join(f"a {word}" for word in self.words), self.style, self.place, None)


@dataclass(frozen=True)
class Two:
    """Train on two subjects for one prompt, and judge what is missing."""

    methods: tuple[MethodOfTwo, ...] = ("base", "ti_db", "delta", "palp", "palp_several")
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0,)
    #: Only the first so many pairs of individuals; none for all.
    individuals: int | None = None
    steps: tuple[int, ...] = CellOfTwo.steps
    unet: Path = UNET
    results: Path = RESULTS

    def run(self) -> None:
        compute(self.cells(), in_process(self.worker), self.results)

    def worker(self) -> Worker[CellOfTwo]:
        """Load the world in which cells are measured."""
        world = twin_world(self.unet, "v_prediction")
        return lambda cell: measure(world, cell)

    def cells(self) -> Iterator[CellOfTwo]:
        """Name all that is asked for, whether it is there or not: each individual stands left of the next one."""
        people, prompts = INDIVIDUALS[self.pairs], PROMPTS[self.pairs]
        beside = list(zip(people, (*people[1:], people[0]), strict=True))[: self.individuals]
        for seed, (at, who), name in product(self.seeds, enumerate(beside), self.methods):
            style, _, place = prompts[at % len(prompts)]
            method = PAPERS_FOR_SEVERAL if name == "palp_several" else METHODS[name]
            shared = (style, place, seed, method, weights_digest(self.unet))
            yield CellOfTwo(name, self.pairs, who, *shared, steps=self.steps)


def measure(world: World, cell: CellOfTwo) -> list[dict]:
    """Judge the prompt's pictures at each step."""
    rows = []
    for step, words, seconds in trained(world, cell):
        pictures = paint(world, cell.prompt, words, cell.samples, cell.seed)
        shares = [attention_share(world, pictures, cell.prompt, word, words) for word in cell.words]
        figures = asdict(judge_two(world.evaluators, pictures, cell))
        rows.append({"step": step, "seconds": round(seconds, 2), **figures, "attention_share": sum(shares) / 2})
    return rows


def trained(world: World, cell: CellOfTwo) -> Iterator[tuple[int, LearnedWords, float]]:
    """Yield step, what the words are by then, and seconds, while the model is as the training has it by then."""
    if cell.method is None:
        yield 0, {}, 0.0
        return
    run = training_of_two(world, cell)
    for step, seconds in timed(run):
        if step.index + 1 in cell.steps:
            yield step.index + 1, learner_of(run).result().words, seconds


def training_of_two(world: World, cell: CellOfTwo) -> Training[Weights]:
    """Prepare a training that draws one of both subjects for each step."""
    training = cell.training
    config = PersonalizationConfig(
        steps=cell.steps[-1],
        learning_rate=training.learning_rate,
        embedding_learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        rank=training.rank,
        resolution=RESOLUTION,
        seed=cell.seed,
        alignment=cell.method,
        **SETTINGS,
    )
    subjects = [
        replace(subject(who, training.photos), placeholder=name, personalization_prompt=f"a photo of a {name}")
        for name, who in zip(PLACEHOLDERS, cell.individuals, strict=True)
    ]
    return Training(Personalization(world.backbone, subjects, cell.prompt, config))


@torch.no_grad()
def judge_two(evaluators: Evaluators, pictures: Tensor, cell: CellOfTwo) -> Figures:
    """Judge the pictures of one prompt, (B, 3, 64, 64) in -1..1: each of both classes is an element of its own.

    A prompt does not say who stands where: each picture counts the way round in which more of the classes are found,
    or, where as many are, the more alike.
    """
    seen = evaluators.recognized(pictures, Target(cell.style, cell.who[0][0], None, cell.place))
    parts = squares(pictures)
    ways = [seen_in(evaluators, shown, cell.individuals) for shown in (parts, parts[::-1])]
    classes, likeness = (torch.stack(found) for found in zip(*ways, strict=True))  # (2, B) each
    better = (classes + 0.1 * likeness).argmax(dim=0, keepdim=True)
    classes, likeness = (found.gather(0, better)[0] for found in (classes, likeness))
    elements = {"style": seen["style"], "class_word": classes, "place": seen["place"]}
    return Figures(
        *mean_and_error(torch.stack([seen["style"], classes, classes, seen["place"]]).mean(dim=0)),
        *mean_and_error(likeness),
        diversity=diversity(pictures),
        elements={name: float(found.mean()) for name, found in elements.items()},
    )


def seen_in(evaluators: Evaluators, parts: list[Tensor], people: list[Individual]) -> tuple[Tensor, Tensor]:
    """Look for each in a part of its own; returns the share of classes found, and the mean likeness, (B,) each."""
    classes, likeness = [], []
    for shown, who in zip(parts, people, strict=True):
        classes.append(evaluators.recognized(shown, Target(None, who.class_word, None, None))["class_word"])
        likeness.append(evaluators.subject_alignment(shown, references(who)))
    return torch.stack(classes).mean(dim=0), torch.stack(likeness).mean(dim=0)


def squares(pictures: Tensor) -> list[Tensor]:
    """Cut out where the left subject stands and where the right one does, each (B, 3, 64, 64)."""
    side = pictures.shape[-1]
    kept = round(SIZE * side)
    lower = pictures[..., side - kept :, :]
    parts = lower[..., :kept], lower[..., side - kept :]
    return [F.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(-1, 1) for part in parts]
