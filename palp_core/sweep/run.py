"""A sweep from its plan to its table, wherever its cells are computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import FileError
from .cells import Cell, cells_of
from .engine import Bar, Executor, Row, Stopped, compute, say
from .folder import kept_rows, rows_file
from .place import Place
from .plan import Plan
from .table import filling, write_class_words, write_table

#: The table of what is there is written after so many seconds, or after ten times as many as that takes.
SECONDS_BETWEEN_TABLES = 10.0


@dataclass
class Sweep:
    """The cells of a plan, and what is there of them."""

    plan: Plan
    place: Place
    cells: Sequence[Cell]
    #: Key of a cell -> its rows.
    there: dict[str, list[Row]]
    #: Key of a cell that failed -> why.
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    @classmethod
    def of(cls, plan: Plan, place: Place) -> Sweep:
        """Make the cells of a plan, and look which of them are there. Raises PalpError as `cells_of` does."""
        out = place.path
        cells = cells_of(plan, out)
        write_class_words(plan, out)
        place.fetch([rows_file(cell.folder(out), cell.key) for cell in cells])
        found = {cell.key: kept_rows(cell.folder(out), cell.key) for cell in cells}
        return cls(plan, place, cells, {key: rows for key, rows in found.items() if rows is not None})

    @property
    def missing(self) -> dict[str, Cell]:
        """Name the cells that are to be computed."""
        return {cell.key: cell for cell in self.cells if cell.key not in self.there}

    def run(self, executor: Executor[Cell], bar: Bar) -> None:
        """Compute what is missing, and write the table at first, on the way and in the end, however it ends.

        Raises FileError, and computes nothing, where it cannot be written. On the way that is told, and no obstacle.
        """
        self.write()
        missing, due = self.missing, time.monotonic() + SECONDS_BETWEEN_TABLES

        def keep(key: str, rows: list[Row]) -> None:
            nonlocal due
            self.there[key] = rows
            say(bar, filling(missing[key], rows))
            if (begun := time.monotonic()) >= due:
                self._write_or_say(bar)
                due = time.monotonic() + max(SECONDS_BETWEEN_TABLES, 10 * (time.monotonic() - begun))

        try:
            self.failed = compute(missing, executor, keep, bar, lambda key: missing[key].title)
        except Stopped:
            self.stopped = True
        finally:
            self.write()

    def _write_or_say(self, bar: Bar) -> None:
        try:
            self.write()
        except (FileError, OSError) as error:
            say(bar, f"the table is written later: {error}")

    def write(self) -> None:
        """Write the table of what is there."""
        write_table(self.plan, self.cells, self.there, self.place.path)
        self.place.push()
