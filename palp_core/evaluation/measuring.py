"""Pictures, encoded by the judges that there are and compared: with their prompts, with photos, with each other.

CLIP-T, CLIP-I and DINO are those of DreamBooth (arXiv 2208.12242, sec. 4.1), with DINOv2 in the place of DINO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError
from ..files.photos import listed
from .judges import PictureJudge, TextJudge
from .layout import Shown
from .metrics import alignment, diversity
from .pictures import read_picture, small_jpeg
from .pretrained import CLIP, DINO, Kind
from .references import Reference, text_of
from .results import AXES, Cell, Evaluation, Judged

BATCH = 16  # pictures, or texts, that are in memory at once
#: Method, subject, prompt and step.
CellKey = tuple[str, str, str, int | None]
#: Goes through a sequence, and may show how far it is.
Progress = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Judges:
    """The judges that there are; at least one."""

    clip: TextJudge | None = None
    dino: PictureJudge | None = None

    def encode(self, pictures: Sequence[Tensor]) -> dict[str, Tensor]:
        """Encode pictures, (H, W, 3) in 0..1 each: name of the judge -> (N, D)."""
        present = {name: judge for name, judge in vars(self).items() if judge is not None}
        return {name: judge.encode_pictures(pictures) for name, judge in present.items()}


class _Seen(NamedTuple):
    """A picture that could be read. vectors: name of the judge -> (D,)."""

    shown: Shown
    small: bytes
    vectors: dict[str, Tensor]


class _Photos(NamedTuple):
    """A subject's photos, which may be none. vectors: name of the judge -> (M, D)."""

    small: tuple[bytes, ...]
    vectors: dict[str, Tensor]


def evaluate(
    shown: Sequence[Shown], references: Mapping[str, Reference], judges: Judges, progress: Progress = iter
) -> Evaluation:
    """Measure pictures. references: subject -> its photos and class word.

    A picture that cannot be read is left out and named. Raises FileError where none can be read, and for a photo that
    cannot be; PromptError for a prompt that CLIP could not read.
    """
    texts = cell_texts(shown, references) if judges.clip else {}
    photos = {subject: _photos(of.photos, judges) for subject, of in references.items()}
    text_vectors = _encoded_texts(judges.clip, list(texts.values()))
    seen, unreadable = _seen(shown, judges, progress)
    if not seen:
        raise FileError(f"none of the pictures can be read: {listed(unreadable)}.")
    cells = [_cell(key, cell, text_vectors.get(texts.get(key)), photos[key[1]].vectors) for key, cell in _grouped(seen)]
    return Evaluation(
        tuple(cells),
        _not_measured(cells, judges, any(of.small for of in photos.values())),
        {subject: of.small for subject, of in photos.items()},
        (*(note for of in references.values() for note in of.notes), *_notes(cells, unreadable)),
    )


def cell_texts(shown: Sequence[Shown], references: Mapping[str, Reference]) -> dict[CellKey, str]:
    """Write what CLIP reads for each cell. Raises PromptError where it could not read it."""
    return {_cell_of(one): text_of(one.prompt, references[one.subject].class_word) for one in shown}


def _cell_of(shown: Shown) -> CellKey:
    return shown.method, shown.subject, shown.prompt, shown.step


def _photos(files: Iterable[Path], judges: Judges) -> _Photos:
    """Read and encode one after the other: photos of cameras are large."""
    small: list[bytes] = []
    vectors: dict[str, list[Tensor]] = {}
    for file in files:
        picture = read_picture(file)
        small.append(small_jpeg(picture))
        for name, vector in judges.encode([picture]).items():
            vectors.setdefault(name, []).append(vector)
    return _Photos(tuple(small), {name: torch.cat(of) for name, of in vectors.items()})


def _grouped(seen: list[_Seen]) -> list[tuple[CellKey, list[_Seen]]]:
    """The pictures of each cell, in the order in which the cells appear."""
    order = {key: number for number, key in enumerate(dict.fromkeys(_cell_of(one.shown) for one in seen))}
    together = sorted(seen, key=lambda one: order[_cell_of(one.shown)])
    return [(key, list(cell)) for key, cell in groupby(together, key=lambda one: _cell_of(one.shown))]


def _encoded_texts(judge: TextJudge | None, texts: list[str]) -> dict[str | None, Tensor]:
    """Text -> (1, D), each encoded once."""
    different = list(dict.fromkeys(texts))
    batches = [different[start : start + BATCH] for start in range(0, len(different), BATCH)]
    vectors = [vector[None] for batch in batches for vector in judge.encode_texts(batch)] if judge else []
    return dict(zip(different, vectors, strict=True))


def _seen(shown: Sequence[Shown], judges: Judges, progress: Progress) -> tuple[list[_Seen], list[str]]:
    """The pictures that can be read, encoded, and the names of the others."""
    seen: list[_Seen] = []
    unreadable: list[str] = []
    for start in progress(range(0, len(shown), BATCH)):
        read: list[tuple[Shown, Tensor]] = []
        for one in shown[start : start + BATCH]:
            try:
                read.append((one, read_picture(one.file)))
            except FileError:
                unreadable.append(one.name)
        vectors = judges.encode([picture for _, picture in read]) if read else {}
        for number, (one, picture) in enumerate(read):
            seen.append(_Seen(one, small_jpeg(picture), {name: of[number] for name, of in vectors.items()}))
    return seen, unreadable


def _cell(key: CellKey, seen: list[_Seen], text: Tensor | None, photos: Mapping[str, Tensor]) -> Cell:
    """Measure the pictures of one cell. text: (1, D); photos: name of the judge -> (M, D)."""
    vectors = {name: torch.stack([one.vectors[name] for one in seen]) for name in seen[0].vectors}
    compared = {"clip_t": ("clip", text), "clip_i": ("clip", photos.get("clip")), "dino": ("dino", photos.get("dino"))}
    figures = {
        axis: alignment(vectors[judge], others) for axis, (judge, others) in compared.items() if others is not None
    }
    means = {axis: float(values.mean()) for axis, values in figures.items()}
    if "dino" in vectors and len(seen) > 1:
        means["diversity"] = diversity(vectors["dino"])
    pictures = tuple(
        Judged(one.shown, {axis: float(values[number]) for axis, values in figures.items()}, one.small)
        for number, one in enumerate(seen)
    )
    *whose, step = key
    return Cell(*whose, pictures, means, step)


def _not_measured(cells: list[Cell], judges: Judges, photos: bool) -> dict[str, str]:
    """Axis -> why no cell has it."""
    reasons = {"clip_t": needs(CLIP), "clip_i": needs(CLIP), "dino": needs(DINO), "diversity": needs(DINO)}
    if judges.clip is not None and not photos:
        reasons["clip_i"] = "It needs --photos, the photos of the subject."
    if judges.dino is not None:
        reasons["dino"] = "It needs --photos, the photos of the subject."
        reasons["diversity"] = "It needs two pictures of a prompt."
    return {axis: reasons[axis] for axis in AXES if not any(axis in cell.figures for cell in cells)}


def needs(kind: Kind) -> str:
    """Say how a judge that is missing is given, in sentences."""
    return f"It needs {kind.option} FOLDER with {kind.title}. This gets one: {kind.download}"


def _notes(cells: list[Cell], unreadable: list[str]) -> Iterable[str]:
    if unreadable:
        yield f"left out, because they cannot be read: {listed(unreadable)}."
    asked: dict[str, set] = {}
    for cell in cells:
        asked.setdefault(cell.method, set()).add((cell.subject, cell.prompt))
    first, *others = asked
    if unlike := [method for method in others if asked[method] != asked[first]]:
        yield f"{listed([first, *unlike])} have not the same subjects and prompts: their figures do not compare."
