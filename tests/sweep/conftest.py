"""Plans of tiny cells, and the command that computes them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from palp_core.cli import main as cli
from palp_core.methods.personalization_learner import PersonalizationLearner

#: Two individuals, six seeds, the base model and plain training.
CELLS = """
model: demo
subjects:
  tom: {class_word: cat, individual: 11}
  r2: {class_word: robot, individual: 12}
prompts:
  - a sketch of a [V] with a hat on the beach
methods:
  base: {}
  plain: {alignment_weight: 0}
settings: {steps: 3, rank: 2, batch_size: 1}
seeds: [0, 1, 2, 3, 4, 5]
pictures: {count: 1, sampling_steps: 2}
"""


@pytest.fixture
def jobs(tmp_path) -> Path:
    """A file that lists 24 cells of the demo world."""
    file = tmp_path / "jobs.yaml"
    file.write_text(CELLS)
    return file


@pytest.fixture
def command(monkeypatch):
    """Run the command with these arguments; returns what it exits with."""

    def command(*arguments: object) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["palp", "sweep", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ending:
            return ending.code
        return None

    return command


@pytest.fixture
def sweep(command):
    """Compute what a file lists."""
    return lambda jobs, out, *arguments: command(jobs, "--out", out, "--device", "cpu", *arguments)


@pytest.fixture
def paper(command):
    """Compute the paper's comparison."""
    return lambda out, *arguments: command("--out", out, "--device", "cpu", *arguments)


@pytest.fixture
def at_step(monkeypatch):
    """Let something happen once in the place of this step of all that are taken; returns the steps as they come."""

    def at_step(number: int, event) -> list[int]:
        step, taken = PersonalizationLearner.step, []

        def or_event(learner):
            taken.append(learner.done)
            if len(taken) == number:
                event()
            return step(learner)

        monkeypatch.setattr(PersonalizationLearner, "step", or_event)
        return taken

    return at_step
