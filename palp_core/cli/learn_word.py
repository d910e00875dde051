"""`palp learn-word`: a word by Textual Inversion; the model stays as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ..files.embedding_file import load_embedding
from ..files.run_folder import is_result
from ..files.safetensors_file import reserve
from ..methods.concept import Concept
from ..methods.memory import MemoryConfig, fit_memory
from ..methods.previews import PreviewConfig
from ..methods.result import save_word, word_folder
from ..methods.templates import Kind
from ..methods.textual_inversion import TextualInversion, TextualInversionConfig
from ..models.backbone import Precision
from ..training.loop import Training
from ..training.workers import Workers
from . import session
from .options import RUNS, MemoryOptions, PreviewOptions, TextualInversionOptions, read_photos, training_backbone


@dataclass(frozen=True)
class LearnWord:
    """Learn a word by Textual Inversion. Stopped, it keeps what it has learned; the same command goes on."""

    #: Loads this model: a diffusers folder or a .safetensors checkpoint of Stable Diffusion 1.x, 2.x or SDXL.
    model: Path
    #: Learns from these images, 3 to 5, or a folder of them; a-masklabel.png or a_mask.png there is the mask of a.jpg.
    images: tuple[Path, ...]
    #: Says coarsely what they show, in one word that the model knows: cat, painting. Learning starts there.
    initial_word: str = ""
    #: Starts from a word learned before, a .safetensors file, instead.
    initial_embedding: Path | None = None
    #: Learns an object, which the images show, or a style, which is how they are made.
    kind: Kind = "object"
    #: Takes masks, white where the subject is: files in the order of the images, or a folder with a.png for a.jpg.
    masks: tuple[Path, ...] = ()
    #: Takes masks that are black where the subject is, those beside the images included, and not white.
    invert_masks: bool = False
    #: Learns with these sentences, {} for the word; none takes neutral ones.
    templates: tuple[str, ...] = ()
    #: Describes each image in a sentence, {} for the word, in place of templates.
    captions: tuple[str, ...] = ()
    #: Writes the file, its loss chart and, into `runs` there, the training's own folder.
    out: Path = Path("embeddings")
    #: Names the word and its file.
    name: str = "my_word"
    #: Replaces a word of this name.
    overwrite: bool = False
    #: Trains from the beginning, also where the same training is there already, finished or not.
    retrain: bool = False
    #: Computes there: cuda, cpu or mps; none takes CUDA if there is one.
    device: str | None = None
    #: Computes in this number format; auto is bf16 on a GPU, else fp32.
    precision: Precision = "auto"
    memory: Annotated[MemoryOptions, tyro.conf.arg(name="")] = field(default_factory=MemoryOptions)
    previews: Annotated[PreviewOptions, tyro.conf.arg(name="")] = field(default_factory=PreviewOptions)
    settings: Annotated[TextualInversionOptions, tyro.conf.arg(name="")] = field(
        default_factory=TextualInversionOptions
    )

    def run(self) -> None:
        with session.joined_quietly() as workers:
            self._train(workers)

    def _train(self, workers: Workers) -> None:
        name = reserve(self.out, self.name, self.overwrite or is_result(self.out / RUNS, self.name))
        images, masks, _ = read_photos(self.images, self.masks, captions=False)
        concept = Concept(
            images,
            self.initial_word,
            self.kind,
            masks,
            templates=self.templates,
            captions=self.captions,
            initial_embedding=load_embedding(self.initial_embedding) if self.initial_embedding else None,
            invert_masks=self.invert_masks,
        )
        config = TextualInversionConfig(**asdict(self.settings))
        backbone = training_backbone(self.model, self.device, self.precision)
        run = Training(TextualInversion(backbone, concept, config, workers))
        fit_memory(run.method, MemoryConfig(**asdict(self.memory)), workers.least(backbone.free_memory()))
        find = partial(word_folder, run.method, self.out / RUNS, name, self.retrain)
        folder = session.one_folder(workers, find)
        if folder.result(config.steps, [self.out]) is None:
            reserve(self.out, name, self.overwrite)

        def save(where: Path) -> Path:
            return save_word(run, where, name, overwrite=self.overwrite and where == self.out)

        session.train(run, save, self.out, folder, PreviewConfig(**asdict(self.previews)))
