"""PALP against its baselines on the toy world: `python -m benchmarks.toyworld run`, then `table` and `figure`.

Every method is measured at several steps of its training, because a baseline that is stopped early is a strong one.
Pairs of individual and prompt on which settings are chosen (`--pairs tuning`) are apart from those that are reported
(`--pairs test`). One training is a cell; finished cells are kept in the results file and not computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from palp_core.alignment import AlignmentConfig
from palp_core.personalization import Personalization, PersonalizationConfig
from palp_core.toyworld import scenes
from palp_core.toyworld.demo import fidelity_range
from palp_core.toyworld.evaluators import Target
from palp_core.toyworld.figures import judge
from palp_core.toyworld.scenes import ClassWord
from palp_core.toyworld.world import (
    RESOLUTION,
    World,
    as_pictures,
    load_world,
    new_individual,
    paint,
    subject,
)

RESULTS = Path(__file__).parent / "results" / "toyworld.jsonl"
CHECKPOINTS = (30, 60, 100, 150, 200, 300)
SAMPLES = 16

#: method -> what differs from plain PALP; None for no training at all.
METHODS: dict[str, AlignmentConfig | None] = {
    "base": None,
    "ti_db": AlignmentConfig(weight=0.0),
    "palp": AlignmentConfig(),
    "palp_composition": AlignmentConfig(alpha=7.5, beta=1.0),
    "sds": AlignmentConfig(score="sds"),
    "nfsd": AlignmentConfig(score="nfsd", negative_prompt=""),  # this world has no words for what is ugly
    "fresh_noise": AlignmentConfig(noise="fresh"),
    "no_rescale": AlignmentConfig(rescale=False),
}

#: Four elements each, the class included, and no style that the reference photos have.
TEST_PROMPTS = (
    ("sketch", "hat", "beach"),
    ("pixel art", "scarf", "city"),
    ("neon", "balloon", "snow"),
    ("watercolor", "hat", "desert"),
    ("sketch", "balloon", "room"),
    ("neon", "scarf", "meadow"),
)
TUNING_PROMPTS = (("watercolor", "balloon", "city"), ("pixel art", "hat", "meadow"), ("sketch", "scarf", "snow"))
TEST_INDIVIDUALS = tuple((class_word, 11 + n) for n, class_word in enumerate(scenes.CLASSES))
TUNING_INDIVIDUALS = tuple((class_word, 71 + n) for n, class_word in enumerate(scenes.CLASSES[::2]))


@dataclass(frozen=True)
class Training:
    """What all methods share."""

    learning_rate: float = 1e-3
    batch_size: int = 4
    rank: int = 16


@dataclass(frozen=True)
class Cell:
    """One training. The baselines do not read the prompt, so that one of theirs serves all prompts of an individual."""

    method: str
    class_word: ClassWord
    individual: int
    seed: int
    prompts: tuple[tuple[str, str, str], ...]
    alignment: AlignmentConfig | None
    training: Training

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def targets(cell: Cell) -> list[Target]:
    return [Target(style, cell.class_word, accessory, place) for style, accessory, place in cell.prompts]


def measure(world: World, cell: Cell) -> list[dict]:
    """Rows: step, prompt and figures."""
    individual = new_individual(cell.individual, cell.class_word)
    references = as_pictures(subject(individual).images)

    def rows(step: int, noun: str, words: dict) -> list[dict]:
        drawn = []
        for target, prompt in zip(targets(cell), cell.prompts, strict=True):
            pictures = paint(world, target.prompt(noun), words, SAMPLES, cell.seed)
            figures = judge(world.evaluators, pictures, target, references)
            drawn.append({"step": step, "prompt": prompt, **asdict(figures)})
        return drawn

    if cell.alignment is None:
        return rows(0, f"a {cell.class_word}", {})
    config = PersonalizationConfig(
        steps=CHECKPOINTS[-1],
        embedding_learning_rate=cell.training.learning_rate,
        resolution=RESOLUTION,
        seed=cell.seed,
        alignment=cell.alignment,
        **asdict(cell.training),
    )
    run = Personalization(world.backbone, [subject(individual)], targets(cell)[0].prompt("a [V]"), config)
    measured = []
    for step in run.steps():
        if step.index + 1 in CHECKPOINTS:
            measured += rows(step.index + 1, "a [V]", run.snapshot().words)
    return measured


# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Compute the cells that are missing."""

    methods: tuple[str, ...] = ("base", "ti_db", "palp")
    pairs: Literal["test", "tuning"] = "test"
    seeds: tuple[int, ...] = (0, 1, 2)
    #: Name under which the rows are kept, where settings below are not the usual.
    label: str = ""
    #: Other settings of the alignment branch; none for the method's.
    weight: float | None = None
    alpha: float | None = None
    beta: float | None = None
    training: Training = field(default_factory=Training)
    results: Path = RESULTS

    def run(self) -> None:
        cells = [cell for cell in self._cells() if cell.key not in {row["cell"] for row in read_rows(self.results)}]
        world = load_world()
        for cell in tqdm(cells, unit="cell"):
            rows = measure(world, cell)
            name = self.label or cell.method
            who = {"pairs": self.pairs, "individual": [cell.class_word, cell.individual], "seed": cell.seed}
            with self.results.open("a", encoding="utf-8") as file:  # all of a cell at once, or nothing
                lines = [json.dumps({"method": name, **who, **row, "cell": cell.key}) for row in rows]
                file.write("\n".join(lines) + "\n")

    def _cells(self) -> Iterator[Cell]:
        individuals = TEST_INDIVIDUALS if self.pairs == "test" else TUNING_INDIVIDUALS
        prompts = TEST_PROMPTS if self.pairs == "test" else TUNING_PROMPTS
        overrides = {k: getattr(self, k) for k in ("weight", "alpha", "beta") if getattr(self, k) is not None}
        for seed, (class_word, number), method in product(self.seeds, individuals, self.methods):
            alignment = METHODS[method]
            one_for_all = alignment is None or alignment.weight == 0
            if alignment is not None and alignment.weight > 0:
                alignment = replace(alignment, **overrides)
            for some in [prompts] if one_for_all else [(prompt,) for prompt in prompts]:
                yield Cell(method, class_word, number, seed, some, alignment, self.training)


@dataclass(frozen=True)
class Table:
    """Print the figures of each method, in Markdown."""

    pairs: Literal["test", "tuning"] = "test"
    results: Path = RESULTS

    def run(self) -> None:
        rows = [row for row in read_rows(self.results) if row["pairs"] == self.pairs]
        print("| method | step | prompt | subject | variety | style | class | accessory | place | n |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for method, step in sorted({(row["method"], row["step"]) for row in rows}):
            some = [row for row in rows if (row["method"], row["step"]) == (method, step)]
            axes = [mean_and_error([row[name] for row in some]) for name in AXES]
            elements = [f"{np.mean([row['elements'][e] for row in some]):.0%}" for e in some[0]["elements"]]
            print(f"| {method} | {step} | {' | '.join(axes)} | {' | '.join(elements)} | {len(some)} |")


AXES = ("text_alignment", "subject_fidelity", "diversity")


def mean_and_error(values: list[float]) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {error:.3f}"


@dataclass(frozen=True)
class Compare:
    """Print how a method differs from a baseline, pair by pair, at the step where the baseline's fidelity is best.

    The method is taken at its earliest step with no less subject fidelity, or at its own best.
    """

    method: str = "palp"
    baseline: str = "ti_db"
    pairs: Literal["test", "tuning"] = "test"
    results: Path = RESULTS

    def run(self) -> None:
        rows = [row for row in read_rows(self.results) if row["pairs"] == self.pairs]
        ours, theirs = (by_step([row for row in rows if row["method"] == m]) for m in (self.method, self.baseline))
        fidelity = {
            m: {s: mean_of(p, "subject_fidelity") for s, p in of.items()} for m, of in (("o", ours), ("t", theirs))
        }
        their_step = max(fidelity["t"], key=fidelity["t"].get)
        enough = [s for s, value in sorted(fidelity["o"].items()) if value >= fidelity["t"][their_step]]
        our_step = enough[0] if enough else max(fidelity["o"], key=fidelity["o"].get)
        print(f"{self.method} at {our_step} steps minus {self.baseline} at {their_step} steps, paired:")
        shared = sorted(ours[our_step].keys() & theirs[their_step].keys())
        for name in AXES:
            differences = [ours[our_step][pair][name] - theirs[their_step][pair][name] for pair in shared]
            print(f"{name:18} {mean_and_error(differences)}  ({len(shared)} pairs)")


def by_step(rows: list[dict]) -> dict[int, dict[str, dict]]:
    """step -> pair of individual, prompt and seed -> row."""
    steps: dict[int, dict[str, dict]] = {}
    for row in rows:
        pair = json.dumps([row["individual"], row["prompt"], row["seed"]])
        steps.setdefault(row["step"], {})[pair] = row
    return steps


def mean_of(pairs: dict[str, dict], name: str) -> float:
    return float(np.mean([row[name] for row in pairs.values()]))


@dataclass(frozen=True)
class Chart:
    """Draw both axes against each other, a curve over the steps for each method (the paper's Fig. 6)."""

    pairs: Literal["test", "tuning"] = "test"
    results: Path = RESULTS
    out: Path = Path(__file__).parent / "results" / "toyworld.png"

    def run(self) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = [row for row in read_rows(self.results) if row["pairs"] == self.pairs]
        figure, axes = pyplot.subplots(figsize=(8, 6), layout="constrained")
        for method in dict.fromkeys(row["method"] for row in rows):
            of_method = [row for row in rows if row["method"] == method]
            points = []
            for step in sorted({row["step"] for row in of_method}):
                some = [row for row in of_method if row["step"] == step]
                points.append(
                    [step, *(np.mean([row[a] for row in some]) for a in ("subject_fidelity", "text_alignment"))]
                )
            _, fidelity, alignment = zip(*points, strict=True)
            axes.plot(fidelity, alignment, marker="o", label=method)
            for step, x, y in points:
                axes.annotate(str(step), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xlabel="subject fidelity", ylabel="text alignment")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        figure.savefig(self.out, dpi=120)


@dataclass(frozen=True)
class Range:
    """Print subject fidelity's floor (other individuals of the class) and ceiling (true renders)."""

    def run(self) -> None:
        world = load_world()
        ranges = []
        for class_word, number in TEST_INDIVIDUALS:
            of_class = [Target(style, class_word, accessory, place) for style, accessory, place in TEST_PROMPTS]
            ranges.append(fidelity_range(world, new_individual(number, class_word), of_class, number))
        floor, ceiling = np.mean(ranges, axis=0)
        print(f"subject fidelity: floor {floor:.3f}, ceiling {ceiling:.3f}")


def read_rows(results: Path) -> list[dict]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    commands = {"run": Run, "table": Table, "compare": Compare, "figure": Chart, "range": Range}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__).run()


if __name__ == "__main__":
    main()
