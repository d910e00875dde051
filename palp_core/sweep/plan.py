"""What a sweep is made of: a model, subjects, prompts, methods with their settings, seeds, and what is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import SettingError
from ..methods.alignment import AlignmentConfig
from ..methods.layered_words.neti import NetiConfig
from ..methods.layered_words.p_plus import PPlusConfig
from ..methods.personalization_config import PersonalizationConfig
from ..methods.result import described_config
from ..methods.scores import SCORES
from ..methods.subjects import Subject, check_class_word, check_target_prompt
from ..methods.textual_inversion import TextualInversionConfig
from ..models.backbone import Precision
from ..models.prompts import check_known
from ..settings import check_settings, default_of, setting, settings_of
from ..toyworld import DemoModel
from ..toyworld.world import GUIDANCE_SCALE, RESOLUTION, SAMPLING_STEPS, TRAINING_OF
from ..training.config import TrainingConfig

#: What prompts call the subject.
PLACEHOLDER = default_of(Subject, "placeholder")
#: What a plan calls the demo world's models, which come with the package.
DEMO_MODELS: dict[str, DemoModel] = {"demo": "unet", "demo-transformer": "transformer"}
#: Of the alignment, what has another name among the settings of a method.
WEIGHT, SCORE = "alignment_weight", "score"
#: What a method may be, by what is learned: LoRA and a word, or a word alone.
Kind = Literal["personalization", "textual_inversion", "p_plus", "neti"]
KIND, LORA_AND_WORD = "kind", "personalization"
#: Of those that learn a word alone.
WORD_CONFIGS: dict[Kind, type[TrainingConfig]] = {
    "textual_inversion": TextualInversionConfig,
    "p_plus": PPlusConfig,
    "neti": NetiConfig,
}


@dataclass(frozen=True)
class SubjectJob:
    """Who is learned, and what is said of it."""

    #: The word for what it is, which the model knows: cat.
    class_word: str
    #: Its photos, or a folder of them; nothing where the demo world draws it.
    photos: tuple[Path, ...] = ()
    #: Masks in the order of the photos, or a folder of them; those beside the photos are found without.
    masks: tuple[Path, ...] = ()
    #: Whether masks are black where it is.
    invert_masks: bool = False
    #: Whether the texts beside the photos are read.
    captions: bool = True
    personalization_prompt: str = ""
    trigger: str = ""
    #: In place of the plan's prompts.
    prompts: tuple[str, ...] = ()
    #: Which individual of the demo world it is.
    individual: int | None = None

    def __post_init__(self) -> None:
        check_class_word(self.class_word)
        if bool(self.photos) == (self.individual is not None):
            raise SettingError("it needs photos, or, in the demo world, an individual, and not both.")
        check_prompts(self.prompts)


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raise PromptError for one without the subject, or with another one; SettingError for one that is there twice."""
    for prompt in prompts:
        check_target_prompt(prompt)
        check_known("target_prompt", prompt, [PLACEHOLDER])
        if prompts.count(prompt) > 1:
            raise SettingError(f"the prompt {prompt!r} is there twice.")


@dataclass(frozen=True)
class Pictures:
    """What is drawn of each prompt."""

    count: int = setting(4, "Draws so many pictures of each prompt.", low=1, high=1000, step=1)
    #: Steps after which pictures are drawn, beside the last.
    at: tuple[int, ...] = ()
    guidance_scale: float = setting(0.0, "Guides them by this scale; 0 is the model family's own.", low=0, high=30)
    sampling_steps: int = setting(20, "Takes so many sampling steps.", low=1, high=1000, step=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if unfit := [step for step in self.at if step < 1]:
            raise SettingError(f"at has {unfit[0]}; steps are counted from 1.")

    def steps(self, last: int) -> tuple[int, ...]:
        """List the steps after which a training of so many draws, the last one included."""
        return tuple(sorted({step for step in self.at if step < last} | {last}))


@dataclass(frozen=True)
class Method:
    """A way to train with its settings, all but the seed."""

    name: str
    config: TrainingConfig
    #: Whether anything is trained; if not, it is the base model, to which the subject is its class word.
    trains: bool = True

    @property
    def kind(self) -> Kind:
        """Say what is learned, by the settings."""
        return next((kind for kind, config in WORD_CONFIGS.items() if type(self.config) is config), LORA_AND_WORD)

    @property
    def reads_prompt(self) -> bool:
        """Whether what is learned depends on the target prompt; if not, one training serves all prompts."""
        return self.trains and self.kind == LORA_AND_WORD and self.config.alignment.weight > 0

    @property
    def steps(self) -> int:
        """Count the steps of its training."""
        return self.config.steps if self.trains else 0

    @property
    def described(self) -> dict[str, Any]:
        """Describe all of it that has an effect."""
        if not self.trains:
            return {"resolution": self.config.resolution}
        kind = {} if self.kind == LORA_AND_WORD else {KIND: self.kind}
        return {**kind, **described_config(self.config)}


@dataclass(frozen=True)
class Plan:
    """All of a sweep, checked as far as it can be without loading the model."""

    #: A diffusers folder or a checkpoint, or one of DEMO_MODELS.
    model: Path | str
    subjects: dict[str, SubjectJob]
    prompts: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    pictures: Pictures = Pictures()
    #: Folders of CLIP and DINOv2, which measure the pictures; the demo world has judges of its own.
    clip: Path | None = None
    dino: Path | None = None
    precision: Precision = "auto"

    @property
    def demo(self) -> DemoModel | None:
        """Which of the demo world's models it is, if any."""
        return DEMO_MODELS.get(str(self.model))


def demo_settings(model: DemoModel, kind: Kind = LORA_AND_WORD) -> dict[str, Any]:
    """Return the settings that suit a model of the demo world."""
    training = TRAINING_OF[model]
    shared = {"batch_size": training.batch_size, "resolution": RESOLUTION}
    if kind in WORD_CONFIGS:
        return {**shared, "gradient_accumulation": 1, "learning_rate": DEMO_WORD_RATES[kind]}
    rates = dict.fromkeys(("learning_rate", "embedding_learning_rate"), training.learning_rate)
    return {**rates, **shared, "rank": training.rank}


#: Adam's step for a word of the demo world, where it alone is learned. Textual Inversion's is the benchmark's, and by
#: the others' an individual of its tuning pairs is learned as well.
DEMO_WORD_RATES: dict[Kind, float] = {"textual_inversion": 5e-3, "p_plus": 5e-3, "neti": 8e-3}
#: How the demo world's pictures are drawn.
DEMO_PICTURES = {"guidance_scale": GUIDANCE_SCALE, "sampling_steps": SAMPLING_STEPS}


def word_setting_names(kind: Kind) -> dict[str, type]:
    """Name the settings that a method of this kind may have, which learns a word alone -> the dataclass of each."""
    return {name: WORD_CONFIGS[kind] for name in settings_of(WORD_CONFIGS[kind]) if name != "seed"}


def setting_names(score: str) -> dict[str, type]:
    """Name the settings that a method with this score may have -> the dataclass that has each."""
    kind = SCORES[score]
    own = {name: PersonalizationConfig for name in settings_of(PersonalizationConfig) if name != "seed"}
    alignment = {WEIGHT if name == "weight" else name: AlignmentConfig for name in settings_of(AlignmentConfig)}
    return {**own, **alignment, **{f.name: kind for f in fields(kind)}}


def config_of(values: Mapping[str, Any]) -> PersonalizationConfig:
    """Make the settings of a training from a flat list, which has the score's among them. Raises SettingError."""
    score = values.get(SCORE, AlignmentConfig().score.name)
    homes = setting_names(score)

    def of(home: type) -> dict[str, Any]:
        return {name: value for name, value in values.items() if homes.get(name) is home}

    alignment = of(AlignmentConfig)
    if WEIGHT in alignment:
        alignment["weight"] = alignment.pop(WEIGHT)
    aligned = AlignmentConfig(**alignment, score=SCORES[score](**of(SCORES[score])))
    return PersonalizationConfig(**of(PersonalizationConfig), alignment=aligned)
