"""Options that several commands have, and options made from the core's settings."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro

from ..files import subject_photos
from ..files.subject_photos import ReadPhotos
from ..methods.alignment import AlignmentConfig
from ..methods.memory import MemoryConfig
from ..methods.personalization import PersonalizationConfig
from ..methods.previews import PreviewConfig
from ..methods.scores import SCORES
from ..methods.textual_inversion import TextualInversionConfig
from ..models.backbone import Precision
from ..settings import Setting, default_of, settings_of
from ..training.workers import own_device


def _documented(kind: type, help: str) -> object:
    return Annotated[kind, tyro.conf.arg(help=help)]


def _help(setting: Setting) -> str:
    return f"{setting.help} Usual: {setting.usual}." if setting.usual else setting.help


def config_options(config: type, **renamed: str) -> type:
    """Make a dataclass for the command line of a config's settings: the same names, defaults and help.

    renamed: settings whose option has another name.
    """
    hints = get_type_hints(config)
    found = [
        (renamed.get(name, name), _documented(hints[name], _help(setting)), field(default=default_of(config, name)))
        for name, setting in settings_of(config).items()
    ]
    return make_dataclass(f"{config.__name__}Options", found, frozen=True)


#: Where trainings have their folders, in the folder that their files go to.
RUNS = "runs"

PersonalizationOptions = config_options(PersonalizationConfig)
PreviewOptions = config_options(PreviewConfig)
MemoryOptions = config_options(MemoryConfig)
TextualInversionOptions = config_options(TextualInversionConfig)
_AlignmentOptions = config_options(AlignmentConfig, weight="alignment_weight")


@dataclass(frozen=True)
class AlignmentOptions(_AlignmentOptions):
    """How the target prompt is kept alive, as options."""

    #: Measures the model's distance from the prompt in this way: delta is ours, palp the paper's, sds and nfsd are what
    #: the paper compares with.
    score: Literal[tuple(SCORES)] = AlignmentConfig().score.name
    #: Asks for this share more of what tells the scene from the photo, with score delta; none is the score's own.
    push: float | None = None
    #: Keeps the prompt in one step of so many, with score delta; none is the score's own.
    interval: int | None = None
    #: Holds what is drawn for the empty prompt to the base model's, as strongly as this, with score delta; none is the
    #: score's own.
    null_prior: float | None = None
    #: Guides the base model by this scale, with score palp, sds or nfsd; none is the score's own.
    alpha: float | None = None
    #: Guides the personalized model by this scale, with score palp; none is the score's own.
    beta: float | None = None
    #: Names what pictures are to move away from, with score nfsd; none for the paper's.
    negative_prompt: str | None = None

    def config(self) -> AlignmentConfig:
        """Raises SettingError for a value out of bounds; what the score does not have is passed over."""
        kind = SCORES[self.score]
        chosen = {f.name: getattr(self, f.name) for f in fields(kind) if getattr(self, f.name) is not None}
        return AlignmentConfig(self.alignment_weight, kind(**chosen), self.noise, self.rescale)


def read_photos(paths: tuple[Path, ...], masks: tuple[Path, ...], captions: bool) -> ReadPhotos:
    """Read images with their masks and captions as the core does, and print what is left out."""
    return subject_photos.read_photos(paths, masks, captions, lambda note: print(f"palp: {note}", file=sys.stderr))


def training_backbone(model: Path, device: str | None, precision: Precision):
    """Load a model for training, on a GPU of its own where torchrun started this process beside others."""
    from ..models.diffusers.backbone import load_backbone

    return load_backbone(model, device or own_device(), precision)
