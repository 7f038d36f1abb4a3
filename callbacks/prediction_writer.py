"""One row per sample, as CSV or Parquet."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Subset

from callbacks.part_writer import PartWriter
from framework.command.report import relative
from framework.data.datasets import IndexedDataset
from framework.utilities.console import PlainConsole
from framework.utilities.files import (
    open_new,
    part_of,
    remove_file,
    write_atomically,
    writing,
)
from framework.utilities.packed_copy import copy_packed
from framework.utilities.precision import at_least_float32


class PredictionWriter(PartWriter):
    """Writes what ``predict_step`` returns, one row per sample, in the order of ``index``.

    A tensor (B,) becomes one column, (B, K) the columns ``name_0`` to ``name_{K-1}``. Where the
    module names them, by ``column_names``, names of classes and targets stand in the place of
    numbers, and where the data set has ``names``, the column ``file`` says which sample it is. The
    module's ``embedding_column`` is left to ``EmbeddingWriter``.
    Every rank appends its batches to a part file in the folder of the result, which all ranks must
    see; at the end rank 0 joins them, whatever their sizes, leaves out samples that were predicted
    twice, and puts the file in its place in one step. Only the position of each row is kept in
    memory.

    Args:
        path: Path of the file, which ends in ``.csv`` or ``.parquet``; default ``predictions.csv``
            or ``.parquet`` in the run folder.
        format: Format of the file; Parquet needs ``pip install 'trimtab[parquet]'``.

    Raises:
        ValueError: ``path`` does not end in the format; a column is neither (B,) nor (B, K);
            several ranks or data loaders predict without distinct ``index``.
        ImportError: ``pyarrow``, for Parquet, is not installed.

    Example:
        >>> PredictionWriter(format="csv").format
        'csv'
    """

    name = "predictions"

    def __init__(self, path: str | None = None, format: Literal["csv", "parquet"] = "csv") -> None:  # noqa: A002
        super().__init__(path, format)
        self._types: dict[str, np.dtype] = {}
        self._rows: tuple[str, Sequence[str]] | None = None
        self._left_out: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse Parquet where it cannot be written, before anything is predicted."""
        if stage == "predict":
            self.check_format()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's part."""
        if not getattr(pl_module, "predicts_rows", True):
            return
        self.open_part(trainer, open_new)
        self._types = {}
        self._left_out = getattr(pl_module, "embedding_column", None)
        self._rows = names_of_rows(trainer)

    def append(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:
        """Append the rows of a batch to this rank's part."""
        assert self._part is not None
        if self._left_out is not None and isinstance(outputs, Mapping):
            outputs = {name: value for name, value in outputs.items() if name != self._left_out}
            if outputs.keys() <= {"index"}:
                return
        columns = _columns(outputs, getattr(pl_module, "column_names", {}))
        if self._rows is not None and "index" in columns:
            title, names = self._rows
            chosen = [names[row] for row in columns["index"].tolist()]
            columns = {"index": columns.pop("index"), title: np.array(chosen, object), **columns}
        writer = csv.writer(self._part, lineterminator="\n")
        with writing(self.target(trainer)):
            if not self._types:
                self._types = {name: values.dtype for name, values in columns.items()}
                writer.writerow(columns)
            writer.writerows(zip(*(_text(values) for values in columns.values()), strict=True))

    def join(self, parts: list[str], trainer: Trainer) -> None:
        """Join the parts into one file, and remove them."""
        target = self.target(trainer)
        console = PlainConsole()
        with ExitStack() as stack:
            paths = [Path(part) for part in parts]
            for path in paths:
                stack.callback(remove_file, path)
            written = [path for path in paths if path.stat().st_size]
            if not written:
                if self._left_out is None:
                    console.print("predictions: none, there were no samples")
                return
            if len(written) > 1 and "index" not in self._types:
                raise ValueError("Several ranks can only predict batches that have an `index`.")
            rows = -1  # without the header

            def lines() -> Iterator[bytes]:
                nonlocal rows
                for line in _joined(written):
                    rows += 1
                    yield line

            if self.format == "csv":
                write_atomically(target, lambda file: file.writelines(lines()))
            else:
                whole = part_of(target)
                stack.callback(remove_file, whole)
                write_atomically(whole, lambda file: file.writelines(lines()))
                write_atomically(target, lambda file: _to_parquet(whole, file, self._types))
        console.print(f"predictions: {rows:,} rows in {relative(target)}", soft_wrap=True)


def names_of_rows(trainer: Trainer) -> tuple[str, Sequence[str]] | None:
    """Return the title and the names of the rows of the predicted data set, where it has any."""
    loaders: Any = trainer.predict_dataloaders
    dataset = getattr(loaders, "dataset", None)
    while isinstance(dataset, (IndexedDataset, Subset)):
        dataset = dataset.dataset
    names = getattr(dataset, "names", None)
    return None if names is None else (getattr(dataset, "names_title", "file"), names)


def _columns(outputs: Any, names: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return each column (B,) by name, ``index`` first.

    Args:
        outputs: What ``predict_step`` returned.
        names: Names of the parts of a column (B, K), or of the values of one of integers (B,).
    """
    if not isinstance(outputs, Mapping):
        raise ValueError("predict_step must return a dict of tensors.")
    for name, value in outputs.items():
        if not isinstance(value, Tensor) or value.ndim not in (1, 2):
            kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"The prediction {name!r} is {kind}, not a tensor (B,) or (B, K).")
    columns: dict[str, np.ndarray] = {}
    values = copy_packed(outputs, "cpu")
    for name, value in sorted(values.items(), key=lambda item: item[0] != "index"):
        array = at_least_float32(value.detach()).numpy()
        known = names.get(name)
        if array.ndim == 2:
            columns |= _parts(name, array, known)
        elif known is not None and array.dtype.kind in "iu":
            columns[name] = np.array([known[number] for number in array.tolist()], dtype=object)
        else:
            columns[name] = array
    if len({len(values) for values in columns.values()}) > 1:
        lengths = {name: len(values) for name, values in columns.items()}
        raise ValueError(f"The predictions of one batch differ in length: {lengths}.")
    return columns


def _parts(name: str, table: np.ndarray, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    parts = range(table.shape[1]) if names is None or len(names) != table.shape[1] else names
    return {f"{name}_{part}": table[:, k] for k, part in enumerate(parts)}


def _text(values: np.ndarray) -> list[Any]:
    if values.dtype == np.object_:  # a part is read line by line
        return [" ".join(str(value).splitlines()) for value in values]
    if values.dtype == np.bool_:
        return values.astype(int).tolist()
    # `str` of a NumPy number is the shortest text that reads back as the same number
    return [str(value) for value in values]


def _joined(parts: list[Path]) -> Iterator[bytes]:
    """Yield the header and the lines of all parts, by index, each once."""
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        header = files[0].readline()
        yield header
        if header.split(b",")[0].strip() != b"index":
            yield from files[0]
            return
        index, offset = array("q"), array("q")
        ends = []
        for file in files:
            file.seek(len(header))
            place = len(header)
            for line in file:
                index.append(int(line.partition(b",")[0]))
                offset.append(place)
                place += len(line)
            ends.append(len(index))
        for row in np.unique(np.asarray(index), return_index=True)[1]:
            file = files[np.searchsorted(ends, row, side="right")]
            file.seek(offset[row])
            yield file.readline()


def _to_parquet(source: Path, file: Any, types: dict[str, np.dtype]) -> None:
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema(
        [
            (name, pyarrow.string() if kind == np.object_ else pyarrow.from_numpy_dtype(kind))
            for name, kind in types.items()
        ]
    )
    reader = arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(block_size=1 << 26),
        # otherwise "nan" would become a missing value
        convert_options=arrow_csv.ConvertOptions(column_types=schema, null_values=[]),
    )
    with ParquetWriter(file, schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
