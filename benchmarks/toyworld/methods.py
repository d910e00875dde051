"""What is compared: trainings with the scores of PALP, words alone, and models under guidance, each by its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig
from palp_core.methods.scores import Nfsd, Sds
from palp_core.toyworld.world import ALIGNMENT, PAPERS_ALIGNMENT

from .rivals import Dco, Preservation, Rival, TLora


@dataclass(frozen=True)
class Word:
    """Textual inversion alone, judged at its end: a curve takes a training of each length (`--word-steps`)."""

    steps: int = 400
    vectors: int = 1
    hold_norm: bool = True
    learning_rate: float = 5e-3  # 1e-2 copies no closer on the tuning pairs, and sometimes loses the class
    photos: int = 4  # the paper's 3 to 5


@dataclass(frozen=True)
class DirectedWord(Word):
    """The direction of a word alone, as in Directional Textual Inversion; its length stays."""

    learning_rate: float = 1e-2  # the authors'


#: What is trained; None for nothing.
Trained = AlignmentConfig | Rival | Word | None

PAPERS_ALPHA = PAPERS_ALIGNMENT.score.alpha
TrainedWord = Literal["ti", "ti_8_vectors", "ti_free_norm", "ti_8_free_norm", "ti_direction"]
TrainedLora = Literal[
    "ti_db", "delta", "delta_null_prior", "delta_interval", "palp", "sds", "nfsd", "fresh_noise", "no_rescale"
]
TrainedByRival = Literal["output_preservation", "blank_preservation", "dco", "t_lora"]
Method = Literal["base", TrainedWord, TrainedLora, TrainedByRival]
METHODS: dict[Method, Trained] = {
    "base": None,
    "ti": Word(),
    "ti_8_vectors": Word(vectors=8),
    "ti_free_norm": Word(hold_norm=False),
    "ti_8_free_norm": Word(vectors=8, hold_norm=False),
    "ti_direction": DirectedWord(),
    "ti_db": AlignmentConfig(weight=0.0),
    # What the default was before, and what most was measured with.
    "delta": replace(ALIGNMENT, score=replace(ALIGNMENT.score, interval=1, null_prior=0.0)),
    "delta_null_prior": replace(ALIGNMENT, score=replace(ALIGNMENT.score, interval=1)),
    "delta_interval": ALIGNMENT,
    "palp": PAPERS_ALIGNMENT,
    "sds": replace(PAPERS_ALIGNMENT, score=Sds(PAPERS_ALPHA)),
    # This world has no words for what is ugly.
    "nfsd": replace(PAPERS_ALIGNMENT, score=Nfsd(PAPERS_ALPHA, negative_prompt="")),
    "fresh_noise": replace(PAPERS_ALIGNMENT, noise="fresh"),
    "no_rescale": replace(PAPERS_ALIGNMENT, rescale=False),
    "output_preservation": Preservation("class_photo"),
    "blank_preservation": Preservation("null"),
    "dco": Dco(),
    "t_lora": TLora(),
}

Model = Literal["base", "palp", "over-fitted"]
#: What a model that is guided was trained with, and for how many steps: the prompt kept alive and likeness left to win,
#: or plain training for so long that it forgets.
TRAININGS: dict[Model, tuple[AlignmentConfig, int]] = {
    "palp": (PAPERS_ALIGNMENT, 50),
    "over-fitted": (AlignmentConfig(weight=0.0), 200),
}
Part = Literal["unguided", "pick", "draw", "pick and draw"]
PARTS: dict[Part, PickAndDrawConfig] = {
    "unguided": PickAndDrawConfig(pick_weight=0, draw_weight=0),
    "pick": PickAndDrawConfig(draw_weight=0),
    "draw": PickAndDrawConfig(pick_weight=0),
    "pick and draw": PickAndDrawConfig(),
}


def reads_prompt(method: Trained) -> bool:
    """Say whether the training depends on the target prompt."""
    return isinstance(method, AlignmentConfig) and method.weight > 0


def is_curve(method: Trained) -> bool:
    """Say whether it is judged at several steps of one training."""
    return isinstance(method, AlignmentConfig | Rival)


def at_guidance(method: Trained, scale: float) -> Trained:
    """Give the paper's scores their alpha and beta, twice and once the scale at which the model draws."""
    if not isinstance(method, AlignmentConfig) or not hasattr(method.score, "alpha"):
        return method
    scales = {"alpha": 2 * scale, "beta": scale}
    return changed(method, {name: value for name, value in scales.items() if hasattr(method.score, name)})


#: Settings of a score that do nothing at these values.
USUAL = {"interval": 1, "null_prior": 0.0}


def described_alignment(config: AlignmentConfig) -> dict:
    """Describe all of it that has an effect."""
    if not config.weight:
        return {"weight": 0}
    score = {"name": config.score.name, **asdict(config.score)}
    for name, usual in USUAL.items():  # as it was before there were others
        if score.get(name) == usual:
            del score[name]
    return {**asdict(config), "score": score}


def own_settings(method: Trained) -> set[str]:
    """Name the numbers that can be changed: of its alignment, or of a rival."""
    if isinstance(method, Rival):
        return {field.name for field in fields(method)} - {"prompt"}
    return {"weight", *(field.name for field in fields(method.score))} if reads_prompt(method) else set()


def changed(method: AlignmentConfig | Rival, settings: dict[str, float]) -> AlignmentConfig | Rival:
    """Change what is given: of a rival its own settings, else the weight, and what else there is of the score."""
    if isinstance(method, Rival):
        return replace(method, **settings)
    of_score = {name: value for name, value in settings.items() if name != "weight"}
    return replace(method, weight=settings.get("weight", method.weight), score=replace(method.score, **of_score))
