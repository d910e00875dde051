"""A training inside a node: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io, ui
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...palp_core.errors import OUT_OF_MEMORY
from ...palp_core.files.safetensors_file import save_somewhere
from ...palp_core.methods.recording import Recording
from ...palp_core.methods.result import keep_unfinished
from ...palp_core.training.chart import drawn_chart
from ...palp_core.training.loop import Step, Training, closing
from .compat import is_out_of_memory, out_of_memory
from .ending import cancelled_at_exit


def runs_folder() -> Path:
    """Where trainings have their folders: palp in the host's output folder."""
    return Path(folder_paths.get_output_directory()) / "palp"


def train(
    run: Training, progress: TrainingProgress, save: Callable[[Path], Path], folder: str | Path, node: str
) -> Path:
    """Train from where the recording stands, and save. What ended early is saved too, before the error goes on.

    save: to a folder that it is given: `folder`, or where that fails, as on a full disk, one of the host's or of the
    system's, which an error then names. node: its name, for the log. Out of memory stays the kind of error after which
    the host unloads its models.
    """
    recording = progress.recording
    folders = [Path(folder), Path(folder_paths.get_output_directory()), Path(tempfile.gettempdir())]
    with cancelled_at_exit():
        try:
            with closing(run.steps(recording.state)) as steps:
                for step in steps:
                    recording.note(step, run.learner)
                    progress.update(step)
        except (comfy.model_management.InterruptProcessingException, KeyboardInterrupt) as cancelled:
            outcome = _ended(run, recording, cancelled, save, folders)
            logging.info("%s was cancelled. %s", node, outcome)
            show_text(progress.node_id, f"Cancelled. {outcome}")
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


SECONDS_BETWEEN_CHARTS = 3.0


def show_text(node_id: str | None, text: str) -> None:
    """Under the node, in the browser of whoever runs the graph."""
    if node_id is not None and PromptServer.instance is not None:
        PromptServer.instance.send_progress_text(text, node_id)


class TrainingProgress:
    """What the page shows of a training, and what is kept of it."""

    def __init__(self, node_id: str | None, steps: int, recording: Recording):
        self.node_id = node_id
        self.steps = steps
        self.bar = comfy.utils.ProgressBar(steps, node_id=node_id)
        self.recording = recording
        #: Steps that were there before.
        self.begun = len(recording.history)
        #: What was measured last, by name: not every step measures everything.
        self.losses: dict[str, float] = {}
        self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS

    def update(self, step: Step) -> None:
        self.losses |= step.losses
        preview = None
        if time.monotonic() >= self._next_chart:
            pixels = (drawn_chart(self.recording.history) * 255).round().byte().numpy()
            preview = ("JPEG", Image.fromarray(pixels), None)
            self._next_chart = time.monotonic() + SECONDS_BETWEEN_CHARTS
        self.bar.update_absolute(step.index + 1, self.steps, preview)
        show_text(self.node_id, f"step {step.index + 1} of {self.steps}: {in_words(step.subject, self.losses)}")

    def chart(self, node: type[io.ComfyNode]) -> tuple[Tensor, ui.PreviewImage | None]:
        """Plot the losses of all steps: the host's IMAGE, (1, H, W, 3), and how the node shows it.

        The training is saved by then: a chart that cannot be written, as on a full disk, is not shown.
        """
        chart = drawn_chart(self.recording.history)[None]
        try:
            return chart, ui.PreviewImage(chart, cls=node)
        except Exception as error:
            logging.warning("the loss chart could not be shown: %s", error)
            return chart, None


def came_from(path: Path, taken: bool, begun: int) -> str:
    """Say where a file comes from. taken: from an earlier training; begun: steps that were there already."""
    if taken:
        return f"taken from {path.name}, which was trained before."
    return f"saved as {path.name}." + (f" It went on from step {begun}." if begun else "")


def in_words(subject: str, losses: Mapping[str, float]) -> str:
    """Say what was measured, and on which subject."""
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in losses.items())
    return f"{subject} {measured}".strip()
