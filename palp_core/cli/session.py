"""A training on the command line: its progress is shown, and what it has learned is saved, however it ends."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal, signal
from tempfile import gettempdir

from tqdm import tqdm

from ..files.images import write_image
from ..files.run_folder import RunFolder
from ..files.safetensors_file import save_somewhere
from ..methods.previews import PreviewConfig
from ..methods.recording import Recording
from ..methods.result import keep_unfinished
from ..methods.summary import summary
from ..training.chart import loss_chart
from ..training.loop import Step, Training, closing
from ..training.workers import Workers, joined
from .errors import sentence

ENDED_BY_SIGTERM = 128 + SIGTERM  # as shells have it


@contextmanager
def joined_quietly() -> Iterator[Workers]:
    """Join the processes that torchrun started with this one; inside, the leading one alone says what it does."""
    with joined() as workers, nullcontext() if workers.leads else redirect_stderr(StringIO()):
        if not workers.leads:
            logging.getLogger().setLevel(logging.ERROR)
        yield workers


def one_folder(workers: Workers, find: Callable[[], RunFolder]) -> RunFolder:
    """Let the leading process find a training's folder, so that all of them have the same."""
    found = find() if workers.leads else None
    path, identity = json.loads(workers.told(json.dumps(found and [str(found.path), found.identity])))
    return found or RunFolder(Path(path), identity)


def train(run: Training, save: Callable[[Path], Path], out: Path, folder: RunFolder, previews: PreviewConfig) -> None:
    """Train from where the folder stands, save, and write the loss chart beside the file.

    save: in the folder that it is given: `out`, or where that fails, as on a full disk, another, which is printed. Of
    several processes the leading one does so, and the others compute their shares of its steps.
    """
    steps = run.method.config.steps
    if (taken := folder.result(steps, [out])) is not None:
        print(f"taken from an earlier training of the same: {folder.path}. --retrain trains anew.", file=sys.stderr)
        print(taken)
        return
    if not run.method.workers.leads:
        _take_shares(run, folder)
        return
    print(summary(run.method), file=sys.stderr)
    recording = Recording(folder, run.method, previews)
    if recording.history:
        print(f"goes on from step {len(recording.history)} of {folder.path}.", file=sys.stderr)
    with stopped_by_signals() as asked:
        with _kept_on_failure(run, recording, save, out):
            _take_steps(run, recording, asked)
        kept = recording.keep_ended(run)
        path = save_somewhere(save, _folders_to_save_in(out))
    print(path)
    if len(recording.history) < steps:
        goes_on = "; the same command goes on from there" if kept else ""
        print(f"stopped: what was learned until now is kept{goes_on}.", file=sys.stderr)
    else:
        recording.finish(path)
    if folder.overlay_file.exists():
        print(f"what is learned of the photos: {folder.overlay_file}", file=sys.stderr)
    if recording.previews.pictures:
        print(f"previews: {folder.contact_sheet}", file=sys.stderr)
    _write_chart(recording.history, path.with_suffix(".loss.png"))
    if SIGTERM in asked:
        sys.exit(ENDED_BY_SIGTERM)


def _take_steps(run: Training, recording: Recording, asked: list[int]) -> None:
    """Record the steps, until the last, or until a signal has asked to stop."""
    total, history, losses = run.method.config.steps, recording.history, {}
    begun = {"total": total, "initial": len(history), "unit": "step"}
    with closing(run.steps(recording.state)) as steps, tqdm(steps, **begun) as bar:
        for step in bar:
            recording.note(step, run.learner)
            losses |= {name.replace("_", " "): f"{value:.3f}" for name, value in step.shown.items()}
            bar.set_postfix(losses, refresh=False)
            if run.method.workers.any(bool(asked)) and len(history) < total:
                return


def _take_shares(run: Training, folder: RunFolder) -> None:
    """Take the same steps as the process that leads, from the same state, until it has ended or one was stopped."""
    state, _ = folder.earlier()
    with stopped_by_signals() as asked, closing(run.steps(state)) as steps:
        for _ in steps:
            if run.method.workers.any(bool(asked)):
                return


def _write_chart(history: list[Step], file: Path) -> None:
    """The training is saved by now: a chart that fails, as on a full disk, is told and no more."""
    try:
        write_image(loss_chart(history), file)
    except Exception as error:
        logging.warning("the loss chart could not be written: %s", error)


@contextmanager
def _kept_on_failure(run: Training, recording: Recording, save: Callable[[Path], Path], out: Path) -> Iterator[None]:
    """Inside, what a training that fails or is interrupted has learned is saved before the error goes on."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        recording.keep_ended(run, error)
        outcome = keep_unfinished(run, save, _folders_to_save_in(out))
        if (cause := sentence(error)) is None:
            print(outcome, file=sys.stderr)
            raise
        sys.exit(f"palp: {cause} {outcome}")


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
