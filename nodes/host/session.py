"""A training run inside a node: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import comfy.model_management
import folder_paths

from ...palp_core.files.safetensors_file import keep_unfinished, save_somewhere
from ...palp_core.methods.personalization import Personalization
from ...palp_core.methods.textual_inversion import TextualInversion
from ...palp_core.training.objective import OUT_OF_MEMORY
from .progress import TrainingProgress, show_text

Run = Personalization | TextualInversion


def train(run: Run, progress: TrainingProgress, save: Callable[[Path], Path], folder: str | Path, node: str) -> Path:
    """Train and save. What a cancelled or failed run has learned is saved too, before the error goes on.

    save: to a folder that it is given: `folder`, or where that fails, as on a full disk, one of the host's or of the
    system's, which an error then names. node: its name, for the log.
    """
    folders = [Path(folder), Path(folder_paths.get_output_directory()), Path(tempfile.gettempdir())]
    try:
        with closing(run.steps()) as steps:
            for step in steps:
                progress.update(step)
    except comfy.model_management.InterruptProcessingException:
        outcome = keep_unfinished(run, save, folders)
        logging.info("%s was cancelled. %s", node, outcome)
        show_text(progress.node_id, f"Cancelled. {outcome}")
        raise
    except Exception as error:
        cause = OUT_OF_MEMORY if is_out_of_memory(error) else error
        raise RuntimeError(f"{cause} {keep_unfinished(run, save, folders)}") from error
    path = save_somewhere(save, folders)
    if path.parent != folders[0]:
        raise RuntimeError(f"{folder} could not be written to. What was learned is kept in {path}: move it there.")
    return path


def is_out_of_memory(error: Exception) -> bool:
    """Newer hosts know more kinds of it than the one exception that older ones name."""
    host = comfy.model_management
    return host.is_oom(error) if hasattr(host, "is_oom") else isinstance(error, host.OOM_EXCEPTION)
