"""PALP Options: the settings of a training that most people leave as they are."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import get_args

from comfy_api.latest import io

from ..palp_core.files.embedding_file import Embedding
from ..palp_core.methods.memory import MemoryConfig
from ..palp_core.methods.personalization import PersonalizationConfig
from ..palp_core.methods.previews import PreviewConfig
from ..palp_core.methods.scores import Delta, Palp, Score
from ..palp_core.models.backbone import Precision
from ..palp_core.settings import settings_of
from ..palp_core.training.config import TrainingConfig
from .widgets import (
    CATEGORY,
    initial_embedding_input,
    initial_embedding_time,
    load_initial_embedding,
    personalization_prompt_input,
    placeholder_input,
    retrain_input,
    trigger_input,
    widget,
)

OptionsSocket = io.Custom("PALP_OPTIONS")
#: Offered in the page; what only serves comparisons is on the command line.
SCORES = {score.name: score for score in (Delta, Palp)}
SETTINGS = (
    "learning_rate",
    "embedding_learning_rate",
    "rank",
    "batch_size",
    "resolution",
    "gradient_checkpointing",
    "subject_word",
)
#: Which came later: saved workflows hold widget values by position.
LATER = (
    "gradient_accumulation",
    "warmup_steps",
    "lr_scheduler",
    "ema_decay",
    "optimizer",
    "flip",
    "masked_prior",
    "targets",
    "hold_norm",
)
PREVIEWS = tuple(settings_of(PreviewConfig))


@dataclass(frozen=True)
class Options:
    """What the node holds; by default as if it were not connected. settings: of `PersonalizationConfig`."""

    settings: dict = field(default_factory=dict)
    score: Score = Delta()
    precision: Precision = "auto"
    offloading: bool = False
    placeholder: str = "[V]"
    personalization_prompt: str = ""
    initial_embedding: Embedding | None = None
    trigger: str = ""
    retrain: bool = False
    previews: PreviewConfig = PreviewConfig()
    invert_masks: bool = False
    memory: MemoryConfig = MemoryConfig()

    @property
    def shared(self) -> dict:
        """Pick the settings that every training has."""
        return {f.name: self.settings[f.name] for f in fields(TrainingConfig) if f.name in self.settings}


def options_input() -> io.Input:
    return OptionsSocket.Input(
        "options", optional=True, tooltip="Takes the settings of a PALP Options node; without, their defaults hold."
    )


class PalpOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_Options",
            display_name="PALP Options",
            category=CATEGORY,
            description=(
                "Holds the settings of a training that most people leave as they are: learning rates, rank, score, "
                "batch size, resolution, memory. Connect it to PALP Personalize or Textual Inversion Train."
            ),
            search_aliases=["palp", "settings", "advanced", "learning rate", "rank", "lora"],
            inputs=[
                io.DynamicCombo.Input(
                    "score",
                    options=[
                        io.DynamicCombo.Option(name, [widget(score, f.name) for f in fields(score)])
                        for name, score in SCORES.items()
                    ],
                    tooltip="Chooses how the prompt is kept: delta aims at what the base model draws for it, with your "
                    "subject's looks; palp is the paper's.",
                ),
                *(widget(PersonalizationConfig, name) for name in SETTINGS),
                io.Combo.Input(
                    "precision",
                    options=list(get_args(Precision)),
                    default="auto",
                    tooltip="Sets what the model computes in; auto is what it would sample in. What is learned "
                    "is always trained in fp32.",
                ),
                io.Boolean.Input(
                    "offloading",
                    default=False,
                    tooltip="Leaves weights that do not fit in RAM and brings them to the card layer by layer, slowly. "
                    "A third of the card's memory stays free for the training. Switch gradient_checkpointing on, too.",
                ),
                placeholder_input("[V]"),
                personalization_prompt_input(),
                widget(PersonalizationConfig, "clean_prompt", multiline=True),
                initial_embedding_input(),
                trigger_input(),
                retrain_input(),
                *(widget(PreviewConfig, name) for name in PREVIEWS),
                io.Boolean.Input(
                    "invert_masks",
                    default=False,
                    tooltip="Takes the training's masks as black where the subject is, as Load Image makes them of a "
                    "cut-out picture. Off, such a mask is known by its white border.",
                ),
                widget(MemoryConfig, "memory"),
                *(widget(PersonalizationConfig, name) for name in LATER),
            ],
            outputs=[
                OptionsSocket.Output(
                    display_name="options", tooltip="Goes to PALP Personalize or Textual Inversion Train."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        score,
        precision,
        offloading,
        placeholder,
        personalization_prompt,
        initial_embedding,
        trigger,
        retrain,
        invert_masks,
        memory,
        **settings,
    ):
        chosen = dict(score)
        kind = SCORES[chosen.pop("score")]
        previews = PreviewConfig(**{name: settings.pop(name) for name in PREVIEWS})
        options = Options(
            settings,
            kind(**chosen),
            precision,
            offloading,
            placeholder,
            personalization_prompt,
            load_initial_embedding(initial_embedding),
            trigger,
            retrain,
            previews,
            invert_masks,
            MemoryConfig(memory),
        )
        return io.NodeOutput(options)

    @classmethod
    def fingerprint_inputs(cls, initial_embedding=None, **_inputs):
        """Run again when the initial embedding has been replaced."""
        return initial_embedding_time(initial_embedding)
