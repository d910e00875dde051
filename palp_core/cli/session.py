"""A training on the command line: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal, signal
from tempfile import gettempdir

from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from ..errors import DivergedError, SettingError
from ..files.images import write_image
from ..files.run_folder import Unfinished
from ..files.safetensors_file import save_somewhere
from ..methods.result import keep_unfinished
from ..training.chart import loss_chart
from ..training.loop import Step, Training, closing
from .errors import sentence

SAVE_STATE_EVERY = 50  # steps
ENDED_BY_SIGTERM = 128 + SIGTERM  # as shells have it


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
    with stopped_by_signals() as asked:
        with _kept_on_failure(run, save, out), _forgotten_if_diverged(unfinished):
            _take_steps(run, unfinished, state, history, asked)
        path = save_somewhere(save, _folders_to_save_in(out))
    print(path)
    if len(history) < run.method.config.steps:
        goes_on = "; --resume goes on" if unfinished.file.exists() else ""
        print(f"stopped: what was learned until now is kept{goes_on}.", file=sys.stderr)
    else:
        unfinished.file.unlink(missing_ok=True)
    _write_chart(history, path.with_suffix(".loss.png"))
    if SIGTERM in asked:
        sys.exit(ENDED_BY_SIGTERM)


def _take_steps(
    run: Training, unfinished: Unfinished, state: dict[str, Tensor] | None, history: list[Step], asked: list[int]
) -> None:
    """Append the steps to the history, until the last, or until a signal has asked to stop."""
    total, losses = run.method.config.steps, {}
    with closing(run.steps(state)) as steps, tqdm(steps, total=total, initial=len(history), unit="step") as bar:
        for step in bar:
            history.append(step)
            losses |= {name.replace("_", " "): f"{value:.3f}" for name, value in step.losses.items()}
            bar.set_postfix(losses, refresh=False)
            stopped = asked and len(history) < total
            if stopped or len(history) % SAVE_STATE_EVERY == 0:
                _save_state(unfinished, run, history)
            if stopped:
                return


def _save_state(unfinished: Unfinished, run: Training, history: list[Step]) -> None:
    """What it is for is safety: where it fails, as on a full disk, the training itself goes on."""
    try:
        unfinished.save(run.learner.state(), [step._asdict() for step in history])
    except (OSError, SafetensorError) as error:
        logging.warning("the training's state could not be saved: %s", error)


def _write_chart(history: list[Step], file: Path) -> None:
    """The training is saved by now: a chart that fails, as on a full disk, is told and no more."""
    try:
        write_image(loss_chart(history), file)
    except Exception as error:
        logging.warning("the loss chart could not be written: %s", error)


@contextmanager
def _kept_on_failure(run: Training, save: Callable[[Path], Path], out: Path) -> Iterator[None]:
    """Inside, what a training that fails or is interrupted has learned is saved before the error goes on."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        outcome = keep_unfinished(run, save, _folders_to_save_in(out))
        if (cause := sentence(error)) is None:
            print(outcome, file=sys.stderr)
            raise
        sys.exit(f"palp: {cause} {outcome}")


@contextmanager
def _forgotten_if_diverged(unfinished: Unfinished) -> Iterator[None]:
    """What goes on from the state of a training that diverged diverges again."""
    try:
        yield
    except DivergedError:
        unfinished.file.unlink(missing_ok=True)
        raise


def _folders_to_save_in(out: Path) -> list[Path]:
    """The one asked for, and others for when it cannot be written to."""
    return [out, Path.cwd(), Path(gettempdir())]


@contextmanager
def stopped_by_signals() -> Iterator[list[int]]:
    """Inside, the first Ctrl-C or SIGTERM is put into the list, so that a step can be ended; a second acts as usual."""
    asked: list[int] = []

    def restore() -> None:
        for number, handler in usual.items():
            signal(number, handler)

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        restore()

    usual = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
    try:
        for number in usual:
            signal(number, note)
        yield asked
    finally:
        restore()
