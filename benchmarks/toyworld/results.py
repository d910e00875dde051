"""Rows of figures on disk, one cell at a time, and what they say: table, comparison, chart."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from palp_core.files.images import write_image
from palp_core.toyworld import MODEL_FOLDER
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import GUIDANCE_SCALE, SAMPLING_STEPS, fidelity_range, load_world
from palp_core.training.chart import rendered

from .attention import LEVELS
from .pairs import INDIVIDUALS, PROMPTS, Pairs, target

WORLD_FOLDER = MODEL_FOLDER.parent
FOLDER = Path(__file__).parents[1] / "results"
RESULTS = FOLDER / "toyworld.jsonl"
#: To be raised where a change of the code makes something else of the same settings: earlier cells count as missing.
ALGORITHM = 1
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
        """All that its figures depend on beside the world: what says whether it is there already."""

    @property
    def labels(self) -> dict:
        """What each of its rows is to carry: method, pairs, individual, seed."""


def compute(cells: Iterable[Cell], measure: Callable[[Cell], list[dict]], results: Path) -> None:
    """Add the cells that are not in the file, a line each, so that a cell is there whole or not at all."""
    results.parent.mkdir(parents=True, exist_ok=True)
    known = {line["cell"] for line in read_cells(results)}
    missing = {key: cell for cell in cells if (key := cell_key(cell)) not in known}
    for key, cell in tqdm(missing.items(), unit="cell"):
        rows = [{**cell.labels, **row} for row in measure(cell)]
        append_line(results, json.dumps({"cell": key, "world": world_digest(), "rows": rows}))


def append_line(file: Path, line: str) -> None:
    """Also behind a line that was cut off when the disk was full or the power failed."""
    earlier = file.read_bytes() if file.exists() else b""
    cut_off = earlier and not earlier.endswith(b"\n")
    with file.open("a", encoding="utf-8") as opened:
        opened.write(("\n" if cut_off else "") + line + "\n")


def cell_key(cell: Cell) -> str:
    described = json.dumps([cell.description, world_digest(), ALGORITHM], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


@cache
def world_digest() -> str:
    """Stands for the weights of model and judges, and for how pictures are drawn and looked at."""
    digest = hashlib.sha256(json.dumps([GUIDANCE_SCALE, SAMPLING_STEPS, LEVELS]).encode())
    for file in sorted(WORLD_FOLDER.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read_cells(results: Path) -> list[dict]:
    """The cells of the world as it is now; a line that was cut off counts as none."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            cell = json.loads(line)
        except json.JSONDecodeError:
            logging.warning("%s has a damaged line, which is passed over", results)
            continue
        if cell["world"] == world_digest():
            found.append(cell)
    return found


def read_rows(results: Path, pairs: Pairs | None = None) -> list[dict]:
    rows = [{**row, "cell": cell["cell"]} for cell in read_cells(results) for row in cell["rows"]]
    return [row for row in rows if pairs in (None, row["pairs"])]


def grouped(rows: list[dict]) -> dict[str, dict[int, dict[str, dict]]]:
    """method -> step -> pair of individual and prompt, with the seed -> row.

    Raises ValueError where one method's name stands for two settings.
    """
    found: dict[str, dict[int, dict[str, dict]]] = {}
    for row in rows:
        pair = json.dumps([row["individual"], row["prompt"], row["seed"]])
        earlier = found.setdefault(row["method"], {}).setdefault(row["step"], {}).setdefault(pair, row)
        if earlier["cell"] != row["cell"]:
            raise ValueError(
                f"{row['method']!r} was run with two settings. Remove one from the file, or run it with --label."
            )
    return found


def require_label(label: str, changed: bool) -> None:
    """Raises ValueError where other settings than the usual have no name of their own."""
    if changed and not label:
        raise ValueError("these settings are not the usual: give --label, a name under which their rows are kept.")


def values(rows: Iterable[dict], name: str) -> list[float]:
    return [row[name] for row in rows]


def share_found(rows: list[dict], element: str) -> str:
    """In how many of the pictures whose prompt names the element it is found, in percent."""
    naming = [row for row in rows if element in row["elements"]]
    shares = [100 * row["elements"][element] for row in naming]
    return mean_with_error(naming, shares, digits=0) if shares else "–"


def mean_with_error(rows: list[dict], numbers: list[float], digits: int = 3) -> str:
    mean, error = np.mean(numbers), standard_error(rows, numbers)
    return f"{mean:.{digits}f}" if error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def standard_error(rows: list[dict], numbers: list[float]) -> float | None:
    """Of the mean of numbers, one for each row; None where there is but one individual.

    Rows of one individual share a training and rows of one prompt its difficulty, so that they count as clusters, in
    both ways at once (Cameron, Gelbach and Miller 2011, eq. 2.11). Of a single prompt it is the error for that prompt.
    """
    individuals, prompts = ([json.dumps(row[name]) for row in rows] for name in ("individual", "prompt"))
    if len(set(individuals)) < 2:
        return None
    rest = np.array(numbers) - np.mean(numbers)
    if len(set(prompts)) < 2:
        return float(_cluster_variance(rest, individuals) ** 0.5)
    by_individual, by_prompt, by_pair = (
        _cluster_variance(rest, clusters)
        for clusters in (individuals, prompts, list(zip(individuals, prompts, strict=True)))
    )
    return float(max(by_individual + by_prompt - by_pair, by_individual, by_prompt) ** 0.5)


def _cluster_variance(rest: np.ndarray, clusters: Sequence[Hashable]) -> float:
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(rest, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return sum(total**2 for total in sums.values()) / len(rest) ** 2 * len(sums) / (len(sums) - 1)


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Print the figures of each method, with standard errors over individuals and prompts, in Markdown."""

    pairs: Pairs = "test"
    #: Only these; none for all.
    methods: tuple[str, ...] = ()
    #: Only pairs and seeds that all of them have, so that their means compare.
    shared: bool = False
    results: Path = RESULTS

    def run(self) -> None:
        found = chosen(self.results, self.pairs, self.methods, self.shared)
        elements = [f"{name}, %" for name in ("style", "class", "accessory", "place")]
        heads = ["method", "step", *AXES.values(), *elements, "n"]
        print("|", " | ".join(heads), "|")
        print("|---" * len(heads) + "|")
        for method, steps in found.items():
            for step, by_pair in sorted(steps.items()):
                rows = list(by_pair.values())
                axes = [mean_with_error(rows, values(rows, name)) for name in AXES]
                shares = [share_found(rows, name) for name in ELEMENTS]
                print("|", " | ".join([method, str(step), *axes, *shares, str(len(rows))]), "|")


@dataclass(frozen=True)
class Compare:
    """Print how a method differs from a baseline, pair by pair and seed by seed.

    Their steps are chosen on other pairs than are reported, on those that both have: the baseline's with the best
    subject fidelity, the method's first with no less of it.
    """

    method: str = "delta"
    baseline: str = "ti_db"
    #: Instead of the steps that are chosen.
    step: int | None = None
    baseline_step: int | None = None
    chosen_on: Pairs = "tuning"
    pairs: Pairs = "test"
    #: Of what is reported only these trainings; none for all.
    seeds: tuple[int, ...] = ()
    results: Path = RESULTS

    def run(self) -> None:
        step, baseline_step = self._steps()
        ours, theirs = self._found(self.pairs, seeds=self.seeds)
        mine, other = at_step(ours, self.method, step), at_step(theirs, self.baseline, baseline_step)
        shared = sorted(mine.keys() & other.keys())
        if not shared:
            raise nothing_shared((self.method, self.baseline))
        print(f"{self.method} at {step} steps minus {self.baseline} at {baseline_step} steps, {len(shared)} pairs:")
        rows = [mine[pair] for pair in shared]
        for name, head in AXES.items():
            theirs_too = values((other[pair] for pair in shared), name)
            differences = [a - b for a, b in zip(values(rows, name), theirs_too, strict=True)]
            print(f"{head:28} {mean_with_error(rows, differences)}")

    def _steps(self) -> tuple[int, int]:
        """The method's and the baseline's: as they are given, else as the other pairs say."""
        if self.step is not None and self.baseline_step is not None:
            return self.step, self.baseline_step
        step, baseline_step = steps_at_equal_fidelity(*self._found(self.chosen_on, shared=True))
        return (step if self.step is None else self.step), (
            baseline_step if self.baseline_step is None else self.baseline_step
        )

    def _found(
        self, pairs: Pairs, shared: bool = False, seeds: tuple[int, ...] = ()
    ) -> tuple[dict[int, dict], dict[int, dict]]:
        """step -> pair -> row, of the method and of the baseline."""
        found = chosen(self.results, pairs, (self.method, self.baseline), shared, seeds)
        return found[self.method], found[self.baseline]


def at_step(steps: dict[int, dict], method: str, step: int) -> dict[str, dict]:
    """pair -> row. Raises ValueError for a step at which the method was not judged."""
    if step not in steps:
        raise ValueError(f"{method} has no rows at {step} steps; it has them at {', '.join(map(str, sorted(steps)))}.")
    return steps[step]


def chosen(
    results: Path, pairs: Pairs, methods: tuple[str, ...], shared: bool, seeds: tuple[int, ...] = ()
) -> dict[str, dict]:
    """method -> step -> pair -> row of some of the methods, in the order asked for; of all where none is.

    shared: only the pairs that all of them have. seeds: only these trainings, all where there is none. Raises
    ValueError for a method that was not run.
    """
    found = grouped([row for row in read_rows(results, pairs) if not seeds or row["seed"] in seeds])
    for method in methods:
        if method not in found:
            there = f"there are those of {', '.join(found) or 'nothing'}"
            raise ValueError(f"there are no rows of {method!r} on the {pairs} pairs; {there}.")
    found = {method: found[method] for method in methods} or found
    return shared_only(found) if shared else found


def nothing_shared(methods: Iterable[str]) -> ValueError:
    return ValueError(f"no pair and seed was run with all of {', '.join(methods)}.")


def shared_only(found: dict[str, dict[int, dict[str, dict]]]) -> dict[str, dict[int, dict[str, dict]]]:
    """The pairs that each method has at each of its steps. Raises ValueError where there is none."""
    shared = set.intersection(*(set(by_pair) for steps in found.values() for by_pair in steps.values()))
    if not shared:
        raise nothing_shared(found)
    return {
        method: {step: {pair: by_pair[pair] for pair in sorted(shared)} for step, by_pair in steps.items()}
        for method, steps in found.items()
    }


def steps_at_equal_fidelity(ours: dict[int, dict], theirs: dict[int, dict]) -> tuple[int, int]:
    """Our first step with the best subject fidelity of theirs, else our best; and the step of theirs."""
    our_fidelity, their_fidelity = (
        {step: np.mean(values(by_pair.values(), "subject_fidelity")) for step, by_pair in sorted(steps.items())}
        for steps in (ours, theirs)
    )
    their_step = max(their_fidelity, key=their_fidelity.get)
    enough = [step for step, value in our_fidelity.items() if value >= their_fidelity[their_step]]
    return enough[0] if enough else max(our_fidelity, key=our_fidelity.get), their_step


@dataclass(frozen=True)
class Chart:
    """Draw both axes against the steps, and against each other (the paper's Fig. 6), with standard errors.

    Dotted: the subject fidelity of other individuals of the class, and that of true pictures. The curves of the last
    panel start at the fewest steps.
    """

    pairs: Pairs = "test"
    #: Only these; none for all.
    methods: tuple[str, ...] = ()
    #: Only pairs and seeds that all of them have, so that their curves compare.
    shared: bool = False
    results: Path = RESULTS
    out: Path = FOLDER / "toyworld.png"

    def run(self) -> None:
        figure = Figure(figsize=(15, 4.6), dpi=110, layout="constrained")
        axes = figure.subplots(1, 3)
        for method, steps in chosen(self.results, self.pairs, self.methods, self.shared).items():
            text, fidelity = (curve(steps, name) for name in ("text_alignment", "subject_fidelity"))
            for panel, (numbers, means, errors) in zip(axes, (text, fidelity), strict=False):
                panel.errorbar(numbers, means, errors, marker="o", capsize=2, label=method)
            axes[2].plot(fidelity[1], text[1], marker="o", label=method)
        axes[0].set(xlabel="steps", ylabel="text alignment")
        axes[1].set(xlabel="steps", ylabel="subject fidelity")
        axes[2].set(xlabel="subject fidelity", ylabel="text alignment")
        for panel in axes:
            panel.grid(alpha=0.25)
        for fidelity in fidelity_ranges(self.pairs).mean(dim=0).tolist():
            axes[1].axhline(fidelity, color="grey", linestyle=":")
            axes[2].axvline(fidelity, color="grey", linestyle=":")
        axes[2].legend(frameon=False, loc="lower left")
        write_image(rendered(figure), self.out)


def fidelity_ranges(pairs: Pairs) -> Tensor:
    """Subject fidelity's floor (others of the class) and ceiling (true renders) for each individual, (N, 2)."""
    world = load_world()
    return torch.tensor(
        [
            fidelity_range(world, new_individual(number, word), [target(word, p) for p in PROMPTS[pairs]], number)
            for word, number in INDIVIDUALS[pairs]
        ]
    )


def curve(steps: dict[int, dict[str, dict]], name: str) -> tuple[list[int], list[float], list[float]]:
    """Steps, and at each the mean of a figure and its standard error (0 where it has none)."""
    numbers = sorted(steps)
    rows = [list(steps[number].values()) for number in numbers]
    means = [float(np.mean(values(some, name))) for some in rows]
    return numbers, means, [standard_error(some, values(some, name)) or 0.0 for some in rows]
