"""The table of a sweep: a row for each method, subject, prompt, seed and step, in the order of the plan."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from ..evaluation.class_words import CLASS_WORDS
from ..evaluation.layout import TABLE as PICTURES
from ..evaluation.metrics import standard_error
from ..evaluation.results import AXES, Figure
from ..evaluation.table import written
from ..files.writing import write
from .cells import PHOTOS, Cell
from .drawing import pictures_of
from .engine import Row
from .plan import Plan

JSONL, CSV = "table.jsonl", "table.csv"
#: Before the figures.
LABELS = ("method", "subject", "prompt", "seed", "step", "pictures")


def rows_of(cells: Iterable[Cell], there: Mapping[str, list[Row]]) -> list[Row]:
    """List the rows of the cells that are there, with their labels, in the plan's order."""
    return [labelled(cell, row) for cell in cells for row in there.get(cell.key, ())]


def labelled(cell: Cell, row: Row) -> Row:
    """Say whose a row is."""
    return {"method": cell.method.name, "subject": cell.subject_name, "seed": cell.seed, "cell": cell.training, **row}


def write_table(plan: Plan, cells: Sequence[Cell], there: Mapping[str, list[Row]], out: Path) -> None:
    """Write the rows as JSON lines and as CSV, and what makes of the folder one that `palp evaluate` reads."""
    rows, columns = rows_of(cells, there), (*LABELS, *AXES, "cell")
    texts = {
        JSONL: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        CSV: _as_csv([columns, *([row.get(name) for name in columns] for row in rows)]),
        PICTURES: _as_csv([["file", "prompt", "subject", "method", "step"], *_pictures(plan, cells, there, out)]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write(out / name, partial(Path.write_text, data=text, encoding="utf-8", newline=""))


def _pictures(plan: Plan, cells: Iterable[Cell], there: Mapping[str, list[Row]], out: Path) -> Iterator[list]:
    """The pictures of the cells that are there, and what each was drawn for."""
    for cell in (cell for cell in cells if cell.key in there):
        for step, prompt in product(plan.pictures.steps(cell.method.steps), cell.prompts):
            for file in pictures_of(cell, step, prompt, plan.pictures, out):
                yield [file.relative_to(out).as_posix(), prompt, cell.subject_name, cell.method.name, step]


def write_class_words(plan: Plan, out: Path) -> None:
    """Beside the demo world's photos, say what each subject is, as `palp evaluate --photos` reads it."""
    if plan.demo:
        rows = [["subject", "class_word"], *([name, job.class_word] for name, job in plan.subjects.items())]
        write(out / PHOTOS / CLASS_WORDS, partial(Path.write_text, data=_as_csv(rows), encoding="utf-8", newline=""))


def _as_csv(rows: Iterable[Sequence]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def filling(cell: Cell, rows: Iterable[Row]) -> str:
    """Write a cell as a line of the table that fills: its figures at the end of its training, over its prompts."""
    last = [row for row in rows if row["step"] == cell.method.steps]
    means = {axis: [row[axis] for row in last if axis in row] for axis in AXES}
    figures = [f"{AXES[axis][0]} {np.mean(values):.3f}" for axis, values in means.items() if values]
    return "  ".join([cell.title, *figures])


def summary(cells: Sequence[Cell], there: Mapping[str, list[Row]]) -> str:
    """Write the figures of each method at the end of its trainings, with standard errors over subjects and prompts."""
    ends = {cell.method.name: cell.method.steps for cell in cells}
    rows = [row for row in rows_of(cells, there) if row["step"] == ends[row["method"]]]
    lines = [["", *(name for name, _ in AXES.values()), "rows"]]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        lines.append([method, *(written(_figure(own, axis)) for axis in AXES), str(len(own))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _figure(rows: Sequence[Row], axis: str) -> Figure | None:
    known = [row for row in rows if axis in row]
    if not known:
        return None
    numbers = [row[axis] for row in known]
    error = standard_error(numbers, [row["subject"] for row in known], [row["prompt"] for row in known])
    return Figure(float(np.mean(numbers)), error)
