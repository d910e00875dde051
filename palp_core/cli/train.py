"""`palp train`: prompt-aligned personalization on one's own model and photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ..files.embedding_file import load_embedding
from ..files.safetensors_file import reserve
from ..methods.memory import MemoryConfig, fit_memory
from ..methods.personalization import Personalization, PersonalizationConfig
from ..methods.previews import PreviewConfig
from ..methods.result import personalization_folder, save_run
from ..methods.subjects import Subject
from ..models.backbone import Precision
from ..training.loop import Training
from ..training.workers import Workers
from . import session
from .options import (
    RUNS,
    AlignmentOptions,
    MemoryOptions,
    PersonalizationOptions,
    PreviewOptions,
    read_photos,
    training_backbone,
)


@dataclass(frozen=True)
class Train:
    """Train PALP on your own model and photos. Stopped, it keeps what it has learned; the same command goes on."""

    #: Loads this model: a diffusers folder, or a .safetensors checkpoint of Stable Diffusion 1.x, 2.x or SDXL.
    model: Path
    #: Learns from these photos, or a folder of them; a-masklabel.png or a_mask.png there is the mask of a.jpg.
    images: tuple[Path, ...]
    #: Says what the subject is, in a word that the model knows: cat.
    class_word: str
    #: Describes the picture that you have in mind, with [V] for the subject: "a sketch of [V] in Paris".
    target_prompt: str
    #: Takes masks, white where the subject is: files in the order of the photos, or a folder with a.png for a.jpg.
    masks: tuple[Path, ...] = ()
    #: Takes masks that are black where the subject is, those beside the photos included, and not white.
    invert_masks: bool = False
    #: Reads what a.txt or a.caption says of a.jpg beside it, which is not learned then: "a cat on a red sofa".
    captions: bool = True
    #: Starts from a word learned before, a .safetensors file, in place of the class word.
    initial_embedding: Path | None = None
    #: Stands before the class word in prompts where no word is learned; empty means a rare text.
    trigger: str = ""
    #: Describes the photos neutrally; empty means "a photo of [V]".
    personalization_prompt: str = ""
    #: Writes the file, its loss chart and, into `runs` there, the training's own folder.
    out: Path = Path("loras")
    #: Names the file; a number is added, so that no file is overwritten.
    file_name: str = "palp"
    #: Trains from the beginning, also where the same training is there already, finished or not.
    retrain: bool = False
    #: Computes there: cuda, cpu or mps; none takes CUDA if there is one.
    device: str | None = None
    #: Computes in this number format; auto is bf16 on a GPU, else fp32.
    precision: Precision = "auto"
    memory: Annotated[MemoryOptions, tyro.conf.arg(name="")] = field(default_factory=MemoryOptions)
    previews: Annotated[PreviewOptions, tyro.conf.arg(name="")] = field(default_factory=PreviewOptions)
    settings: Annotated[PersonalizationOptions, tyro.conf.arg(name="")] = field(default_factory=PersonalizationOptions)
    alignment: Annotated[AlignmentOptions, tyro.conf.arg(name="")] = field(default_factory=AlignmentOptions)

    def run(self) -> None:
        with session.joined_quietly() as workers:
            self._train(workers)

    def _train(self, workers: Workers) -> None:
        name = reserve(self.out, self.file_name, overwrite=True, argument="file_name")  # a number makes it free
        config = PersonalizationConfig(**asdict(self.settings), alignment=self.alignment.config())
        photos = read_photos(self.images, self.masks, self.captions)
        subject = Subject(
            photos.images,
            self.class_word,
            personalization_prompt=self.personalization_prompt,
            masks=photos.masks,
            captions=photos.captions,
            initial_embedding=load_embedding(self.initial_embedding) if self.initial_embedding else None,
            trigger=self.trigger,
            invert_masks=self.invert_masks,
        )
        backbone = training_backbone(self.model, self.device, self.precision)
        run = Training(Personalization(backbone, [subject], self.target_prompt, config, workers))
        fit_memory(run.method, MemoryConfig(**asdict(self.memory)), workers.least(backbone.free_memory()))
        find = partial(personalization_folder, run.method, self.out / RUNS, name, self.retrain, [self.out])
        folder = session.one_folder(workers, find)
        previews = PreviewConfig(**asdict(self.previews))
        session.train(run, partial(save_run, run, name=name), self.out, folder, previews)
