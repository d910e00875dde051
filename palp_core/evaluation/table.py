"""An evaluation's figures, for people in the terminal and for programs."""

from __future__ import annotations

from .results import AXES, Evaluation, Figure

NOT_MEASURED = "–"


def as_table(evaluation: Evaluation) -> str:
    """Write the figures for people: a line for each method, then what is not measured, and what the figures are."""
    rows = [["", *(name for name, _ in AXES.values()), "prompts", "pictures"]]
    for method in evaluation.methods:
        figures = [written(evaluation.figure(method, axis)) for axis in AXES]
        rows.append([method, *figures, *map(str, counts(evaluation, method)[1:])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*lines, *evaluation.missing(), *legend(evaluation)])


def legend(evaluation: Evaluation) -> list[str]:
    """Say what the figures are that are measured, in sentences."""
    measured = [
        f"{name} is {meaning}." for axis, (name, meaning) in AXES.items() if axis not in evaluation.not_measured
    ]
    return [*measured, "± is the standard error over subjects and prompts, which count alike."]


def written(figure: Figure | None) -> str:
    """Write a mean with its error."""
    if figure is None:
        return NOT_MEASURED
    return f"{figure.mean:.3f}" if figure.error is None else f"{figure.mean:.3f} ± {figure.error:.3f}"


def as_json(evaluation: Evaluation) -> dict:
    """Give the figures of each method and why others are missing, for programs."""
    return {
        "methods": {
            method: {
                axis: figure and {"mean": figure.mean, "error": figure.error}
                for axis in AXES
                for figure in [evaluation.figure(method, axis)]
            }
            | dict(zip(("subjects", "prompts", "pictures"), counts(evaluation, method), strict=True))
            for method in evaluation.methods
        },
        "not_measured": evaluation.not_measured,
        "notes": list(evaluation.notes),
    }


def counts(evaluation: Evaluation, method: str) -> tuple[int, int, int]:
    """Count how many subjects, prompts and pictures a method has."""
    cells = evaluation.of(method)
    of_each = len({cell.subject for cell in cells}), len({cell.prompt for cell in cells})
    return *of_each, sum(len(cell.pictures) for cell in cells)
