"""The settings of PALP (arXiv 2401.06105), and what is checked of them against a model and subjects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import PromptError, SettingError, quoted
from ..models.backbone import Backbone
from ..models.families import Family, Targets
from ..models.prompts import check_prompt, find_placeholders
from ..settings import setting
from ..training.config import TrainingConfig
from .alignment import AlignmentConfig
from .subjects import Subject

SubjectWord = Literal["auto", "learned", "text"]


@dataclass(frozen=True)
class PersonalizationConfig(TrainingConfig):
    """Settings of a training. The paper: 500 steps at batch 32 and learning rate 5e-5, rank 32, on SD 1.4."""

    steps: int = setting(
        500,
        "Trains for this many steps; fewer keep the prompt better, more the subject. One photo needs fewer.",
        usual="300 to 1000",
        low=1,
        high=100_000,
        step=1,
    )
    learning_rate: float = setting(
        1e-4,
        "Sets Adam's step for the LoRA; 1e-4 suits small batches. The paper has 5e-5 at batch 32.",
        usual="5e-5 to 2e-4",
        low=0,
        open=True,
        high=1,
        step=1e-6,
    )
    embedding_learning_rate: float = setting(
        1e-4,
        "Sets Adam's step for the word; 0 keeps the class word's embedding and frees the text encoder's memory.",
        usual="1e-4",
        low=0,
        high=1,
        step=1e-6,
    )
    rank: int = setting(
        32,
        "Sets the LoRA's rank; a larger one learns finer detail and makes a larger file. The paper has 32.",
        usual="4 to 64",
        low=1,
        high=256,
        step=1,
    )
    targets: Targets = setting(
        "attention",
        "Attaches the LoRA to attention, also to feed-forward layers (ff), and in UNets also to the layers around "
        "attention (proj); more takes more memory and a larger file.",
    )
    subject_word: SubjectWord = setting(
        "auto",
        "Learns a word for the subject, or lets a rare text before the class word stand for it; auto is what suits "
        "the model: a text where its text encoder is a large one, which then is not needed while training.",
    )
    clean_prompt: str = setting(
        "",
        "Describes the scene for the base model, in class words; empty takes the target prompt with class words.",
    )
    hold_norm: bool = setting(
        True, "Keeps the word no stronger than the model's own words, so that it leaves room for the others."
    )
    masked_prior: float = setting(
        0.0,
        "Holds what is drawn outside a photo's mask to what the base model draws there, as strongly as this; at 0 it "
        "is left to itself.",
        usual="0 to 1",
        low=0,
        high=10,
        step=0.1,
    )
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompt("clean_prompt", self.clean_prompt)
        if self.alignment.needs("negative"):
            check_prompt("negative_prompt", self.alignment.score.negative_prompt)
        if find_placeholders(self.clean_prompt):
            raise PromptError(
                f"clean_prompt {quoted(self.clean_prompt)} holds a placeholder. It is read by the base model: "
                "use class words."
            )


def uses_texts(family: Family, config: PersonalizationConfig) -> bool:
    """Say whether a text stands for the subject. Raises SettingError where a word is asked for, and none can be."""
    if config.subject_word == "learned" and family.subject_words == "text":
        raise SettingError(
            f"subject_word is learned, but the text encoder of {family.title} is a language model: what it makes of a "
            "word depends on all words before it, and ComfyUI reads no learned words there. Choose auto or text."
        )
    if config.subject_word == "auto":
        return family.subject_words != "learned"
    return config.subject_word == "text"


def check_guidance(backbone: Backbone, config: PersonalizationConfig) -> None:
    """Raise SettingError for settings that mean nothing to a model of this kind."""
    alignment = config.alignment
    if backbone.family.guidance == "distilled" and alignment.needs("null"):
        raise SettingError(
            f"score {alignment.score.name} looks at the empty prompt, which guidance-distilled models such as "
            f"{backbone.family.title} never learned. Choose delta."
        )
    if backbone.prediction.name == "flow" and alignment.weight > 0 and not alignment.rescale:
        raise SettingError("rescale is off, but the noise level of a flow has no bound. Switch it on.")


def check_masked_prior(subjects: list[Subject], config: PersonalizationConfig) -> None:
    """Raise SettingError where something outside of masks is asked for, and there are none."""
    if config.masked_prior and not any(subject.masks for subject in subjects):
        raise SettingError(
            f"masked_prior is {config.masked_prior}, which concerns what is outside of masks, but no photo has one. "
            "Give masks of the subject, or set it to 0."
        )
