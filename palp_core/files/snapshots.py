"""A trained file as it was after fewer steps: the snapshots that its training has kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import FileError
from .lora_file import LoraFile, load_lora_file
from .run_folder import run_of


def load_at_step(path: Path, runs: Path, step: int) -> LoraFile:
    """Read a trained file as it was after `step` steps, 0 for its end; its words keep the names that they have there.

    runs: where trainings have their folders. Raises FileError where nothing is kept of that step.
    """
    file = load_lora_file(path)
    if step in (0, file.info.steps):
        return file
    run = run_of(runs, path)
    kept = run.snapshots() if run else []
    if step not in kept:
        there = f"There are snapshots of {', '.join(map(str, kept))}" if kept else "Its training has kept none"
        raise FileError(f"step {step} of {path.name} is not there. {there}; 0 is the file as it is.")
    snapshot = load_lora_file(run.snapshot(step))
    names = zip(file.info.subjects, snapshot.info.subjects, strict=True)
    words = {own.embedding: snapshot.words[early.embedding] for own, early in names if early.embedding}
    return replace(snapshot, words=words, info=replace(file.info, steps=step))
