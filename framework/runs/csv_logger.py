"""Writes ``metrics.csv``: one row per logged step, appended to by a resumed run."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from framework.runs.run_folder import warn_of_removal
from framework.utilities.files import open_in_place, write_atomically, writing

Row = dict[str, Any]


class RunLogger(Logger):
    """Writes every logged value to ``metrics.csv`` in the run folder.

    The columns are ``epoch``, ``step`` and then the metrics in the order in which they appeared;
    everything logged at one step shares a row. Training writes ``metrics.csv``, any other command
    its own file, such as ``metrics_test.csv``. Every row is in the file as soon as it is logged.
    Lightning's ``CSVLogger`` deletes what is there when a run is resumed; this one continues it.
    Where somebody removes the file while the run goes on, it is written again with all its rows.

    Args:
        folder: Folder of the file; None leaves it to the command, which sets ``folder`` to the run
            folder.

    Raises:
        ValueError: something is logged before the folder is known.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     logger = RunLogger(folder)
        ...     logger.log_metrics({"epoch": 0, "train/loss": 0.5}, step=0)
        ...     logger.log_metrics({"val/loss": 0.25}, step=0)
        ...     logger.finalize("success")
        ...     print(logger.path.read_text().strip())
        epoch,step,train/loss,val/loss
        0,0,0.5,0.25
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.file_name = "metrics.csv"
        self._keep_below = math.inf
        self._file: BinaryIO | None = None
        self._columns: list[str] = []
        self._row: Row = {}
        self._row_start = 0

    @property
    def name(self) -> str:
        """Nothing: the folder is the run's alone."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: see ``name``."""
        return ""

    @property
    def save_dir(self) -> str | None:
        """The run folder."""
        return self.folder

    @property
    def log_dir(self) -> str | None:
        """The run folder."""
        return self.folder

    @property
    def path(self) -> Path:
        """The file that is written."""
        if self.folder is None:
            raise ValueError("RunLogger does not know where to write: set its `folder`.")
        return Path(self.folder) / self.file_name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config lies beside the metrics."""

    @rank_zero_only
    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Choose the file; Lightning calls this before each run, with the module.

        A run from the start replaces the file, one that goes on in the same process appends to it.
        """
        assert isinstance(model, LightningModule)
        trainer = model.trainer
        assert trainer.state.fn is not None
        command = trainer.state.fn.value
        self._close()
        self.file_name = "metrics.csv" if command == "fit" else f"metrics_{command}.csv"
        if command != "fit":
            self._keep_below = 0
        elif trainer.ckpt_path is None:
            self._keep_below = trainer.global_step

    @rank_zero_only
    def continue_from(self, global_step: int) -> None:
        """Drop the rows that were logged after a checkpoint.

        Lightning logs what belongs to the s-th optimizer step, validation and the epoch's end
        included, under the number s - 1. So rows below ``global_step`` are kept; where a resumed
        run logs the last of them again, it fills the same row.

        Args:
            global_step: Optimizer steps in the checkpoint that the run continues from.
        """
        self._keep_below = global_step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the row of a step.

        Args:
            metrics: Scalars by name.
            step: Optimizer step of the row; default that of the latest row.
        """
        with writing(self.path):
            if self._file is None:
                # rows of later steps than the first one cannot be of this run
                self._open(min(self._keep_below, math.inf if step is None else step + 1))
            elif not self._is_in_place():
                self._put_back()
            self._log(metrics, self._row.get("step", 0) if step is None else step)

    def _log(self, metrics: Mapping[str, Any], step: int) -> None:
        assert self._file is not None
        if self._row.get("step") != step:
            self._row = {"epoch": "", "step": step}
            self._row_start = self._file.tell()
        # a learning rate may be a tensor
        self._row |= {n: v.item() if isinstance(v, Tensor) else v for n, v in metrics.items()}
        # a run that goes on may log in another order than one with a sanity check
        new = sorted(self._row.keys() - set(self._columns))
        if new:
            columns = [*self._columns, *new]
            _, rows = read_metrics(self.path)
            if rows and rows[-1]["step"] == step:
                rows.pop()
            self._rewrite(columns, [*rows, self._row])
            return
        line = _line([self._row.get(name, "") for name in self._columns])
        self._file.seek(self._row_start)
        self._file.write(line)
        self._file.truncate()
        self._file.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        self._close()
        self._keep_below = math.inf

    def _is_in_place(self) -> bool:
        """Return whether the file that is written is the one that lies there."""
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _put_back(self) -> None:
        """Write the file again, of which somebody removed the name; it can still be read."""
        assert self._file is not None
        warn_of_removal(self.path.parent)
        self._file.seek(0)
        content, place = self._file.read(), self._row_start
        write_atomically(self.path, lambda file: file.write(content))
        self._file.close()
        self._file = open_in_place(self.path)
        self._file.seek(0, io.SEEK_END)
        self._row_start = place

    def _open(self, keep_below: float) -> None:
        columns, rows = read_metrics(self.path)
        kept = [row for row in rows if row["step"] < keep_below]
        self._rewrite(columns if kept else ["epoch", "step"], kept)

    def _rewrite(self, columns: list[str], rows: list[Row]) -> None:
        lines = [_line(columns), *(_line([row.get(c, "") for c in columns]) for row in rows)]
        try:
            write_atomically(self.path, lambda file: file.writelines(lines))
        except KeyboardInterrupt:
            # which of the two files lies there is not known: the next value reads it
            self._close()
            raise
        if self._file is not None:
            self._file.close()
        self._file = open_in_place(self.path)
        end = self._file.seek(0, io.SEEK_END)
        self._columns = columns
        self._row = rows[-1] if rows else {}
        self._row_start = end - len(lines[-1]) if rows else end

    def _close(self) -> None:
        if self._file is not None:
            # what could not be written was said when it was logged
            with suppress(OSError):
                self._file.close()
        self._file, self._columns, self._row = None, [], {}


def read_metrics(path: Path) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a ``metrics.csv``; nothing where there is no file.

    Values are text, but for ``step``. A last line that a kill cut short is left out.

    Raises:
        ValueError: It is no such table.
    """
    if not path.is_file():
        return [], []
    content = path.read_bytes()
    try:
        text = content[: content.rfind(b"\n") + 1].decode()
        reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
        rows = [{**row, "step": int(row["step"])} for row in reader]
    except (ValueError, KeyError, csv.Error):
        raise ValueError(
            f"{path} holds no metrics of a run: a table whose column 'step' holds whole numbers."
        ) from None
    return list(reader.fieldnames or []), rows


def as_number(cell: Any) -> float:
    """Return a value of a row as a number; NaN for any other text."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _line(values: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
