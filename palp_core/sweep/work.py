"""What becomes of one cell: it is trained in a folder of its own, drawn at its steps, and judged.

What is in the folder already is taken: a finished training, a state to go on from, pictures, rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from ..errors import FileError, PalpError
from ..evaluation.layout import Shown
from ..evaluation.measuring import Judges, evaluate
from ..evaluation.references import Reference
from ..files.images import write_image
from ..files.photos import find_photos
from ..methods.previews import PreviewConfig
from ..methods.recording import SECONDS_BETWEEN_STATES, Recording
from ..models.diffusers.backbone import DiffusersBackbone, load_backbone
from ..models.diffusers.loading import chosen_device
from ..training.loop import Training, closing
from .cells import PHOTOS, Cell
from .drawing import Learner, draw, missing_pictures, pictures_of
from .engine import Row, Stopped, never
from .folder import describe, keep_rows, log, log_begin
from .learning import NAME, Learned, method_of, run_folder, save
from .place import opened
from .plan import Plan

#: How often the process that works on a cell may be lost in a run.
MOST_LOST = 4


@dataclass(frozen=True)
class Work:
    """What all cells of a sweep have in common; it goes to every worker."""

    plan: Plan
    #: The folder of the sweep, which all workers see, or its address.
    out: str | Path
    #: Where to compute; None is CUDA if there is one.
    device: str | None = None
    #: A state is kept after so many seconds, to go on from.
    state_seconds: float = SECONDS_BETWEEN_STATES
    #: Whether a finished training keeps the state from which more steps, or more pictures, could be had.
    keep_states: bool = False
    #: Names the run of the command in logs.
    run: str = field(default_factory=lambda: token_hex(4))


class CellWorker:
    """Computes cells, one after the other, with a model that is loaded once."""

    def __init__(self, work: Work, stop: Callable[[], bool] = never, note: Callable[[str], object] = str):
        """Load model and judges. stop: asked after each step. note: is told what is being done.

        Raises PalpError where one cannot be loaded.
        """
        self.work, self.stop, self.note = work, stop, note
        self.backbone, self.judges = _loaded(work)

    def __call__(self, cell: Cell) -> list[Row]:
        """Compute a cell and keep its rows in its folder. Raises Stopped, and what training and drawing raise.

        Where the sweep is at an address, that folder is brought here before, and FileError raised where it cannot be
        written back.
        """
        with opened(self.work.out) as self.place:
            folder = cell.folder(self.place.path)
            self.place.pull(folder)
            if cell.subject.individual is not None:
                self.place.pull(self.place.path / PHOTOS / cell.subject_name)
            describe(cell, folder)
            return self._computed(cell.within(self.place.path), folder)

    def _computed(self, cell: Cell, folder: Path) -> list[Row]:
        if (lost := log_begin(folder, self.work.run)) >= MOST_LOST:
            raise PalpError(f"its process was ended {lost} times while it worked, as for want of memory.")
        self.place.push()
        begun = time.monotonic()
        missing = any(self._missing(cell, step) for step in self._steps(cell))
        if not cell.method.trains and missing:
            self._draw_base(cell)
        elif cell.method.trains and (missing or not any(folder.glob(f"{NAME}_*.safetensors"))):
            self._train(cell, folder)
        drawn = time.monotonic()
        rows = self._judged(cell)
        log(folder, {"seconds": round(drawn - begun, 2), "judging_seconds": round(time.monotonic() - drawn, 2)})
        self.place.push()  # before the rows, by which the cell counts as there
        keep_rows(folder, cell.key, rows)
        return rows

    def _steps(self, cell: Cell) -> tuple[int, ...]:
        return self.work.plan.pictures.steps(cell.method.steps)

    def _missing(self, cell: Cell, step: int) -> list[tuple[str, int, Path]]:
        return missing_pictures(cell, step, self.work.plan.pictures, self.place.path)

    def _draw_base(self, cell: Cell) -> None:
        with method_of(cell, self.backbone).learning() as learner:
            self._draw(cell, learner, 0)

    def _train(self, cell: Cell, folder: Path) -> None:
        """Go on from the folder's state to the last step, draw on the way, and save the file."""
        method = method_of(cell, self.backbone)
        run, recording = Training(method), self._recording(cell, method, folder)
        done, found = len(recording.history), recording.folder
        log(folder, {"from_step": done})
        if done in self._steps(cell) and self._missing(cell, done):
            with method.learning() as learner:
                learner.load_state(recording.state)
                self._draw(cell, learner, done)
        try:
            self._take_steps(cell, run, recording)
        except BaseException as error:
            recording.keep_ended(run, error)
            raise
        if found.result(cell.method.steps, [folder]) is None:
            recording.finish(save(run, folder))
        if self.work.keep_states:
            recording.keep_ended(run)
        else:
            found.forget()

    def _recording(self, cell: Cell, method: Learned, folder: Path) -> Recording:
        """Find its run folder, with a state to go on from, or with none.

        A state that cannot be read, or that is past a step of which pictures are missing, is of no use.
        """

        def found(anew: bool) -> Recording:
            found = run_folder(method, folder, anew)
            return Recording(found, method, PreviewConfig(preview_every=0), self.work.state_seconds)

        try:
            recording = found(anew=False)
        except FileError as error:
            logging.warning("%s begins again: %s", cell.title, error)
            return found(anew=True)
        done = len(recording.history)
        past = any(self._missing(cell, step) for step in self._steps(cell) if step < done)
        return found(anew=True) if past else recording

    def _take_steps(self, cell: Cell, run: Training, recording: Recording) -> None:
        """Take the steps that are left. Pictures are drawn before the state of their step can be kept."""
        at, last = set(self._steps(cell)), cell.method.steps
        with closing(run.steps(recording.state)) as steps:
            for step in steps:
                done = step.index + 1
                if done in at:
                    self._draw(cell, run.learner, done)
                recording.note(step, run.learner)
                self.place.push()
                self.note(f"{cell.title}: step {done} of {last}")
                self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop():
            raise Stopped

    def _draw(self, cell: Cell, learner: Learner, step: int) -> None:
        """Draw what is missing of a step, each picture from noise of its own."""
        for prompt, number, file in self._missing(cell, step):
            self.note(f"{cell.title}: picture {number + 1} after {step} steps")
            seed = cell.seed * 1000 + number
            picture = draw(learner, prompt, seed, self.work.plan.pictures, untouched=not cell.method.trains)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(picture, file)
            self.place.push()
            self._stop_if_asked()

    def _judged(self, cell: Cell) -> list[Row]:
        """Measure the pictures of each step and prompt."""
        pictures, out = self.work.plan.pictures, self.place.path
        shown = [
            Shown(file, file.name, prompt, "", "", step)
            for step in self._steps(cell)
            for prompt in cell.prompts
            for file in pictures_of(cell, step, prompt, pictures, out)
        ]
        found = {}
        if self.judges:
            photos = {"": Reference(find_photos(cell.subject.photos).images, cell.subject.class_word)}
            measured = evaluate(shown, photos, self.judges).cells
            if sum(len(one.pictures) for one in measured) < len(shown):
                raise FileError("some of its pictures cannot be read. Delete its folder to begin again.")
            found = {(one.step, one.prompt): one.figures for one in measured}
        return [
            {"prompt": prompt, "step": step, "pictures": pictures.count, **found.get((step, prompt), {})}
            for step in self._steps(cell)
            for prompt in cell.prompts
        ]


def _loaded(work: Work) -> tuple[DiffusersBackbone, Judges | None]:
    """The model, ready to train, and what measures the pictures; None where nothing was given."""
    plan = work.plan
    if plan.demo:
        from ..toyworld.judges import ElementsJudge, IdentityJudge
        from ..toyworld.world import load_world

        world = load_world(work.device, plan.demo)
        return world.backbone, Judges(ElementsJudge(world.evaluators), IdentityJudge(world.evaluators))
    backbone = load_backbone(plan.model, work.device, plan.precision)
    if plan.clip is None and plan.dino is None:
        return backbone, None
    from ..evaluation.pretrained import load_clip, load_dino

    device = chosen_device(work.device)
    return backbone, Judges(plan.clip and load_clip(plan.clip, device), plan.dino and load_dino(plan.dino, device))
