"""The folder of a cell: what it is, who worked on it and for how long, and its rows."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..files.writing import write
from .cells import Cell
from .engine import Row

#: What the cell is; who began to work on it, and from which step.
CELL, LOG = "cell.json", "work.jsonl"


def describe(cell: Cell, folder: Path) -> None:
    """Say what a cell is, for whoever opens its folder."""
    photos = [str(path) for path in cell.within(Path()).subject.photos]
    told = {"method": cell.method.name, "subject": cell.subject_name, "class_word": cell.subject.class_word}
    told |= {"photos": photos, "prompts": cell.prompts, "seed": cell.seed}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CELL, json.dumps({**told, "settings": cell.method.described}, indent=1, ensure_ascii=False) + "\n")


def keep_rows(folder: Path, key: str, rows: list[Row]) -> None:
    """Keep the rows of a cell, whole or not at all: from now on it is there. Raises OSError."""
    _write(rows_file(folder, key), json.dumps(rows, ensure_ascii=False) + "\n")


def kept_rows(folder: Path, key: str) -> list[Row] | None:
    """Return the rows of a cell; None where it is not there, or damaged."""
    try:
        rows = json.loads(rows_file(folder, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return rows if isinstance(rows, list) else None


def log_begin(folder: Path, run: str) -> int:
    """Note who begins to work on a cell; returns how often that was begun, but not ended, in the same run."""
    entries = _entries(folder / LOG)
    begun = [entry for entry in entries if entry.get("run") == run]
    log(folder, {"run": run, "host": platform.node(), "process": os.getpid()})
    return len(begun)


def _entries(file: Path) -> list[dict]:
    """The lines of a log; one that was cut off counts as none."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def log(folder: Path, entry: dict) -> None:
    """Add a line to the folder's log."""
    with (folder / LOG).open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(entry) + "\n")


def rows_file(folder: Path, key: str) -> Path:
    """Name the file of a cell's rows."""
    return folder / f"rows_{key}.json"


def _write(file: Path, text: str) -> None:
    write(file, partial(Path.write_text, data=text, encoding="utf-8"))
