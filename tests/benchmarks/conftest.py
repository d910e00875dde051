"""What the benchmarks' tests share: the smallest of everything, the command line, rows that nothing computed."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.toyworld import guidance, methods, pairs, rows, training
from benchmarks.toyworld.__main__ import main
from palp_core.toyworld import world as toyworld


@pytest.fixture
def small(monkeypatch):
    """One pair, two pictures of two sampling steps, trainings of two steps."""
    monkeypatch.setattr(toyworld, "SAMPLING_STEPS", 2)
    monkeypatch.setitem(pairs.INDIVIDUALS, "test", (("cat", 11),))
    monkeypatch.setitem(pairs.PROMPTS, "test", (("sketch", "hat", "beach"),))
    for module in (training, guidance):
        monkeypatch.setattr(module, "SAMPLES", 2)
    monkeypatch.setattr(training, "STEPS_OF", {"unet": (1, 2), "transformer": (1, 2)})
    for model, (alignment, _) in methods.TRAININGS.items():
        monkeypatch.setitem(methods.TRAININGS, model, (alignment, 1))
    monkeypatch.setitem(methods.METHODS, "ti", methods.Word(steps=3))


@pytest.fixture
def run(monkeypatch):
    """Run a command as from the command line."""

    def run(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *(str(a) for a in arguments)])
        main()

    return run


@pytest.fixture
def row():
    """Make a row."""

    def row(method, step, prompt, text, subject, **other) -> dict:
        labels = {"pairs": "test", "individual": ["cat", 11], "seed": 0, "cell": "one", "diversity": 0.1}
        figures = {"text_alignment": text, "subject_alignment": subject, "attention_share": 0.2, "elements": {}}
        return {**labels, **figures, "method": method, "step": step, "prompt": prompt, **other}

    return row


@pytest.fixture
def write_rows():
    """Write rows to a file, as of one cell."""

    def write_rows(file, found: list[dict]) -> None:
        file.write_text(json.dumps({"cell": "one", "world": rows.world_digest(), "rows": found}) + "\n")

    return write_rows
