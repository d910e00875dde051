"""A training run inside a node: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import comfy.model_management

from ..palp_core.personalization import Personalization
from ..palp_core.textual_inversion import TextualInversion
from .progress import TrainingProgress

OUT_OF_MEMORY = "Out of memory. Switch on gradient_checkpointing, then lower batch_size, then resolution."

Run = Personalization | TextualInversion


def train(run: Run, progress: TrainingProgress, save: Callable[[], Path], node: str) -> Path:
    """Train and save. What a cancelled or failed run has learned is saved too, before the error goes on.

    node: its name, for the log.
    """
    try:
        with closing(run.steps()) as steps:
            for step in steps:
                progress.update(step)
    except comfy.model_management.InterruptProcessingException:
        logging.info("%s was cancelled. %s", node, _keep(run, save))
        raise
    except comfy.model_management.OOM_EXCEPTION as error:
        kept = _keep(run, save)
        raise RuntimeError(f"{OUT_OF_MEMORY} {kept}") from error
    except Exception as error:
        raise RuntimeError(f"{error} {_keep(run, save)}") from error
    return save()


def _keep(run: Run, save: Callable[[], Path]) -> str:
    """Save what there is of an unfinished run; says where."""
    if run.weights is None or run.weights.steps == 0:
        return "No step was completed, so nothing was saved."
    path = save()
    return f"What was learned in {run.weights.steps} steps is kept in {path.name}."
