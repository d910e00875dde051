"""What rows say: means with their errors, a table of methods, two methods pair by pair."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from palp_core.evaluation.metrics import standard_error as clustered_error
from palp_core.toyworld.metrics import mean_and_error

from .rows import ByPair, BySteps

AXES = {
    "text_alignment": "text alignment",
    "subject_alignment": "subject alignment",
    "diversity": "diversity",
    "attention_share": "word's share of attention",
}
ELEMENTS = {"style": "style", "class_word": "class", "accessory": "accessory", "place": "place"}


def values(rows: Iterable[dict], name: str) -> list[float]:
    """Take one figure of each row."""
    return [row[name] for row in rows]


def standard_error(rows: list[dict], numbers: list[float]) -> float | None:
    """Estimate that of the mean of numbers, one for each row; None where there is but one individual.

    Rows of one individual share a training and rows of one prompt its difficulty, so that they count as clusters.
    """
    individuals, prompts = ([json.dumps(row[name]) for row in rows] for name in ("individual", "prompt"))
    return clustered_error(numbers, individuals, prompts) if len(set(individuals)) > 1 else None


def mean_of_rows(rows: list[dict], numbers: list[float], digits: int = 3) -> str:
    """Write the mean of numbers, one for each row, with its standard error."""
    mean, error = np.mean(numbers), standard_error(rows, numbers)
    return f"{mean:.{digits}f}" if error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def mean_of_independent(numbers: list[float]) -> str:
    """Write the mean of independent numbers with its standard error."""
    return "{:.3f} ± {:.3f}".format(*mean_and_error(torch.tensor(numbers)))


def share_found(rows: list[dict], element: str) -> str:
    """Write in how many of the pictures whose prompt names the element it is found, in percent."""
    naming = [row for row in rows if element in row["elements"]]
    shares = [100 * row["elements"][element] for row in naming]
    return mean_of_rows(naming, shares, digits=0) if shares else "–"


def step_seconds(rows: Iterable[dict], methods: list[str]) -> dict[str, float]:
    """Return what a step of each method takes, in seconds of the processor, by its rows.

    Raises ValueError where one of them has none.
    """
    spent: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        if row.get("seconds"):
            spent.setdefault(row["method"], []).append((row["seconds"], row["step"]))
    if unknown := [name for name in methods if name not in spent]:
        raise ValueError(f"no row of {', '.join(unknown)} says how many seconds it took.")
    return {name: sum(s for s, _ in spent[name]) / sum(n for _, n in spent[name]) for name in methods}


def table(found: dict[str, BySteps]) -> Iterator[str]:
    """Write the lines of a table in Markdown: each method at each of its steps."""
    heads = ["method", "step", "seconds", *AXES.values(), *(f"{name}, %" for name in ELEMENTS.values()), "n"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for method, steps in found.items():
        for step, by_pair in sorted(steps.items()):
            rows = list(by_pair.values())
            axes = [mean_of_rows(rows, values(rows, name)) for name in AXES]
            shares = [share_found(rows, name) for name in ELEMENTS]
            yield f"| {' | '.join([method, str(step), seconds_of(rows), *axes, *shares, str(len(rows))])} |"


def seconds_of(rows: list[dict]) -> str:
    """Write the mean of the processor's seconds of training; rows of earlier versions may lack them."""
    known = [row["seconds"] for row in rows if "seconds" in row]
    return f"{np.mean(known):.0f}" if known else "–"


def differences(ours: ByPair, theirs: ByPair, shared: list[str]) -> Iterator[str]:
    """Write by how much we differ from them on each axis, over the pairs that both have."""
    rows = [ours[pair] for pair in shared]
    for name, head in AXES.items():
        others = values((theirs[pair] for pair in shared), name)
        apart = [a - b for a, b in zip(values(rows, name), others, strict=True)]
        yield f"{head:28} {mean_of_rows(rows, apart)}"


def steps_of_equal_alignment(ours: BySteps, theirs: BySteps) -> tuple[int, int]:
    """Choose our first step with the best subject alignment of theirs, else our best; and the step of theirs."""
    our_alignment, their_alignment = (
        {step: np.mean(values(by_pair.values(), "subject_alignment")) for step, by_pair in sorted(steps.items())}
        for steps in (ours, theirs)
    )
    their_step = max(their_alignment, key=their_alignment.get)
    enough = [step for step, value in our_alignment.items() if value >= their_alignment[their_step]]
    return enough[0] if enough else max(our_alignment, key=our_alignment.get), their_step


def curve(steps: BySteps, name: str) -> tuple[list[int], list[float], list[float]]:
    """Give the steps, and at each the mean of a figure and its standard error (0 where it has none)."""
    numbers = sorted(steps)
    rows = [list(steps[number].values()) for number in numbers]
    means = [float(np.mean(values(some, name))) for some in rows]
    return numbers, means, [standard_error(some, values(some, name)) or 0.0 for some in rows]
