"""What the kinds of methods have of their own: how a cell's is made, its folder found, its result saved."""

from __future__ import annotations

import logging
from pathlib import Path

from ..files.run_folder import RunFolder
from ..files.subject_photos import read_photos
from ..methods.concept import Concept
from ..methods.layered_words.learner import LayeredWord
from ..methods.personalization import Personalization
from ..methods.result import personalization_folder, save_layered_word, save_run, save_word, word_folder
from ..methods.subjects import Subject
from ..methods.templates import SLOT
from ..methods.textual_inversion import TextualInversion
from ..models.backbone import Backbone
from ..training.loop import Training
from .cells import Cell
from .plan import LORA_AND_WORD

#: What is learned is in NAME_00001.safetensors.
NAME = "palp"
FIRST = f"{NAME}_00001"

Learned = Personalization | TextualInversion | LayeredWord


def method_of(cell: Cell, backbone: Backbone) -> Learned:
    """Make a cell's method on its photos. Raises PalpError where they, its texts or its settings do not fit."""
    subject = _subject(cell)
    if cell.method.kind == LORA_AND_WORD:
        return Personalization(backbone, [subject], cell.prompts[0], cell.config)
    concept = _concept(cell, subject)
    if cell.method.kind == "textual_inversion":
        return TextualInversion(backbone, concept, cell.config)
    return LayeredWord(backbone, concept, cell.config)


def _subject(cell: Cell) -> Subject:
    job = cell.subject
    photos = read_photos(job.photos, job.masks, job.captions, logging.getLogger(__name__).info)
    return Subject(
        photos.images,
        job.class_word,
        personalization_prompt=job.personalization_prompt,
        masks=photos.masks,
        trigger=job.trigger,
        invert_masks=job.invert_masks,
        captions=photos.captions,
    )


def _concept(cell: Cell, subject: Subject) -> Concept:
    """The subject as a word alone learns it: from its captions, its neutral prompt, or else the neutral templates."""
    own = cell.subject.personalization_prompt
    templates, captions = (
        tuple(text.replace(subject.placeholder, SLOT) for text in texts)
        for texts in ([own] if own else [], subject.captions)
    )
    word = subject.class_word.strip()
    return Concept(subject.images, word, masks=subject.masks, templates=templates, captions=captions, averaged=True)


def run_folder(method: Learned, parent: Path, anew: bool) -> RunFolder:
    """Find the folder of a cell's training in that of the cell; anew, a new one."""
    if isinstance(method, Personalization):
        return personalization_folder(method, parent, "training", anew, [parent])
    return word_folder(method, parent, "training", anew)


def save(run: Training, folder: Path) -> Path:
    """Write what a training has learned to NAME_00001.safetensors in the cell's folder; returns the file."""
    if isinstance(run.method, Personalization):
        return save_run(run, folder, NAME)
    if isinstance(run.method, TextualInversion):
        return save_word(run, folder, FIRST)
    return save_layered_word(run, folder, NAME)
