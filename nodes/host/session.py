"""A training inside a node: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ...palp_core.errors import OUT_OF_MEMORY
from ...palp_core.files.safetensors_file import save_somewhere
from ...palp_core.methods.recording import Recording
from ...palp_core.methods.result import keep_unfinished
from ...palp_core.training.loop import Training, closing
from .compat import is_out_of_memory, out_of_memory
from .ending import cancelled_at_exit
from .progress import TrainingProgress, came_from


def runs_folder() -> Path:
    """Where trainings have their folders: palp in the host's output folder."""
    return Path(folder_paths.get_output_directory()) / "palp"


@dataclass(frozen=True)
class Trained:
    """A training that has come to its end, now or earlier."""

    path: Path
    #: Whether it is from an earlier training, and nothing was trained now.
    taken: bool
    progress: TrainingProgress

    def tell(self, *sentences: str) -> None:
        """Say under the node what was trained, where it is, and what else is to be said."""
        took = [] if self.taken else [self.progress.took()]
        self.progress.say(" ".join([came_from(self.path, self.taken, self.progress.begun), *took, *sentences]))


def trained(
    node: type[io.ComfyNode],
    run: Training,
    recording: Recording,
    save: Callable[[Path], Path],
    folder: Path,
    places: Iterable[str | Path],
) -> Trained:
    """Train as `train` does, or take the file of the same training from where it was saved before.

    places: the folders in which that file may lie.
    """
    progress = TrainingProgress(node.hidden.unique_id, recording)
    taken = recording.folder.result(progress.steps, map(Path, places))
    path = taken or train(run, progress, save, folder, node.define_schema().display_name)
    return Trained(path, taken is not None, progress)


def train(
    run: Training, progress: TrainingProgress, save: Callable[[Path], Path], folder: str | Path, node: str
) -> Path:
    """Train from where the recording stands, and save. What ended early is saved too, before the error goes on.

    save: to a folder that it is given: `folder`, or where that fails, as on a full disk, one of the host's or of the
    system's, which an error then names. node: its name, for the log. Out of memory stays the kind of error after which
    the host unloads its models.
    """
    recording = progress.recording
    progress.begin()
    folders = [Path(folder), Path(folder_paths.get_output_directory()), Path(tempfile.gettempdir())]
    with cancelled_at_exit():
        try:
            with closing(run.steps(recording.state)) as steps:
                for step in steps:
                    progress.update(step, recording.note(step, run.learner))
        except (comfy.model_management.InterruptProcessingException, KeyboardInterrupt) as cancelled:
            outcome = _ended(run, recording, cancelled, save, folders)
            logging.info("%s was cancelled. %s", node, outcome)
            progress.say(f"Cancelled. {outcome}")
            raise
        except Exception as error:
            outcome = _ended(run, recording, error, save, folders)
            if is_out_of_memory(error):
                raise out_of_memory(f"{OUT_OF_MEMORY} {outcome}") from error
            raise RuntimeError(f"{str(error) or type(error).__name__} {outcome}") from error
        recording.keep_ended(run)
        path = save_somewhere(save, folders)
    if path.parent != folders[0]:
        raise RuntimeError(f"{folder} could not be written to. What was learned is kept in {path}: move it there.")
    recording.finish(path)
    return path


def _ended(
    run: Training,
    recording: Recording,
    error: BaseException,
    save: Callable[[Path], Path],
    folders: list[Path],
) -> str:
    """Keep what a training that ended early has, and say where."""
    goes_on = recording.keep_ended(run, error)
    outcome = keep_unfinished(run, save, folders)
    return f"{outcome} Queue it again to go on from there." if goes_on else outcome
