"""Tables of numbers from files: delimited text and Parquet, read column by column."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.utilities.nearest_names import nearest
from framework.utilities.packages import require_package


class Table:
    """Columns of a file, turned into numbers only when they are asked for.

    A text column that nobody uses so does no harm.

    Args:
        source: Name of the table in messages.
        names: Names of the columns.
        cells: Sequences of cells, one per column.
        lines: Line of the file that each row stands on, where there are lines.
    """

    def __init__(
        self,
        source: str | Path,
        names: Sequence[str],
        cells: Sequence[Sequence[Any] | np.ndarray],
        lines: Sequence[int] | None = None,
    ) -> None:
        self.source = source
        self.names = list(names)
        self.cells = cells
        self.lines = lines

    def __len__(self) -> int:
        return len(self.cells[0]) if self.cells else 0

    def position(self, column: int | str) -> int:
        """Return the position of a column given by name or by number, negative from the end.

        Raises:
            ValueError: there is no such column; the message names the nearest.
        """
        if isinstance(column, str) and column in self.names:
            return self.names.index(column)
        if isinstance(column, int) and -len(self.names) <= column < len(self.names):
            return column % len(self.names)
        raise ValueError(
            f"{self.source} has no column {column!r} among its {len(self.names)}"
            f"{nearest(str(column), self.names)}."
        )

    def numbers(self, column: int | str) -> np.ndarray:
        """Return a column as (N,) float64.

        Raises:
            ValueError: there is no such column, or a cell is empty, no number, or not finite.
        """
        position = self.position(column)
        cells = self.cells[position]
        try:
            values = np.array(cells, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array([_number(cell) for cell in cells], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row = int(bad[0])
            place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
            cell = cells[row]
            what = "is empty" if cell is None or cell == "" else f"holds {str(cell)!r}"
            raise ValueError(
                f"{self.source}, {place}, column {self.names[position]!r} {what}, which is no "
                "finite number."
            )
        return values


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


def read_table(path: str | Path) -> Table:
    """Read a table.

    Args:
        path: File ``.csv`` (fields separated by comma, semicolon or tab), ``.txt`` (separated by
            white space) or ``.parquet``. In text the first line names the columns unless it holds
            only numbers; columns without names are called ``'0'``, ``'1'`` and so on.

    Raises:
        FileNotFoundError: no such file.
        ImportError: Parquet without ``pyarrow``.
        ValueError: another file type, a damaged file, a file without rows, or a line with more or
            fewer fields than the first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table.")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix in (".csv", ".txt"):
        return _read_text(path)
    raise ValueError(f"{path}: tables are .csv, .txt or .parquet.")


def _read_text(path: Path) -> Table:
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        # a byte-order mark, as spreadsheets write it, is no part of the first name
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, row in _split(file, path):
                if rows and len(row) != len(rows[0]):
                    raise ValueError(
                        f"{path}, line {line} has {len(row)} fields, and line {lines[0]} has "
                        f"{len(rows[0])}."
                    )
                lines.append(line)
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 text: {error}.") from None
    named = bool(rows) and any(np.isnan(_number(cell)) for cell in rows[0])
    names = rows[0] if named else [str(k) for k in range(len(rows[0]))] if rows else []
    if len(rows) <= named:
        raise ValueError(f"{path} holds no rows.")
    return Table(path, names, list(zip(*rows[named:], strict=True)), lines[named:])


def _split(file: Any, path: Path) -> Any:
    """Yield the number and the fields of every line that is not blank."""
    if path.suffix == ".txt":
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, text.split()
        return
    first = file.readline()
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, [cell.strip() for cell in row]


def _read_parquet(path: Path) -> Table:
    require_package("pyarrow", extra="parquet", purpose=str(path))
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no complete Parquet file: {error}") from None
    if not len(table):
        raise ValueError(f"{path} holds no rows.")
    # text and times as objects: NumPy would turn a time into a number of nanoseconds
    cells = [
        column.to_numpy()
        if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
    return Table(path, table.column_names, cells)
