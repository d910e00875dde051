"""The one way in which many cells are computed: what is there is left out, what fails is told, the rest goes on.

A cell is what is computed and kept as one piece. A worker holds what cells have in common, such as a loaded model, and
turns a cell into its rows. Where workers work is an executor's matter: in this process, or on a cluster (cluster.py).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol, TextIO, TypeVar

import torch
from safetensors import SafetensorError

from ..errors import OUT_OF_MEMORY, PalpError

C = TypeVar("C")
#: One row of a table: column -> what JSON can hold.
Row = dict
#: Turns a cell into its rows.
Worker = Callable[[C], list[Row]]
#: Loads what a worker needs. For a cluster it has to be picklable, as must be the cells.
MakeWorker = Callable[[], Worker[C]]


class Done(NamedTuple):
    """What came of a cell: its rows, or where it failed, what is to be told."""

    key: str
    rows: list[Row] | None
    error: str = ""


#: Key -> cell; yields what came of each, in any order.
Executor = Callable[[Mapping[str, C]], Iterator[Done]]


class Stopped(Exception):  # noqa: N818, because it is no fault
    """Whoever runs the cells has asked to stop, and what was under way is kept."""


def never() -> bool:
    """Do not stop."""
    return False


class Bar(Protocol):
    """A progress bar, as tqdm's."""

    def update(self) -> object:
        """Advance by one cell."""

    def write(self, s: str, file: TextIO) -> object:
        """Print a line above the bar."""


def say(bar: Bar, text: str) -> None:
    """Print a line above the bar, beside which standard output stays what programs read."""
    bar.write(text, file=sys.stderr)


def compute(
    missing: Mapping[str, C],
    executor: Executor[C],
    keep: Callable[[str, list[Row]], None],
    bar: Bar,
    title: Callable[[str], str] = str,
) -> dict[str, str]:
    """Compute cells and keep the rows of each as soon as they are there; returns key -> message of those that failed.

    title: what a cell is called where its failure is told. Raises Stopped once a worker was stopped; what was kept
    until then stays.
    """
    failed = {}
    for done in executor(missing):
        if done.rows is None:
            failed[done.key] = done.error
            say(bar, f"failed: {title(done.key)}: {done.error}")
        else:
            keep(done.key, done.rows)
        bar.update()
    return failed


def in_process(make_worker: MakeWorker[C]) -> Executor[C]:
    """Compute in this process, one cell after the other."""

    def execute(missing: Mapping[str, C]) -> Iterator[Done]:
        worker = make_worker() if missing else None
        for key, cell in missing.items():
            yield attempt(worker, key, cell)

    return execute


def attempt(worker: Worker[C], key: str, cell: C) -> Done:
    """Compute a cell. A fault of it is told, and is not one of the others; Stopped is none."""
    try:
        return Done(key, worker(cell))
    except Stopped:
        raise
    except Exception as error:
        return Done(key, None, told(error))


def told(error: Exception) -> str:
    """Say an error in a line. One that nobody expected is logged with its traceback."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, (PalpError, OSError, SafetensorError)):
        return str(error)
    logging.error("a cell failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
