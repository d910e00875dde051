"""A training run inside a node: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import comfy.model_management

from ..palp_core.checkpoint import keep_unfinished
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
        logging.info("%s was cancelled. %s", node, keep_unfinished(run, save))
        raise
    except Exception as error:
        cause = OUT_OF_MEMORY if is_out_of_memory(error) else error
        raise RuntimeError(f"{cause} {keep_unfinished(run, save)}") from error
    return save()


def is_out_of_memory(error: Exception) -> bool:
    """Newer hosts know more kinds of it than the one exception that older ones name."""
    host = comfy.model_management
    return host.is_oom(error) if hasattr(host, "is_oom") else isinstance(error, host.OOM_EXCEPTION)
