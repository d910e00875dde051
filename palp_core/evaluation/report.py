"""An evaluation as files: two tables of comma-separated values, and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..files.writing import write
from .page import page
from .results import AXES, Evaluation, Figure
from .table import counts

FIGURES, BY_PICTURE, CURVES, REPORT = "figures.csv", "by_picture.csv", "curves.csv", "report.html"


def write_report(evaluation: Evaluation, out: Path, title: str) -> Path:
    """Write figures.csv, by_picture.csv and report.html, each whole or not at all; returns the path of the last.

    Where methods have pictures of several steps, curves.csv has the figures after each.
    """
    texts = {
        FIGURES: _as_csv(_figure_rows(evaluation)),
        BY_PICTURE: _as_csv(_picture_rows(evaluation)),
        **({CURVES: _as_csv(_curve_rows(evaluation))} if evaluation.curved else {}),
        REPORT: page(evaluation, title),
    }
    for name, text in texts.items():
        write(out / name, partial(Path.write_text, data=text, encoding="utf-8", newline=""))
    return out / REPORT


def _figure_rows(evaluation: Evaluation) -> Iterable[Sequence]:
    errors = [f"{axis}_error" for axis in AXES]
    yield ["method", "subjects", "prompts", "pictures", *AXES, *errors]
    for method in evaluation.methods:
        figures = [evaluation.figure(method, axis) or Figure(None, None) for axis in AXES]
        means, of_means = zip(*figures, strict=True)
        yield [method, *counts(evaluation, method), *means, *of_means]


def _curve_rows(evaluation: Evaluation) -> Iterable[Sequence]:
    yield ["method", "step", *AXES, *(f"{axis}_error" for axis in AXES)]
    for method in evaluation.methods:
        for step in evaluation.steps(method):
            figures = [evaluation.figure(method, axis, step) or Figure(None, None) for axis in AXES]
            means, of_means = zip(*figures, strict=True)
            yield [method, step, *means, *of_means]


def _picture_rows(evaluation: Evaluation) -> Iterable[Sequence]:
    axes = [axis for axis in AXES if axis != "diversity"]  # which one picture has not
    yield ["file", "method", "subject", "prompt", "step", *axes]
    for cell in evaluation.cells:
        for one in cell.pictures:
            figures = [one.figures.get(axis) for axis in axes]
            yield [one.shown.name, cell.method, cell.subject, cell.prompt, cell.step, *figures]


def _as_csv(rows: Iterable[Sequence]) -> str:
    """None is an empty field."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
