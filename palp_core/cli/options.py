"""Options that several commands have, and options made from the core's settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_type_hints

import torch
import tyro
from torch import Tensor

from ..files.images import read_image, read_mask
from ..files.photos import Photos, find_masks, find_photos, listed, masks_by_name
from ..methods.alignment import AlignmentConfig
from ..methods.memory import MemoryConfig
from ..methods.personalization import PersonalizationConfig
from ..methods.previews import PreviewConfig
from ..methods.scores import SCORES
from ..methods.textual_inversion import TextualInversionConfig
from ..models.backbone import DTYPES, Precision
from ..settings import Setting, default_of, settings_of


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


class ReadPhotos(NamedTuple):
    """Photos in memory, and what lies beside them."""

    images: tuple[Tensor, ...]  # (H, W, 3 or 4) each, in 0..1
    masks: tuple[Tensor | None, ...]  # (H, W), one for each image, or nothing
    captions: tuple[str, ...]  # one for each image, or nothing


def read_photos(paths: tuple[Path, ...], masks: tuple[Path, ...], captions: bool) -> ReadPhotos:
    """Read files or folders: images, and masks, those given or those beside the images.

    masks: files in the order of the images, or a folder, in which they are found by their names. captions: whether text
    files beside the images are read. What is left out, and which images have no mask, is printed.
    """
    found = find_photos(paths)
    unused = ["the masks beside the images are left out, because --masks has others."] if masks and found.masked else []
    chosen, unfit = found.masks if found.masked else (), ()
    if any(path.is_dir() for path in masks):
        chosen, unfit = masks_by_name(found.images, masks)
    elif masks:
        chosen = find_masks(masks)
    images = tuple(map(read_image, found.images))
    described = _described(found, captions)
    for note in [*found.notes, *unused, *unfit, *_learned_whole(found.images, images, chosen), *described]:
        print(f"palp: {note}", file=sys.stderr)
    texts = found.read_captions() if captions else ()
    return ReadPhotos(images, tuple(mask and read_mask(mask) for mask in chosen), texts)


def _described(found: Photos, read: bool) -> Iterator[str]:
    """Say which captions lie beside the images, and whether they are read."""
    if names := [file.name for file in found.captions if file]:
        yield f"captions of {len(names)} of {len(found.images)} images {'' if read else 'not '}read: {listed(names)}."


def _learned_whole(paths: Sequence[Path], images: Sequence[Tensor], masks: Sequence[Path | None]) -> Iterator[str]:
    """Say which images are opaque and have no mask, where others have one."""
    whole = [p.name for p, image, mask in zip(paths, images, masks, strict=False) if not mask and image.shape[-1] == 3]
    if whole:
        yield f"learned whole, without a mask: {listed(whole)}."


def training_backbone(model: Path, device: str | None, precision: Precision):
    """Load a model for training."""
    from ..models.diffusers.backbone import DiffusersBackbone
    from ..models.diffusers.loading import chosen_device, load_pipeline

    on_gpu = {"auto": torch.bfloat16, **DTYPES}
    dtype = on_gpu[precision] if chosen_device(device).type == "cuda" else torch.float32
    return DiffusersBackbone(load_pipeline(model, dtype), device, precision)
