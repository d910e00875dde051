"""How a folder says which prompt each of its pictures was drawn for.

Either by a table, FOLDER/pictures.csv, or by its folders, of which each that holds pictures holds their prompt.txt:

    FOLDER/*.png                          one prompt
    FOLDER/PROMPT/*.png                   several
    FOLDER/METHOD/PROMPT/*.png            of several methods
    FOLDER/METHOD/SUBJECT/PROMPT/*.png    and of several subjects
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, printable, quoted
from ..files.photos import MEANT, listed, read_caption
from .rows import Row, read_table

TABLE, PROMPT = "pictures.csv", "prompt.txt"
HOW = f"Write their prompt into a file {PROMPT} beside them, or list them in {TABLE}, with the columns file and prompt"


@dataclass(frozen=True)
class Shown:
    """One picture, and what it was drawn for."""

    file: Path
    #: Its path in the folder, as a report names it.
    name: str
    #: As it was typed, with [V] or embedding:NAME for a subject.
    prompt: str
    #: The folder that has the subject's photos, empty where there is but one subject.
    subject: str
    method: str
    #: After how many steps of a training it was drawn; None where that is not said.
    step: int | None = None


def read_layout(folder: Path, prompt: str = "") -> list[Shown]:
    """Find the pictures below a folder, in the order of the table or of their names.

    prompt: of pictures in the folder itself that have no prompt.txt. Raises FileError where pictures, or prompts, are
    missing.
    """
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}.")
    table = folder / TABLE
    shown = _in_table(table) if table.is_file() else _in_folders(folder, prompt)
    if not shown:
        raise FileError(f"there are no pictures in {folder}.")
    return shown


def _in_folders(folder: Path, prompt: str) -> list[Shown]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in MEANT and not _hidden(file, folder))
    prompts = _prompts(folder, list(dict.fromkeys(file.parent for file in files)), prompt)
    places = {parent: _place(parent, folder) for parent in prompts}
    _check_once(prompts, places)
    return [
        Shown(file, file.relative_to(folder).as_posix(), prompts[file.parent], *places[file.parent]) for file in files
    ]


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _prompts(folder: Path, parents: list[Path], prompt: str) -> dict[Path, str]:
    """The prompt of each folder with pictures. Raises FileError for folders that have none."""
    files = {parent: parent / PROMPT for parent in parents}
    found = {parent: read_caption(file) for parent, file in files.items() if file.is_file()}
    if prompt:
        found = {folder: prompt, **found}
    if missing := [str(parent) for parent in parents if not found.get(parent)]:
        raise FileError(f"the pictures in {listed(missing)} have no prompt. {HOW}.")
    return {parent: found[parent] for parent in parents}


def _place(parent: Path, folder: Path) -> tuple[str, str]:
    """Subject and method of the pictures in a folder."""
    parts = parent.relative_to(folder).parts
    if len(parts) > 3:
        raise FileError(f"{parent} lies too deep in {folder}: METHOD/SUBJECT/PROMPT is as deep as pictures may lie.")
    subject = parts[1] if len(parts) == 3 else ""
    return subject, parts[0] if len(parts) > 1 else folder.resolve().name


def _check_once(prompts: dict[Path, str], places: dict[Path, tuple[str, str]]) -> None:
    """Raise FileError for two folders that would be taken for one."""
    first: dict[tuple, Path] = {}
    for parent, prompt in prompts.items():
        other = first.setdefault((prompt, places[parent]), parent)
        if other is not parent:
            raise FileError(
                f"{other} and {parent} hold the same prompt. Put the pictures of one prompt into one folder; those of "
                "different methods into METHOD/PROMPT folders."
            )


def _in_table(table: Path) -> list[Shown]:
    """The rows of pictures.csv. Raises FileError for one that says too little, or leads out of the folder."""
    shown = [_listed(table, row) for row in read_table(table, ("file", "prompt"), ("subject", "method", "step"))]
    seen: set[Path] = set()
    for one in shown:
        if one.file in seen:
            raise FileError(f"{table} names {one.name} twice.")
        seen.add(one.file)
    return shown


def _listed(table: Path, row: Row) -> Shown:
    folder, values = table.parent.resolve(), row.values
    file, subject = table.parent / values["file"], values["subject"]
    if not file.resolve().is_relative_to(folder):
        raise FileError(f"line {row.line} of {table} names {printable(values['file'])}, which is not in its folder.")
    if subject == ".." or any(letter in subject for letter in "/\\"):
        raise FileError(f"line {row.line} of {table} has the subject {quoted(subject)}, which is no name of a folder.")
    prompt = " ".join(values["prompt"].split())  # in one line, as that of a prompt.txt
    if values["step"] and not values["step"].isdecimal():
        raise FileError(f"line {row.line} of {table} has the step {quoted(values['step'])}, which is no whole number.")
    step = int(values["step"]) if values["step"] else None
    return Shown(file, values["file"], prompt, subject, values["method"] or folder.name, step)
