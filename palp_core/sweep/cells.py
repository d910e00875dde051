"""The cells of a plan: one training each, found again by all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path

from ..errors import PromptError
from ..evaluation.references import text_of
from ..files.images import write_image
from ..files.photos import find_photos
from ..models.wording import put_words
from ..toyworld import MODEL_FOLDER
from ..toyworld.evaluators import FILE as DEMO_JUDGES
from ..toyworld.pictures import photos as drawn_photos
from ..toyworld.scenes import new_individual
from ..toyworld.world import read_target
from ..training.config import TrainingConfig
from ..version import __version__
from .plan import Method, Plan, SubjectJob

#: In the folder of a sweep: the folder of each training, and the photos that the demo world has drawn.
CELLS, PHOTOS = "cells", "photos"
#: To be raised where a change of the code makes something else of the same cells.
ALGORITHM = 1
#: Letters of a key.
LETTERS = 16
#: What of a model's folder tells it from others.
OF_A_MODEL = (".safetensors", ".json", ".txt", ".model")


@dataclass(frozen=True)
class Cell:
    """One training, and the prompts that are drawn with it."""

    subject_name: str
    subject: SubjectJob
    method: Method
    seed: int
    prompts: tuple[str, ...]
    #: Of all that the training depends on; its folder has this name.
    training: str
    #: Of all that its rows depend on.
    key: str

    @property
    def config(self) -> TrainingConfig:
        """Return the settings of its training."""
        return replace(self.method.config, seed=self.seed)

    @property
    def title(self) -> str:
        """Name it for people."""
        prompt = f", {self.prompts[0]}" if len(self.prompts) == 1 else ""
        return f"{self.method.name}, {self.subject_name}, seed {self.seed}{prompt}"

    def folder(self, out: Path) -> Path:
        """Name its folder in that of the sweep."""
        return out / CELLS / self.training

    def within(self, out: Path) -> Cell:
        """Take its photos from this folder of a sweep, where the demo world has drawn them."""
        photos = photos_of(self.subject_name, self.subject, out)
        return replace(self, subject=replace(self.subject, photos=photos, individual=None))


def cells_of(plan: Plan, out: Path) -> list[Cell]:
    """List the cells of a plan, in its order. The demo world's photos are drawn into `out`.

    Raises FileError for photos and judges that are missing, PromptError for a prompt that a judge could not read.
    """
    plan = replace(plan, subjects={name: _photographed(name, job, out) for name, job in plan.subjects.items()})
    _check_texts(plan)
    photos = {name: _photos_digest(job, photos_of(name, job, out)) for name, job in plan.subjects.items()}
    return list(_cells(plan, photos, *digests(plan)))


def photos_of(name: str, subject: SubjectJob, out: Path) -> tuple[Path, ...]:
    """Name a subject's photos, files or a folder; those of the demo world are in the folder of the sweep."""
    return subject.photos if subject.individual is None else (out / PHOTOS / name,)


def _cells(plan: Plan, photos: Mapping[str, str], model: str, judges: str) -> Iterator[Cell]:
    for name, method, seed in product(plan.subjects, plan.methods, plan.seeds):
        subject = plan.subjects[name]
        prompts = subject.prompts or plan.prompts
        for shared in [(prompt,) for prompt in prompts] if method.reads_prompt else [prompts]:
            told = [subject.class_word, subject.personalization_prompt, subject.trigger, subject.invert_masks]
            parts = [ALGORITHM, __version__, model, plan.precision, photos[name], told, method.described, seed]
            training = _hashed([*parts, shared[0] if method.reads_prompt else None])
            key = _hashed([training, shared, asdict(plan.pictures), judges])
            yield Cell(name, subject, method, seed, shared, training, key)


def _hashed(parts: list) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:LETTERS]


def digests(plan: Plan) -> tuple[str, str]:
    """Hash the model's files, and those of the judges."""
    if plan.demo:
        return f"{plan.model} {_digest((MODEL_FOLDER,))}", _digest((DEMO_JUDGES,))
    return _digest((Path(plan.model),)), _digest(tuple(path for path in (plan.clip, plan.dino) if path))


@cache
def _digest(paths: tuple[Path, ...]) -> str:
    """Hash the content of files, and of those in folders that say what a model is."""
    digest = sha256()
    for path in paths:
        inside = [file for file in path.rglob("*") if file.suffix in OF_A_MODEL] if path.is_dir() else [path]
        _add_files(digest, sorted(inside), path)
    return digest.hexdigest()


def _add_files(digest, files: Iterable[Path], root: Path) -> None:
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode())
        with file.open("rb") as opened:
            while part := opened.read(2**22):
                digest.update(part)


def _photos_digest(subject: SubjectJob, photos: tuple[Path, ...]) -> str:
    """Hash photos, masks and captions, each with its place."""
    found = find_photos(photos)
    masks = [file for path in subject.masks for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    beside = found.captions if subject.captions else ()
    digest = sha256(json.dumps([len(found.images), len(masks)]).encode())
    for file in (*found.images, *found.masks, *beside, *masks):
        digest.update(file.read_bytes() if file else b"none")
    return digest.hexdigest()


def _photographed(name: str, subject: SubjectJob, out: Path) -> SubjectJob:
    """Draw the photos of an individual of the demo world as files, and say what they are in its words."""
    if subject.individual is None:
        return subject
    (folder,) = photos_of(name, subject, out)
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(drawn_photos(new_individual(subject.individual, subject.class_word)), start=1):
        write_image(photo, folder / f"{number}.png")
    return replace(subject, personalization_prompt=subject.personalization_prompt or "a photo of a [V]")


def _check_texts(plan: Plan) -> None:
    """Raise PromptError for a prompt that a judge could not read."""
    for name, subject in plan.subjects.items():
        for prompt in subject.prompts or plan.prompts:
            try:
                if plan.demo:
                    read_target(put_words(prompt, {"[V]": subject.class_word}), subject.class_word)
                elif plan.clip:
                    text_of(prompt, subject.class_word)
            except PromptError as error:
                raise PromptError(f"subject {name}: {error}") from error
