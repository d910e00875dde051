"""Personalization at several steps of its training, because a baseline that is stopped early is a strong one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.concept import Concept
from palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from palp_core.models.backbone import LearnedWords
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import ClassWord, Individual, new_individual
from palp_core.toyworld.world import (
    ALIGNMENT,
    PAPERS_ALIGNMENT,
    RESOLUTION,
    ToyTraining,
    World,
    load_world,
    paint,
    personalization,
    references,
)
from palp_core.training.loop import Training

from .attention import attention_share
from .pairs import INDIVIDUALS, PHOTO, Pairs, Prompt, prompts_of_trainings, target
from .results import RESULTS, compute, require_label

STEPS = (50, 100, 150, 200, 300)
SAMPLES = 16


@dataclass(frozen=True)
class Word:
    """Textual inversion alone, judged at its end: a curve takes a training of each length (`--word-steps`)."""

    steps: int = 400
    vectors: int = 1
    hold_norm: bool = True
    learning_rate: float = 5e-3  # 1e-2 copies no closer on the tuning pairs, and sometimes loses the class
    photos: int = 4  # the paper's 3 to 5


TrainedWord = Literal["ti", "ti_8_vectors", "ti_free_norm", "ti_8_free_norm"]
TrainedLora = Literal["ti_db", "delta", "palp", "sds", "nfsd", "fresh_noise", "no_rescale"]
Method = Literal["base", TrainedWord, TrainedLora]
#: What is trained; None for nothing.
METHODS: dict[Method, AlignmentConfig | Word | None] = {
    "base": None,
    "ti": Word(),
    "ti_8_vectors": Word(vectors=8),
    "ti_free_norm": Word(hold_norm=False),
    "ti_8_free_norm": Word(vectors=8, hold_norm=False),
    "ti_db": AlignmentConfig(weight=0.0),
    "delta": ALIGNMENT,
    "palp": PAPERS_ALIGNMENT,
    "sds": replace(PAPERS_ALIGNMENT, score="sds"),
    "nfsd": replace(PAPERS_ALIGNMENT, score="nfsd", negative_prompt=""),  # this world has no words for what is ugly
    "fresh_noise": replace(PAPERS_ALIGNMENT, noise="fresh"),
    "no_rescale": replace(PAPERS_ALIGNMENT, rescale=False),
}


def reads_prompt(method: AlignmentConfig | Word | None) -> bool:
    return isinstance(method, AlignmentConfig) and method.weight > 0


def described_alignment(config: AlignmentConfig) -> dict:
    """All of it that has an effect."""
    return asdict(config) if config.weight else {"weight": 0}


@dataclass(frozen=True)
class TrainingCell:
    """One training. What does not read the prompt serves all prompts of an individual."""

    name: str
    pairs: Pairs
    class_word: ClassWord
    individual: int
    seed: int
    prompts: tuple[Prompt, ...]
    method: AlignmentConfig | Word | None
    training: ToyTraining

    @property
    def description(self) -> dict:
        described = {**asdict(self), "kind": type(self.method).__name__, "samples": SAMPLES}
        if isinstance(self.method, AlignmentConfig):
            described |= {"steps": STEPS, "method": described_alignment(self.method)}
        return described

    @property
    def labels(self) -> dict:
        who = [self.class_word, self.individual]
        return {"method": self.name, "pairs": self.pairs, "individual": who, "seed": self.seed}

    @property
    def noun(self) -> str:
        """What stands for the subject in a prompt."""
        return f"a {self.class_word}" if self.method is None else "a [V]"


def measure(world: World, cell: TrainingCell) -> list[dict]:
    """The figures of each prompt at each step; of a word alone also those of its copies, as a method of their own."""
    individual = new_individual(cell.individual, cell.class_word)
    rows = []
    for step, words in trained(world, cell, individual):
        for prompt in cell.prompts:
            rows.append({"step": step, "prompt": prompt, **figures(world, cell, prompt, words, individual)})
        if not isinstance(cell.method, AlignmentConfig):
            copies = figures(world, cell, PHOTO, words, individual)
            rows.append({"method": f"{cell.name}, photo", "step": step, "prompt": PHOTO, **copies})
    return rows


def figures(world: World, cell: TrainingCell, prompt: Prompt, words: LearnedWords, individual: Individual) -> dict:
    wanted = target(cell.class_word, prompt)
    pictures = paint(world, wanted.prompt(cell.noun), words, SAMPLES, cell.seed)
    judged = asdict(judge(world.evaluators, pictures, wanted, references(individual)))
    word = cell.noun.removeprefix("a ")
    return {**judged, "attention_share": attention_share(world, pictures, wanted.prompt(cell.noun), word, words)}


def trained(world: World, cell: TrainingCell, individual: Individual) -> Iterator[tuple[int, LearnedWords]]:
    """step, and what [V] is by then, while the model is as the training has it by then."""
    if cell.method is None:
        yield 0, {}
    elif isinstance(cell.method, Word):
        run = textual_inversion(world, cell, individual)
        for _ in run.steps():
            pass
        yield run.result.steps, {"[V]": run.result.vectors}
    else:
        prompt = target(cell.class_word, cell.prompts[0]).prompt(cell.noun)
        run = personalization(world, individual, prompt, STEPS[-1], cell.seed, cell.method, cell.training)
        for step in run.steps():
            if step.index + 1 in STEPS:
                yield step.index + 1, run.learner.result().words


def textual_inversion(world: World, cell: TrainingCell, individual: Individual) -> TextualInversion:
    """The one template is the neutral one of this world, whose model knows none of the paper's other words."""
    word = cell.method
    concept = Concept(photos(individual, word.photos), cell.class_word, templates=("a photo of a {}",))
    config = TextualInversionConfig(
        steps=word.steps,
        batch_size=cell.training.batch_size,
        resolution=RESOLUTION,
        seed=cell.seed,
        vectors=word.vectors,
        hold_norm=word.hold_norm,
        learning_rate=word.learning_rate,
    )
    return Training(TextualInversion(world.backbone, concept, config))


@dataclass(frozen=True)
class Run:
    """Train and judge what is missing."""

    methods: tuple[Method, ...] = ("base", "ti_db", "delta", "palp")
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0, 1, 2)
    #: Of methods that train for a prompt, only the first so many prompts of each individual; none for all.
    prompts: int | None = None
    #: Added to the methods' names, where settings below are not the usual.
    label: str = ""
    #: Other settings of the alignment branch; none for the method's.
    weight: float | None = None
    alpha: float | None = None
    beta: float | None = None
    #: Steps of a word alone, each number a training of its own; none for the method's.
    word_steps: tuple[int, ...] = ()
    training: ToyTraining = field(default_factory=ToyTraining)
    results: Path = RESULTS

    def run(self) -> None:
        for name in self.methods:
            self._check_settings(name)
        require_label(self.label, changed=bool(self._changes()) or self.training != ToyTraining())
        world = load_world()
        compute(self._cells(), lambda cell: measure(world, cell), self.results)

    def _check_settings(self, name: Method) -> None:
        """Raises ValueError for settings that would do nothing to a method."""
        method = METHODS[name]
        if self._changes() and not reads_prompt(method):
            raise ValueError(f"{name} has no weight, alpha or beta.")
        if self.training != ToyTraining() and not isinstance(method, AlignmentConfig):
            raise ValueError(f"{name} takes no settings of training but its own.")
        if self.word_steps and not isinstance(method, Word):
            raise ValueError(f"{name} takes no --word-steps: it is no word alone.")

    def _cells(self) -> Iterator[TrainingCell]:
        for seed, (class_word, number), name in product(self.seeds, INDIVIDUALS[self.pairs], self.methods):
            for method in self._settings(METHODS[name]):
                for prompts in prompts_of_trainings(self.pairs, reads_prompt(method))[: self.prompts]:
                    label = f"{name}{self.label}"
                    yield TrainingCell(label, self.pairs, class_word, number, seed, prompts, method, self.training)

    def _settings(self, method: AlignmentConfig | Word | None) -> list[AlignmentConfig | Word | None]:
        """What is trained of a method: with the changes that concern it."""
        if isinstance(method, Word):
            return [replace(method, steps=steps) for steps in self.word_steps or (method.steps,)]
        return [replace(method, **self._changes())] if reads_prompt(method) else [method]

    def _changes(self) -> dict:
        return {k: getattr(self, k) for k in ("weight", "alpha", "beta") if getattr(self, k) is not None}
