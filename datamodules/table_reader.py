"""Tables of numbers from files: delimited text and Parquet, read column by column."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, TextIO

import numpy as np

from framework.utilities.error_reason import reason_of
from framework.utilities.limits import (
    VARIABLE,
    FileTooLargeError,
    Unpacked,
    check_size,
    max_bytes,
    memory_foreseen,
    open_file,
)
from framework.utilities.nearest_names import nearest
from framework.utilities.packages import require_package

OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BYTES_PER_CHARACTER = 32
"""Bytes that a character of a line becomes at most, as cells of two characters."""
MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "#n/a", "?")
"""Texts that stand for a missing value, in lower case."""


class Table:
    """Columns of a file, turned into numbers only when they are asked for.

    A text column that nobody uses so does no harm.

    Args:
        source: Name of the table in messages.
        names: Names of the columns.
        cells: Sequences of cells, one per column.
        lines: Line of the file that each row stands on, where there are lines.
        decimal: Character before the decimals of a number in text.
    """

    def __init__(
        self,
        source: str | Path,
        names: Sequence[str],
        cells: Sequence[Sequence[Any] | np.ndarray],
        lines: Sequence[int] | None = None,
        decimal: str = ".",
    ) -> None:
        self.source = source
        self.names = list(names)
        self.cells = cells
        self.lines = lines
        self.decimal = decimal
        self.is_named = True
        """Whether the file names the columns."""

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

    def numbers(self, column: int | str, missing: bool = False) -> np.ndarray:
        """Return a column as (N,) float64.

        Args:
            column: Name or number of the column.
            missing: Whether cells may be missing, which then are NaN.

        Raises:
            ValueError: there is no such column, or a cell is empty, no number, or not finite.
        """
        position = self.position(column)
        cells = self.cells[position]
        try:
            if self.decimal != ".":
                raise ValueError
            values = np.array(cells, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array([self._number(cell) for cell in cells], dtype=np.float64)
        fine = np.isfinite(values)
        bad = np.flatnonzero(~(fine | self.missing(position) if missing else fine))
        if len(bad):
            row = int(bad[0])
            place = f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"
            cell = cells[row]
            what = "is empty" if cell is None or cell == "" else f"holds {str(cell)[:60]!r}"
            raise ValueError(
                f"{self.source}, {place}, column {self.names[position]!r} {what}, which is no "
                f"finite number{self._advice(position, cell)}."
            )
        return values

    def missing(self, column: int | str) -> np.ndarray:
        """Return (N,) bool, True where a cell is missing."""
        cells = self.cells[self.position(column)]
        if _holds_numbers(cells):
            return np.isnan(cells)
        return np.array([_is_missing(cell) for cell in cells], dtype=bool)

    def is_text(self, column: int | str) -> bool:
        """Return whether a column has a cell that is neither a number nor missing."""
        cells = self.cells[self.position(column)]
        if _holds_numbers(cells):
            return False
        return any(not _is_missing(cell) and np.isnan(self._number(cell)) for cell in cells)

    def is_index(self, column: int | str) -> bool:
        """Return whether a column has no name and numbers the rows, from 0 or 1."""
        position = self.position(column)
        name = self.names[position]
        if not self.is_named or (name and not name.startswith(("Unnamed: ", "__index_level_"))):
            return False
        cells = [str(cell).strip() for cell in self.cells[position]]
        return any(cells == [str(k + first) for k in range(len(cells))] for first in (0, 1))

    def texts(self, column: int | str) -> list[str | None]:
        """Return the cells of a column as text, None where one is missing."""
        cells = self.cells[self.position(column)]
        return [None if _is_missing(cell) else str(cell) for cell in cells]

    def _number(self, cell: Any) -> float:
        if self.decimal != "." and isinstance(cell, str):
            # a point would be one of thousands, or a mistake
            cell = "" if "." in cell else cell.replace(self.decimal, ".")
        return _number(cell)

    def _advice(self, position: int, cell: Any) -> str:
        """Return which option of ``Tabular`` takes such a cell, for a message."""
        if _is_missing(cell):
            return "; `missing` says what becomes of it"
        if isinstance(cell, str) and not np.isnan(_number(cell.replace(",", "."))):
            return "" if "," not in cell else "; set decimal to ','"
        return "; `categories` takes text" if self.is_text(position) else ""


def _holds_numbers(cells: Any) -> bool:
    return isinstance(cells, np.ndarray) and cells.dtype.kind in "fiub"


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


def _is_missing(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in MISSING


def read_table(path: str | Path, separator: str | None = None, decimal: str = ".") -> Table:
    """Read a table.

    Args:
        path: File ``.csv`` (fields separated by comma, semicolon or tab), ``.txt`` (separated by
            white space) or ``.parquet``; text may be compressed (``.csv.gz``, ``.bz2``, ``.xz``).
            In text the first line names the columns unless it holds only numbers and missing
            values; columns without names are called ``'0'``, ``'1'`` and so on.
        separator: Character between the fields of a ``.csv``; default the one out of comma,
            semicolon and tab that its first line has most of.
        decimal: Character before the decimals of a number in text.

    Raises:
        FileNotFoundError: no such file.
        ImportError: Parquet without ``pyarrow``.
        ValueError: another file type, a damaged file, a file without rows, or a line with more or
            fewer fields than the first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table.")
    if len(decimal) != 1 or (separator is not None and len(separator) != 1):
        raise ValueError(
            f"separator and decimal are one character, got {separator!r}, {decimal!r}."
        )
    if path.suffix == ".parquet":
        return _read_parquet(path)
    inner = path.with_suffix("").suffix if path.suffix in OPENERS else path.suffix
    if inner in (".csv", ".txt"):
        return _read_text(path, inner, separator, decimal)
    raise ValueError(f"{path}: tables are .csv, .txt or .parquet, text also as .gz, .bz2 or .xz.")


def _read_text(path: Path, kind: str, separator: str | None, decimal: str) -> Table:
    lines: list[int] = []
    rows: list[list[str]] = []
    taken = 0
    try:
        if kind == ".txt":
            separator = None
        elif separator is None:
            with _opened(path) as file:
                first = next(_Lines(path, file), "")
            separator = max(",;\t".replace(decimal, ""), key=first.count)
        with memory_foreseen(path), _opened(path) as file:
            for line, row in _split(_Lines(path, file), separator):
                # twice, as rows become columns; Python has each text of one character once
                taken += 2 * sys.getsizeof(row)
                taken += sum(sys.getsizeof(cell) for cell in row if len(cell) > 1)
                check_size(path, taken, "its cells")
                if not any(row):
                    continue
                if rows and len(row) != len(rows[0]):
                    raise ValueError(
                        f"{path}, line {line} has {len(row)} fields, and line {lines[0]} has "
                        f"{len(rows[0])}."
                    )
                lines.append(line)
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 text: {error}.") from None
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is no complete compressed file: {error}.") from None
    table = Table(path, [], [], decimal=decimal)
    named = bool(rows) and any(
        np.isnan(table._number(cell)) and not _is_missing(cell) for cell in rows[0]
    )
    if len(rows) <= named:
        raise ValueError(f"{path} holds no rows.")
    table.names = rows[0] if named else [str(k) for k in range(len(rows[0]))]
    table.cells = list(zip(*rows[named:], strict=True))
    table.lines = lines[named:]
    table.is_named = named
    return table


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a text, compressed or not, of which no more is unpacked than the limit."""
    with open_file(path) as file:
        packed = path.suffix in OPENERS
        stream: IO[bytes] = Unpacked(path, OPENERS[path.suffix](file)) if packed else file
        # a byte-order mark, as spreadsheets write it, is no part of the first name
        yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


class _Lines:
    """Lines of a text, of which those of one row are limited.

    Args:
        path: File, for messages.
        file: Its text.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.number = 0
        self.longest = max_bytes() // _BYTES_PER_CHARACTER
        self._left = self.longest

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self.file.readline(self._left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._left -= len(line)
        if self._left < 0:
            raise FileTooLargeError(
                f"{self.path}, line {self.number}: a row has more than {self.longest:,} "
                f"characters: set {VARIABLE} to allow more."
            )
        return line

    def end_row(self) -> None:
        """Begin a row, which may have as many characters as the one before."""
        self._left = self.longest


def _split(lines: _Lines, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of every line."""
    rows = (line.split() for line in lines) if separator is None else None
    for row in rows or csv.reader(lines, delimiter=separator or ","):
        lines.end_row()
        yield lines.number, row if separator is None else [cell.strip() for cell in row]


def _read_parquet(path: Path) -> Table:
    require_package("pyarrow", extra="parquet", purpose=str(path))
    import pyarrow
    from pyarrow import parquet

    try:
        with memory_foreseen(path), open_file(path) as file, parquet.ParquetFile(file) as found:
            fields = list(found.schema_arrow)
            row = sum(_cell_bytes(field.type) for field in fields)
            groups = map(found.metadata.row_group, range(found.metadata.num_row_groups))
            size = sum(group.total_byte_size + group.num_rows * row for group in groups)
            check_size(path, size, "its columns", path.stat().st_size)
            for field in fields:
                if pyarrow.types.is_nested(field.type):
                    raise ValueError(f"{path}, column {field.name!r} is of lists or records.")
            # a text that many rows have is there once
            texts = [field.name for field in fields if _is_text(field.type)]
        with memory_foreseen(path):
            table = parquet.read_table(path, read_dictionary=texts)
            # text and times as objects: NumPy would turn a time into a number of nanoseconds
            cells = [
                column.to_numpy()
                if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type)
                else _objects(column)
                for column in table.columns
            ]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no complete Parquet file: {reason_of(error)}.") from None
    if not len(table):
        raise ValueError(f"{path} holds no rows.")
    return Table(path, table.column_names, cells)


def _cell_bytes(kind: Any) -> int:
    """Return what a cell of a column takes at most, as a number or an object of Python."""
    from pyarrow import types

    if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return 16
    return 24 if _is_text(kind) else 128


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind)


def _objects(column: Any) -> list[Any]:
    """Return the cells of a column; equal texts are one object."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return column.to_pylist()
    cells = []
    for chunk in column.chunks:
        values = [*chunk.dictionary.to_pylist(), None]
        cells += [values[code] for code in chunk.indices.fill_null(len(values) - 1).to_pylist()]
    return cells
