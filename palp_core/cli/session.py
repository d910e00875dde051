"""A training on the command line: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGINT, signal
from tempfile import gettempdir
from threading import Event

from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from ..errors import DivergedError, SettingError
from ..files.images import write_image
from ..files.run_folder import Unfinished
from ..files.safetensors_file import save_somewhere
from ..methods.result import keep_unfinished
from ..training.chart import loss_chart
from ..training.loop import Step, Training
from .errors import sentence

SAVE_STATE_EVERY = 50  # steps


def train(run: Training, save: Callable[[Path], Path], out: Path, unfinished: Unfinished, resume: bool) -> None:
    """Train, save, and write the loss chart beside the file.

    save: in the folder that it is given: `out`, or where that fails, as on a full disk, another, which is printed.
    """
    state, rows = unfinished.earlier(resume)
    history = [Step(**row) for row in rows]
    if len(history) > run.method.config.steps:
        raise SettingError(
            f"steps is {run.method.config.steps}, but {unfinished.file} has {len(history)} of them already."
        )
    with _kept_on_failure(run, save, out):
        try:
            stopped = _take_steps(run, unfinished, state, history)
        except DivergedError:
            unfinished.file.unlink(missing_ok=True)  # what goes on from there diverges again
            raise
    path = save_somewhere(save, _folders_to_save_in(out))
    print(path)
    if stopped:
        goes_on = "; --resume goes on" if unfinished.file.exists() else ""
        print(f"stopped: what was learned until now is kept{goes_on}.", file=sys.stderr)
    else:
        unfinished.file.unlink(missing_ok=True)
    write_image(loss_chart(history), path.with_suffix(".loss.png"))


def _take_steps(run: Training, unfinished: Unfinished, state: dict[str, Tensor] | None, history: list[Step]) -> bool:
    """Append the steps to the history. Returns whether Ctrl-C ended them before the last."""
    total = run.method.config.steps
    with (
        stop_at_ctrl_c() as stop,
        closing(run.steps(state)) as steps,
        tqdm(steps, total=total, initial=len(history), unit="step") as bar,
    ):
        for step in bar:
            history.append(step)
            losses = {name.replace("_", " "): f"{value:.3f}" for name, value in step.losses.items()}
            bar.set_postfix(losses, refresh=False)
            stopped = stop.is_set() and len(history) < total
            if stopped or len(history) % SAVE_STATE_EVERY == 0:
                _save_state(unfinished, run, history)
            if stopped:
                return True
    return False


def _save_state(unfinished: Unfinished, run: Training, history: list[Step]) -> None:
    """What it is for is safety: where it fails, as on a full disk, the training itself goes on."""
    try:
        unfinished.save(run.learner.state(), [step._asdict() for step in history])
    except (OSError, SafetensorError) as error:
        logging.warning("the training's state could not be saved: %s", error)


@contextmanager
def _kept_on_failure(run: Training, save: Callable[[Path], Path], out: Path) -> Iterator[None]:
    """Inside, what a training that fails has learned is saved before the error goes on."""
    try:
        yield
    except Exception as error:
        outcome = keep_unfinished(run, save, _folders_to_save_in(out))
        if (cause := sentence(error)) is None:
            print(outcome, file=sys.stderr)
            raise
        sys.exit(f"palp: {cause} {outcome}")


def _folders_to_save_in(out: Path) -> list[Path]:
    """The one asked for, and others for when it cannot be written to."""
    return [out, Path.cwd(), Path(gettempdir())]


@contextmanager
def stop_at_ctrl_c() -> Iterator[Event]:
    """Inside, the first Ctrl-C sets the event, so that a step can be ended; a second one interrupts as usual."""
    asked = Event()

    def note(*_) -> None:
        asked.set()
        signal(SIGINT, usual)

    usual = signal(SIGINT, note)
    try:
        yield asked
    finally:
        signal(SIGINT, usual)
