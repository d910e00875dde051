"""Rows of figures on disk, one cell at a time, and what they say: table, comparison, chart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from palp_core.chart import rendered
from palp_core.picture_file import write_picture
from palp_core.toyworld import MODEL_FOLDER

from .pairs import Pairs

FOLDER = Path(__file__).parents[1] / "results"
RESULTS = FOLDER / "toyworld.jsonl"
AXES = {
    "text_alignment": "prompt",
    "subject_fidelity": "subject",
    "diversity": "variety",
    "attention_share": "word's share of attention",
}
ELEMENTS = ("style", "class_word", "accessory", "place")


class Cell(Protocol):
    """What is computed, and kept, as one piece."""

    @property
    def description(self) -> dict:
        """All that its figures depend on but the model's weights: what says whether it is there already."""

    @property
    def labels(self) -> dict:
        """What each of its rows is to carry: method, pairs, individual, seed."""


def compute(cells: Iterable[Cell], measure: Callable[[Cell], list[dict]], results: Path) -> None:
    """Add the rows of the cells that are not in the file for the shipped weights."""
    known = {row["cell"] for row in read_rows(results)}
    missing = {key: cell for cell in cells if (key := cell_key(cell)) not in known}
    for key, cell in tqdm(missing.items(), unit="cell"):
        lines = [json.dumps({**cell.labels, **row, "cell": key}) + "\n" for row in measure(cell)]
        with results.open("a", encoding="utf-8") as file:  # all of a cell, or nothing
            file.write("".join(lines))


def cell_key(cell: Cell) -> str:
    digest = hashlib.sha256(json.dumps(cell.description, sort_keys=True).encode())
    digest.update(weights_digest())
    return digest.hexdigest()[:16]


def weights_digest() -> bytes:
    digest = hashlib.sha256()
    for file in sorted(MODEL_FOLDER.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.digest()


def read_rows(results: Path, pairs: Pairs | None = None) -> list[dict]:
    if not results.exists():
        return []
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if pairs in (None, row["pairs"])]


def grouped(rows: list[dict]) -> dict[str, dict[int, dict[str, dict]]]:
    """method -> step -> pair of individual and prompt, with the seed -> row."""
    found: dict[str, dict[int, dict[str, dict]]] = {}
    for row in rows:
        pair = json.dumps([row["individual"], row["prompt"], row["seed"]])
        found.setdefault(row["method"], {}).setdefault(row["step"], {})[pair] = row
    return found


def values(rows: Iterable[dict], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def mean_and_error(numbers: list[float]) -> str:
    if len(numbers) < 2:
        return "".join(f"{number:.3f}" for number in numbers)
    return f"{np.mean(numbers):.3f} ± {np.std(numbers, ddof=1) / len(numbers) ** 0.5:.3f}"


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Print the figures of each method, with standard errors over pairs and seeds, in Markdown."""

    pairs: Pairs = "test"
    results: Path = RESULTS

    def run(self) -> None:
        heads = ["method", "step", *AXES.values(), "style", "class", "accessory", "place", "n"]
        print("|", " | ".join(heads), "|")
        print("|---" * len(heads) + "|")
        for method, steps in grouped(read_rows(self.results, self.pairs)).items():
            for step, pairs in sorted(steps.items()):
                axes = [mean_and_error(values(pairs.values(), name)) for name in AXES]
                elements = [f"{np.mean([row['elements'][name] for row in pairs.values()]):.0%}" for name in ELEMENTS]
                print("|", " | ".join([method, str(step), *axes, *elements, str(len(pairs))]), "|")


@dataclass(frozen=True)
class Compare:
    """Print how a method differs from a baseline, pair by pair, at the step where the baseline's fidelity is best.

    The method is taken at its earliest step with no less subject fidelity, or at its own best.
    """

    method: str = "palp"
    baseline: str = "ti_db"
    pairs: Pairs = "test"
    results: Path = RESULTS

    def run(self) -> None:
        found = grouped(read_rows(self.results, self.pairs))
        ours, theirs = found[self.method], found[self.baseline]
        our_fidelity, their_fidelity = ({step: fidelity(pairs) for step, pairs in m.items()} for m in (ours, theirs))
        their_step = max(their_fidelity, key=their_fidelity.get)
        enough = [step for step, value in our_fidelity.items() if value >= their_fidelity[their_step]]
        our_step = min(enough, default=max(our_fidelity, key=our_fidelity.get))
        shared = sorted(ours[our_step].keys() & theirs[their_step].keys())
        print(f"{self.method} at {our_step} steps minus {self.baseline} at {their_step} steps, {len(shared)} pairs:")
        for name, head in AXES.items():
            differences = [ours[our_step][pair][name] - theirs[their_step][pair][name] for pair in shared]
            print(f"{head:28} {mean_and_error(differences)}")


def fidelity(pairs: dict[str, dict]) -> float:
    return float(np.mean(values(pairs.values(), "subject_fidelity")))


@dataclass(frozen=True)
class Chart:
    """Draw both axes against each other, a curve over the steps for each method (the paper's Fig. 6)."""

    pairs: Pairs = "test"
    results: Path = RESULTS
    out: Path = FOLDER / "toyworld.png"

    def run(self) -> None:
        figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
        axes = figure.add_subplot(xlabel="subject fidelity", ylabel="text alignment")
        for method, steps in grouped(read_rows(self.results, self.pairs)).items():
            points = [(step, fidelity(p), np.mean(values(p.values(), "text_alignment"))) for step, p in steps.items()]
            numbers, x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", label=method)
            for number, *at in zip(numbers, x, y, strict=True):
                axes.annotate(str(number), at, textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        write_picture(rendered(figure), self.out)
