"""What the subjects in a folder of photos are: class_words.csv says so, or the list that comes with DreamBench.

DreamBench (arXiv 2208.12242; github.com/google/dreambooth, CC BY 4.0) has prompts_and_classes.txt beside its subjects.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, quoted
from .rows import read_table

CLASS_WORDS = "class_words.csv"
#: What class_words.csv may say of a subject in its column `kind`; others are things.
LIVE = "live"
#: The list of DreamBench's subjects begins below this line, and an empty one ends it.
DREAMBENCH, DREAMBENCH_COLUMNS = "prompts_and_classes.txt", "subject_name,class"
#: DreamBench's classes of live subjects.
ANIMALS = ("cat", "dog")


class Told(NamedTuple):
    """A subject, by the name of its folder, and what it is."""

    subject: str
    class_word: str
    kind: str


def read_class_words(folder: Path) -> list[Told]:
    """Read what the subjects in a folder are; none where nothing says so. Raises FileError for what cannot be read."""
    table, listed = folder / CLASS_WORDS, folder / DREAMBENCH
    if table.is_file():
        return [Told(**row.values) for row in read_table(table, ("subject", "class_word"), ("kind",))]
    if listed.is_file():
        return _of_dreambench(listed)
    return []


def _of_dreambench(file: Path) -> list[Told]:
    """Those of its subjects that have a folder beside it."""
    there = [told for told in _listed(file) if (file.parent / told.subject).is_dir()]
    if not there:
        raise FileError(f"none of the subjects that {file} lists has a folder of photos beside it.")
    return there


def _listed(file: Path) -> Iterator[Told]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise FileError(f"{file} is no text in UTF-8 ({error}). Take DreamBench's own file.") from error
    if DREAMBENCH_COLUMNS not in lines:
        raise FileError(
            f"{file} has no line {DREAMBENCH_COLUMNS}, below which it lists subjects. Take DreamBench's own."
        )
    first = lines.index(DREAMBENCH_COLUMNS) + 1
    for number, line in enumerate(takewhile(bool, lines[first:]), start=first + 1):
        subject, _, word = (part.strip() for part in line.partition(","))
        if not subject or not word or "," in word:
            raise FileError(f"line {number} of {file} is {quoted(line)}; it must be a subject, a comma, and its class.")
        yield Told(subject, word, LIVE if word in ANIMALS else "")
