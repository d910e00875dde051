"""The command that draws under guidance, and those that say what is in the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from palp_core.files.images import write_image
from palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig
from palp_core.sweep.engine import Worker, in_process
from palp_core.toyworld.world import load_world

from . import guidance
from .chart import curves
from .guidance import GuidedCell
from .methods import (
    PARTS,
    TRAININGS,
    Model,
    Part,
)
from .model import subject_alignment_ranges
from .pairs import INDIVIDUALS, Pairs, prompts_of_trainings
from .rows import FOLDER, GUIDANCE_RESULTS, RESULTS, BySteps, at_step, chosen, compute, nothing_shared, read_rows
from .run import given, require_label
from .statistics import differences, step_seconds, steps_of_equal_alignment, table


@dataclass(frozen=True)
class Guide:
    """Draw with and without guidance, with the same seeds, and judge what is missing."""

    models: tuple[Model, ...] = ("base", *TRAININGS)
    pairs: Pairs = "test"
    seeds: tuple[int, ...] = (0,)
    parts: tuple[Part, ...] = tuple(PARTS)
    #: Added to the methods' names, where settings below are not the usual.
    label: str = ""
    #: Other settings of the guidance; none for the usual.
    step_size: float | None = None
    threshold: float | None = None
    end_percent: float | None = None
    results: Path = GUIDANCE_RESULTS

    def run(self) -> None:
        require_label(self.label, changed=bool(self._changes()))
        compute(self.cells(), in_process(self.worker), self.results)

    def worker(self) -> Worker[GuidedCell]:
        """Load the world in which cells are measured."""
        world = load_world()
        return lambda cell: guidance.measure(world, cell)

    def _changes(self) -> dict[str, float]:
        return given(self, "step_size", "threshold", "end_percent")

    def cells(self) -> Iterator[GuidedCell]:
        """Name all that is asked for, whether it is there or not."""
        for seed, (class_word, number), model in product(self.seeds, INDIVIDUALS[self.pairs], self.models):
            _, steps = TRAININGS.get(model, (None, 0))
            for prompts in prompts_of_trainings(self.pairs, reads_prompt=model == "palp"):
                yield GuidedCell(model, self.pairs, class_word, number, seed, steps, prompts, self._parts(model))

    def _parts(self, model: Model) -> dict[str, PickAndDrawConfig]:
        """The base model is its own template: there is no layout for it to be drawn to."""
        able = [part for part in self.parts if model != "base" or not PARTS[part].draw_weight]
        return {f"{part}{self.label}": replace(PARTS[part], **self._changes()) for part in able}


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
        for line in table(chosen(self.results, self.pairs, self.methods, self.shared)):
            print(line)


@dataclass(frozen=True)
class Compare:
    """Print how a method differs from a baseline, pair by pair and seed by seed.

    Their steps are chosen on other pairs than are reported, on those that both have: the baseline's with the best
    subject alignment, the method's first with no less of it.
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
        for line in differences(mine, other, shared):
            print(line)

    def _steps(self) -> tuple[int, int]:
        """The method's and the baseline's: as they are given, else as the other pairs say."""
        if self.step is not None and self.baseline_step is not None:
            return self.step, self.baseline_step
        step, baseline_step = steps_of_equal_alignment(*self._found(self.chosen_on, shared=True))
        return (step if self.step is None else self.step), (
            baseline_step if self.baseline_step is None else self.baseline_step
        )

    def _found(self, pairs: Pairs, shared: bool = False, seeds: tuple[int, ...] = ()) -> tuple[BySteps, BySteps]:
        """The rows of the method and of the baseline."""
        found = chosen(self.results, pairs, (self.method, self.baseline), shared, seeds)
        return found[self.method], found[self.baseline]


@dataclass(frozen=True)
class Chart:
    """Plot text and subject alignment against the steps, and against each other (the paper's Fig. 6).

    Dotted: the subject alignment of other individuals of the class, and that of true pictures. The curves of the last
    panel start at the fewest steps.
    """

    pairs: Pairs = "test"
    #: Only these; none for all.
    methods: tuple[str, ...] = ()
    #: Only pairs and seeds that all of them have, so that their curves compare.
    shared: bool = False
    #: Plots against seconds of training, by what a step of each method took in these rows.
    costs: Path | None = None
    results: Path = RESULTS
    out: Path = FOLDER / "toyworld.png"

    def run(self) -> None:
        found = chosen(self.results, self.pairs, self.methods, self.shared)
        ranges = tuple(subject_alignment_ranges(self.pairs).mean(dim=0).tolist())
        costs = step_seconds(read_rows(self.costs), list(found)) if self.costs else None
        write_image(curves(found, ranges, costs), self.out)
