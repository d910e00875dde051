"""Personalization at several steps of its training, because a baseline that is stopped early is a strong one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.concept import Concept
from palp_core.methods.personalization_learner import PersonalizationLearner, Weights
from palp_core.methods.subjects import TRIGGERS
from palp_core.methods.textual_inversion import LearnedWord, TextualInversion, TextualInversionConfig
from palp_core.models.backbone import LearnedWords
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.pictures import photos
from palp_core.toyworld.scenes import ClassWord, Individual, new_individual
from palp_core.toyworld.world import RESOLUTION, DemoModel, ToyTraining, World, paint, personalization, references
from palp_core.training.loop import Step, Training

from .attention import attention_share
from .methods import DirectedWord, Trained, Word, described_alignment, is_curve
from .pairs import PHOTO, Pairs, Prompt, target
from .rivals import Rival, directional_training, rival_training
from .rows import transformer_digest

#: The transformer learns faster.
STEPS_OF: dict[DemoModel, tuple[int, ...]] = {"unet": (50, 100, 150, 200, 300), "transformer": (25, 50, 100, 150)}
SAMPLES = 16
#: As all was measured; here a word grows by a hundredth.
SETTINGS = {"hold_norm": False}


@dataclass(frozen=True)
class TrainingCell:
    """Name one training. What does not read the prompt serves all prompts of an individual."""

    name: str
    pairs: Pairs
    class_word: ClassWord
    individual: int
    seed: int
    prompts: tuple[Prompt, ...]
    method: Trained
    training: ToyTraining
    model: DemoModel = "unet"
    #: Pictures of each prompt.
    samples: int = SAMPLES
    #: At which it is judged, ascending, where it is judged at several.
    steps: tuple[int, ...] = STEPS_OF["unet"]
    #: Which other weights the UNet has; none for its own.
    unet: str | None = None
    #: At which pictures are drawn; none for the world's own.
    guidance_scale: float | None = None
    #: Other settings of the training by name; none for the usual.
    settings: Mapping[str, Any] | None = None

    @property
    def description(self) -> dict:
        described = {**asdict(self), "kind": type(self.method).__name__}
        if described.pop("model") == "transformer":
            described["transformer"] = transformer_digest()
        if isinstance(self.method, AlignmentConfig):
            described["method"] = described_alignment(self.method)
        left_out = [name for name in ("unet", "guidance_scale", "settings") if described[name] is None]
        return _without(described, *left_out, *([] if is_curve(self.method) else ["steps"]))

    @property
    def labels(self) -> dict:
        who = [self.class_word, self.individual]
        return {"method": self.name, "pairs": self.pairs, "individual": who, "seed": self.seed}

    @property
    def noun(self) -> str:
        """What stands for the subject when it is drawn."""
        if self.method is None:
            return f"a {self.class_word}"
        return "a [V]" if self.model == "unet" else f"a {TRIGGERS[0]} {self.class_word}"


def _without(described: dict, *names: str) -> dict:
    return {name: value for name, value in described.items() if name not in names}


def measure(world: World, cell: TrainingCell) -> list[dict]:
    """Judge each prompt at each step; of a word alone also its copies, as a method of their own.

    Rows tell the seconds of training until then, of the processor: other programs do not lengthen them.
    """
    individual = new_individual(cell.individual, cell.class_word)
    rows = []
    for step, words, seconds in trained(world, cell, individual):
        at = {"step": step, "seconds": round(seconds, 2)}
        for prompt in cell.prompts:
            rows.append({**at, "prompt": prompt, **figures(world, cell, prompt, words, individual)})
        if not is_curve(cell.method):
            copies = figures(world, cell, PHOTO, words, individual)
            rows.append({"method": f"{cell.name}, photo", **at, "prompt": PHOTO, **copies})
    return rows


def figures(world: World, cell: TrainingCell, prompt: Prompt, words: LearnedWords, individual: Individual) -> dict:
    """Draw pictures of a prompt and judge them."""
    wanted = target(cell.class_word, prompt)
    pictures = paint(world, wanted.prompt(cell.noun), words, cell.samples, cell.seed)
    judged = asdict(judge(world.evaluators, pictures, wanted, references(individual)))
    word = cell.noun.removeprefix("a ")
    return {**judged, "attention_share": attention_share(world, pictures, wanted.prompt(cell.noun), word, words)}


def trained(world: World, cell: TrainingCell, individual: Individual) -> Iterator[tuple[int, LearnedWords, float]]:
    """Yield step, what [V] is by then, and seconds, while the model is as the training has it by then."""
    if cell.method is None:
        yield 0, {}, 0.0
    elif isinstance(cell.method, Word):
        run = textual_inversion(world, cell, individual)
        *_, (_, seconds) = timed(run)
        yield run.result.steps, {"[V]": run.result.vectors}, seconds
    else:
        run = lora_training(world, cell, individual)
        for step, seconds in timed(run):
            if step.index + 1 in cell.steps:
                learner = learner_of(run)
                with learner.optimizer.averaged():
                    yield step.index + 1, learner.result().words, seconds


def learner_of(run: Training[Weights]) -> PersonalizationLearner:
    """Return what learns in a training, ours or a rival's."""
    return getattr(run.learner, "learner", run.learner)


def timed(run: Training) -> Iterator[tuple[Step, float]]:
    """Train; yield each step with the processor's seconds until then, without those of whoever iterates."""
    seconds, since = 0.0, time.process_time()
    for step in run.steps():
        seconds += time.process_time() - since
        yield step, seconds
        since = time.process_time()


def lora_training(world: World, cell: TrainingCell, individual: Individual) -> Training[Weights]:
    """Prepare the training of a LoRA with a word, ours or a rival's."""
    prompt = target(cell.class_word, cell.prompts[0]).prompt("a [V]")
    rival = cell.method if isinstance(cell.method, Rival) else None
    alignment = AlignmentConfig(weight=0.0) if rival else cell.method
    run = personalization(world, individual, prompt, cell.steps[-1], cell.seed, alignment, cell.training)
    run.method.config = replace(run.method.config, **{**SETTINGS, **(cell.settings or {})})
    return rival_training(run.method, rival) if rival else run


def textual_inversion(world: World, cell: TrainingCell, individual: Individual) -> Training[LearnedWord]:
    """Prepare the training of a word alone.

    The one template is the neutral one of this world, whose model knows none of the paper's other words.
    """
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
    method = TextualInversion(world.backbone, concept, config)
    return directional_training(method) if isinstance(word, DirectedWord) else Training(method)
