"""Tables of comma-separated values, read with the checks that every reader of one needs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError


class Row(NamedTuple):
    """One row: the line on which it ends, and column -> value, "" where it has none."""

    line: int
    values: dict[str, str]


def read_table(table: Path, needed: Sequence[str], others: Sequence[str] = ()) -> list[Row]:
    """Read a table whose first line names its columns; columns that are neither needed nor among others are left out.

    Raises FileError for a file that is no such table, and where a needed column or a value in it is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline=""))
        read = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(
            f"{table} is no table of comma-separated values in UTF-8 ({error}). Save it as such."
        ) from error
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise FileError(f"{table} has no column {' and no column '.join(missing)}.")
    names = (*needed, *others)
    rows = [Row(line, {name: (row.get(name) or "").strip() for name in names}) for line, row in read]
    for row in rows:
        if empty := [name for name in needed if not row.values[name]]:
            raise FileError(f"line {row.line} of {table} has no {empty[0]}.")
    return rows
