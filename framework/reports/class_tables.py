"""Tables that a run wrote, such as the scores of its classes."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from framework.reports.pictures import STAGES
from framework.runs.csv_logger import as_number
from framework.utilities.limits import read_text

FOLDER = "tables"
MOST_ROWS = 1000
MOST_COLUMNS = 50
_INTEGER = re.compile(r"[+-]?\d{1,15}")


class ClassTable(NamedTuple):
    """A table as it is shown.

    Args:
        caption: What it shows.
        columns: Names of the columns.
        rows: Cells of each row, as they are shown.
        left_out: Number of rows that are not shown.
        name: Name of its file without ending.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    left_out: int
    name: str


def read_tables(run: Path) -> list[ClassTable]:
    """Return the tables of a run folder; what is no table is left out.

    Args:
        run: Run folder, out of which no link leads.
    """
    found = []
    for path in sorted((run / FOLDER).glob("*.csv")):
        try:
            rows = [*csv.reader(io.StringIO(read_text(path, 64), newline=""))]
        except (OSError, ValueError, csv.Error):
            continue
        if not rows:
            continue
        columns = rows[0][:MOST_COLUMNS]
        shown = [[_shown(cell) for cell in row[: len(columns)]] for row in rows[1 : MOST_ROWS + 1]]
        left_out = max(0, len(rows) - 1 - MOST_ROWS)
        found.append(ClassTable(_caption(path.stem), columns, shown, left_out, path.stem))
    return found


def _shown(cell: str) -> str:
    """Return a number with 4 digits, and all else as it is."""
    if not cell or cell[0] not in "+-.0123456789":
        return cell
    if _INTEGER.fullmatch(cell):
        return f"{int(cell):,}"
    value = as_number(cell)
    return cell if value != value else f"{value:.4g}"


def _caption(name: str) -> str:
    stage, _, rest = name.partition("_")
    known = STAGES.get(stage) if rest else None
    words = (rest if known else name).replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}{f', {known}' if known else ''}"
