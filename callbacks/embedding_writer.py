"""The embedding of every sample, as one array."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.part_writer import PartWriter
from callbacks.prediction_writer import names_of_rows
from framework.command.report import relative
from framework.utilities.console import PlainConsole
from framework.utilities.files import (
    open_new_binary,
    remove_file,
    write_atomically,
    writing,
)
from framework.utilities.packed_copy import copy_packed

BLOCK_BYTES = 1 << 24
"""Bytes of embeddings that are in memory at a time."""


class EmbeddingWriter(PartWriter):
    """Writes predicted embeddings as one array (N, d) of float32, a row per sample by ``index``.

    It writes the column that the module names as its ``embedding_column``, and leaves other modules
    alone. Beside ``embeddings.npy`` lies ``embeddings.csv``, which says in the same order which
    sample a row is: its ``index``, and its ``file`` where the data set has ``names``. A Parquet
    file has these as columns of its own, and ``embedding``, a list of d numbers. Every rank appends
    its batches to a part file in the folder of the result, which all ranks must see; at the end
    rank 0 joins them some rows at a time, and leaves out samples that were predicted twice.

    Args:
        path: Path of the file, which ends in ``.npy`` or ``.parquet``; default ``embeddings.npy``
            or ``.parquet`` in the run folder.
        format: Format of the file; Parquet needs ``pip install 'trimtab[parquet]'``.

    Raises:
        ValueError: ``path`` does not end in the format; the column is no (B, d); several ranks or
            data loaders predict without distinct ``index``.
        ImportError: ``pyarrow``, for Parquet, is not installed.

    Example:
        >>> EmbeddingWriter(format="parquet").format
        'parquet'
    """

    name = "embeddings"

    def __init__(self, path: str | None = None, format: Literal["npy", "parquet"] = "npy") -> None:  # noqa: A002
        super().__init__(path, format)
        self._dim = 0
        self._rows = 0
        self._has_index = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse Parquet where it cannot be written, before anything is predicted."""
        self._column = getattr(pl_module, "embedding_column", None)
        if stage == "predict" and self._column is not None:
            self.check_format()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's part."""
        if self._column is None:
            return
        self.open_part(trainer, open_new_binary)
        self._dim, self._rows, self._has_index = 0, 0, True

    def append(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:
        """Append the embeddings of a batch to this rank's part."""
        assert self._part is not None
        records = self._records(outputs)
        with writing(self.target(trainer)):
            self._part.write(records.tobytes())
        self._rows += len(records)

    def _records(self, outputs: Any) -> np.ndarray:
        """Return index and embedding of each row of a batch."""
        found = outputs.get(self._column) if isinstance(outputs, Mapping) else None
        if not isinstance(found, Tensor) or found.ndim != 2:
            kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"The prediction {self._column!r} is {kind}, not a tensor (B, d).")
        if self._dim not in (0, found.shape[1]):
            raise ValueError(
                f"The embeddings of one batch have width {found.shape[1]}, of others {self._dim}."
            )
        self._dim = found.shape[1]
        sent = {"embedding": found.detach()}
        self._has_index = "index" in outputs
        if self._has_index:
            sent["index"] = outputs["index"]
        read = copy_packed(sent, "cpu")
        records = np.zeros(len(found), _record(self._dim))
        records["embedding"] = read["embedding"].float().numpy()
        records["index"] = (
            read["index"].numpy()
            if self._has_index
            else np.arange(self._rows, self._rows + len(found))
        )
        return records

    def whole_part(self) -> _Part:
        """Return where this rank's part is, and what is in it."""
        return _Part(str(self._place), self._rows, self._dim, self._has_index)

    def join(self, parts: list[_Part], trainer: Trainer) -> None:
        """Join the parts into one file, and remove them."""
        target = self.target(trainer)
        console = PlainConsole()
        with ExitStack() as stack:
            for part in parts:
                stack.callback(remove_file, Path(part.path))
            written = [part for part in parts if part.rows]
            if not written:
                console.print("embeddings: none, there were no samples")
                return
            if len(written) > 1 and not all(part.has_index for part in written):
                raise ValueError("Several ranks can only predict batches that have an `index`.")
            rows = _Rows(written, names_of_rows(trainer))
            if self.format == "parquet":
                write_atomically(target, lambda file: _write_parquet(rows, file))
            else:
                write_atomically(target, lambda file: _write_npy(rows, file, target))
        console.print(
            f"embeddings: {len(rows.index):,} rows of {rows.dim} numbers in {relative(target)}",
            soft_wrap=True,
        )


class _Part(NamedTuple):
    """What a rank has written: a file of records, of which there are ``rows``."""

    path: str
    rows: int
    dim: int
    has_index: bool


class _Rows:
    """The rows of all parts by index, each once, which are read some at a time."""

    def __init__(self, parts: Sequence[_Part], named: tuple[str, Sequence[str]] | None) -> None:
        self.dim = parts[0].dim
        kind = _record(self.dim)
        self._parts = [np.memmap(part.path, kind, "r", shape=(part.rows,)) for part in parts]
        index = np.concatenate([part["index"] for part in self._parts])
        self.index, self._order = np.unique(index, return_index=True)
        self._ends = np.cumsum([part.rows for part in parts])
        self._names = named

    @property
    def title(self) -> str | None:
        """What the names of samples are called, where they have some."""
        return None if self._names is None else self._names[0]

    def names(self, start: int = 0, end: int | None = None) -> list[str]:
        """Return the names of some rows, none where samples have no names."""
        if self._names is None:
            return []
        # a line break would make two rows of one
        return [
            " ".join(str(self._names[1][row]).splitlines())
            for row in self.index[start:end].tolist()
        ]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the embeddings (n, d) of some rows after another."""
        size = max(1, BLOCK_BYTES // (4 * max(1, self.dim)))
        for start in range(0, len(self.index), size):
            order = self._order[start : start + size]
            source = np.searchsorted(self._ends, order, side="right")
            block = np.empty((len(order), self.dim), "<f4")
            for number, part in enumerate(self._parts):
                chosen = source == number
                first = self._ends[number] - len(part)
                block[chosen] = part["embedding"][order[chosen] - first]
            yield start, block


def _record(dim: int) -> np.dtype:
    return np.dtype([("index", "<i8"), ("embedding", "<f4", (dim,))])


def _write_npy(rows: _Rows, file: Any, target: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows.index), rows.dim)}
    np.lib.format.write_array_header_1_0(file, header)
    for _, block in rows.blocks():
        file.write(block.tobytes())
    # the names change when nothing can fail any more but to put the array in its place
    write_atomically(target.with_suffix(".csv"), lambda ids: _write_ids(rows, ids))


def _write_ids(rows: _Rows, file: Any) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    if rows.title is None:
        writer.writerow(["index"])
        writer.writerows([index] for index in rows.index.tolist())
    else:
        writer.writerow(["index", rows.title])
        writer.writerows(zip(rows.index.tolist(), rows.names(), strict=True))
    text.detach()


def _write_parquet(rows: _Rows, file: Any) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    vector = pyarrow.list_(pyarrow.float32(), rows.dim)
    fields = [("index", pyarrow.int64()), ("embedding", vector)]
    if rows.title is not None:
        fields.insert(1, (rows.title, pyarrow.string()))
    schema = pyarrow.schema(fields)
    with ParquetWriter(file, schema) as writer:
        for start, block in rows.blocks():
            end = start + len(block)
            columns = [pyarrow.array(rows.index[start:end])]
            if rows.title is not None:
                columns.append(pyarrow.array(rows.names(start, end)))
            flat = pyarrow.array(block.reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, rows.dim))
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
