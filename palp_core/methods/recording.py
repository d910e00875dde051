"""A training's steps as they come: kept in its folder on a timer, and however the training ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..errors import DivergedError
from ..files.images import write_image
from ..files.run_folder import RunFolder
from ..training.contact_sheet import contact_sheet
from ..training.loop import Learner, Step, Training
from .layered_words.learner import LayeredWord
from .personalization import Personalization
from .previews import PreviewConfig, Previews, step_names
from .result import save_snapshot
from .textual_inversion import TextualInversion

SECONDS_BETWEEN_STATES = 120.0


class Recording:
    """The steps of a training, from its first, and the folder that keeps them. Raises FileError as `earlier` does.

    pause: seconds between two states that are kept; None for the usual.
    """

    def __init__(
        self,
        folder: RunFolder,
        method: Personalization | TextualInversion | LayeredWord,
        previews: PreviewConfig | None = None,
        pause: float | None = None,
    ):
        self.folder, self.method = folder, method
        self._pause = SECONDS_BETWEEN_STATES if pause is None else pause
        #: What to go on from; None at the beginning.
        self.state, rows = folder.earlier()
        self.history = [Step(**row) for row in rows]
        #: What of the photos is learned, (H, W, 3) in 0..1; None before the first step.
        self.overlay: Tensor | None = folder.overlay()
        self.previews = Previews(previews or PreviewConfig(), method.config.steps, folder, done=len(rows))
        self._next = time.monotonic() + self._pause

    def note(self, step: Step, learner: Learner) -> Tensor | None:
        """Add a step that was taken, and keep the state when it is time; returns a picture if one was drawn."""
        self.history.append(step)
        if self.overlay is None:
            self._show_subject(learner)
        picture = self.previews.after_step(learner)
        if picture is not None:
            self._keep_snapshot(learner)
        if picture is not None or time.monotonic() >= self._next:
            self.keep(learner.state())
            self._next = time.monotonic() + self._pause
        return picture

    def _show_subject(self, learner: Learner) -> None:
        """Draw what is learned of the photos, and keep it. That it cannot be drawn is no reason to end a training."""
        self.overlay = contact_sheet({})
        try:
            self.overlay = contact_sheet(learner.overlays())
            self.folder.keep_overlay(self.overlay)
        except (RuntimeError, ValueError, OSError) as error:
            logging.warning("what is taken for the subject could not be shown: %s", error)

    def _keep_snapshot(self, learner: Learner) -> None:
        try:
            save_snapshot(self.method, learner.result(), self.folder)
        except (OSError, SafetensorError) as error:
            logging.warning("what was learned until this picture could not be saved: %s", error)

    def keep(self, state: Mapping[str, Tensor]) -> bool:
        """Keep a state; returns whether it is. Where that fails, as on a full disk, the training itself goes on."""
        try:
            self.folder.keep(dict(state), [step._asdict() for step in self.history])
        except (OSError, SafetensorError) as error:
            logging.warning("the training's state could not be saved: %s", error)
            return False
        return True

    def finish(self, file: Path) -> None:
        """Note the file that the training has ended with, so that it is found in the place of another training."""
        try:
            if self.previews.pictures:
                write_image(self.contact_sheet(), self.folder.contact_sheet)
            self.folder.finish(len(self.history), file)
        except OSError as error:
            logging.warning("the training's result could not be noted: %s", error)

    def contact_sheet(self) -> Tensor:
        """Lay out the pictures of all steps, the base model's first, (H, W, 3) in 0..1."""
        return contact_sheet(step_names(self.previews.pictures))

    def keep_ended(self, run: Training, error: BaseException | None = None) -> bool:
        """Keep where a training ended, early or not; returns whether it can be gone on with from there.

        What goes on from the state of a training that diverged diverges again: it is forgotten.
        """
        if isinstance(error, DivergedError):
            self.folder.forget()
            return False
        return bool(self.history) and run.state is not None and self.keep(run.state)
