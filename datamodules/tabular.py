"""Tables with a real-valued target: a file, or one of the sets that scikit-learn carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.table_reader import Table, read_table
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.data.raw_inputs import as_rows
from framework.utilities.randomness import stable_seed

BUNDLED = ("diabetes", "linnerud")


class Tabular(DataModule):
    """Rows of numbers with one or several real-valued targets, standardized on the training rows.

    Batches hold ``input`` (B, D) float32, ``target`` (B,) float32, or (B, T) where ``target`` is a
    list, and ``index`` (B,) int64, the row of the table, counted from 0. A permutation fixed by
    ``split_seed`` puts ``test_size`` rows aside for testing and the next ``val_size`` for
    validation.

    Means and standard deviations are those of the training rows alone; a column that is constant
    there becomes 0. Metrics and predictions of the ``Regressor`` are in the target's own unit.

    The remaining arguments are those of ``DataModule``.

    Args:
        source: File ``.csv``, ``.txt`` or ``.parquet``, see ``read_table``, or a set that comes
            with scikit-learn: ``diabetes`` (442 rows, 10 inputs, 1 target) or ``linnerud`` (20
            rows, 3 inputs, 3 targets).
        target: Column of the target, by name or number (negative from the end), or a list of
            columns. Default: the last column of a file, and what a bundled set has as targets.
        features: Columns to predict from, by name or number; default all others.
        val_size: Rows for validation, as a number (int) or as a share of all rows (float).
        test_size: Rows for testing, as a number (int) or as a share of all rows (float); not used
            with ``fold``.
        split_seed: Seed of the permutation; not the seed of the run.
        fold: Number of a fold, whose rows ``index_train_<fold>.txt`` and ``index_test_<fold>.txt``
            beside the file name, one row number per line; validation rows are drawn from the
            former.
        standardize_inputs: Whether inputs are brought to mean 0 and standard deviation 1.
        standardize_target: Whether targets are brought to mean 0 and standard deviation 1.

    Raises:
        FileNotFoundError: no such file.
        ImportError: Parquet without ``pyarrow``.
        ValueError: an unknown column, a cell that is no finite number, a split that does not fit
            the rows, or a fold that does not fit the table; the message names file and place.

    Example:
        >>> data = Tabular(batch_size=32, source="diabetes")
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'input': (32, 10), 'target': (32,), 'index': (32,)}
    """

    num_classes = None
    input_size: int
    """Number of inputs D; known after ``setup``, as the following are."""
    num_targets: int
    feature_names: list[str]
    target_names: list[str]
    target_mean: Tensor
    """Mean of the targets in their own unit, () or (T,); 0 without standardization."""
    target_std: Tensor
    """The unit in which the batches' targets are given: () or (T,)."""

    def __init__(
        self,
        source: str = "diabetes",
        target: int | str | list[int | str] | None = None,
        features: list[int | str] | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        standardize_inputs: bool = True,
        standardize_target: bool = True,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        if features is not None and not features:
            raise ValueError("features must name at least one column.")
        if target is not None and target == []:
            raise ValueError("target must name at least one column.")
        if fold is not None and source in BUNDLED:
            raise ValueError(f"fold={fold} reads files beside the table; {source} has none.")
        self.source = source
        self.target = target
        self.features = features
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.fold = fold
        self.standardize_inputs = standardize_inputs
        self.standardize_target = standardize_target

    def setup(self, stage: str | None = None) -> None:
        """Read the table once, for all stages."""
        if self.train_set is not None:
            return
        inputs, target = self._read()
        train, val, test = self._split(len(inputs))
        self._input_mean, self._input_std = _moments(inputs[train])
        self.target_mean, self.target_std = _moments(target[train])
        if not self.standardize_target:
            self.target_mean.zero_()
            self.target_std.fill_(1)
        self.target_std[self.target_std == 0] = 1
        target = (target - self.target_mean) / self.target_std
        rows = ArrayDataset(input=self._standardized(inputs), target=target.float())
        self.train_set = Subset(rows, train)
        self.val_set = Subset(rows, val) if val else None
        self.test_set = Subset(rows, test) if test else None
        self.predict_set = self.test_set or self.val_set

    def _standardized(self, inputs: Tensor) -> Tensor:
        if self.standardize_inputs:
            # a column that was constant in training is divided by infinity, and so 0 everywhere
            unit = torch.where(self._input_std > 0, self._input_std, torch.inf)
            inputs = (inputs - self._input_mean) / unit
        return inputs.float()

    def as_batch(self, inputs: Any) -> Batch:
        """Return rows (N, D) in the columns' own units as a standardized batch."""
        return {"input": self._standardized(as_rows(inputs, self.input_size).double())}

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Read the table again, whose training rows the statistics are those of."""
        self.setup()

    def _read(self) -> tuple[Tensor, Tensor]:
        """Return inputs (N, D) and targets (N,) or (N, T), float64."""
        if self.source in BUNDLED:
            table, default = _bundled(self.source)
        else:
            table, default = self._file(), -1
        target = default if self.target is None else self.target
        columns = [
            table.position(name) for name in (target if isinstance(target, list) else [target])
        ]
        if self.features is None:
            features = [k for k in range(len(table.names)) if k not in columns]
        else:
            features = [table.position(name) for name in self.features]
        shared = [table.names[k] for k in features if k in columns]
        if shared:
            raise ValueError(f"{self.source}: the target {shared[0]!r} is among the features.")
        if not features:
            raise ValueError(f"{self.source} has no column beside the target.")
        self.feature_names = [table.names[k] for k in features]
        self.target_names = [table.names[k] for k in columns]
        self.input_size, self.num_targets = len(features), len(columns)
        inputs, targets = (
            torch.from_numpy(np.stack([table.numbers(k) for k in chosen], axis=1))
            for chosen in (features, columns)
        )
        return inputs, targets if isinstance(target, list) else targets[:, 0]

    def _file(self) -> Table:
        path = Path(self.source)
        if not path.suffix and not path.exists():
            raise ValueError(
                f"source={self.source!r} is neither a file nor one of {', '.join(BUNDLED)}."
            )
        return read_table(path)

    def _split(self, rows: int) -> tuple[list[int], list[int], list[int]]:
        """Return the rows of training, validation and test, each in ascending order."""
        if self.fold is None:
            test, rest = [], list(range(rows))
        else:
            test, rest = self._fold_rows("test", rows), self._fold_rows("train", rows)
            if not set(test).isdisjoint(rest):
                row = min(set(test).intersection(rest))
                raise ValueError(
                    f"Fold {self.fold} of {self.source} has row {row} in both training and test."
                )
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "split"))
        rest = [rest[k] for k in torch.randperm(len(rest), generator=generator).tolist()]
        if self.fold is None:
            held = self._size("test_size", rows, len(rest))
            test, rest = rest[:held], rest[held:]
        held = self._size("val_size", rows, len(rest))
        return sorted(rest[held:]), sorted(rest[:held]), sorted(test)

    def _size(self, name: str, rows: int, available: int) -> int:
        """Return the rows to hold out of those available; two at least stay on either side."""
        size = getattr(self, name)
        held = round(size * rows) if isinstance(size, float) else size
        # no coefficient of determination of a single row
        if held != 0 and not 2 <= held <= available - 2:
            raise ValueError(
                f"{name}={size} is {held} of the {available} rows of {self.source} that are left: "
                f"hold out none, or from 2 to {max(2, available - 2)}."
            )
        return held

    def _fold_rows(self, part: str, rows: int) -> list[int]:
        """Return the row numbers of a fold's file."""
        path = Path(self.source).with_name(f"index_{part}_{self.fold}.txt")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file for fold={self.fold}.")
        numbers = read_table(path).numbers(0)
        wrong = (numbers < 0) | (numbers >= rows) | (numbers != np.floor(numbers))
        if wrong.any():
            raise ValueError(
                f"{path} names the row {numbers[wrong][0]:g}, but {self.source} has the rows "
                f"0..{rows - 1}."
            )
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError(f"{path} names a row twice.")
        return [int(number) for number in numbers]


def _bundled(name: str) -> tuple[Table, int | str | list[int | str]]:
    """Return a set that scikit-learn carries, and its target columns."""
    from sklearn import datasets

    if name == "diabetes":
        # as measured: scikit-learn's own scaling would have seen the test rows
        found = datasets.load_diabetes(scaled=False)
        inputs, targets, names = found.data, found.target[:, None], ["progression"]
    else:
        found = datasets.load_linnerud()
        inputs, targets, names = found.data, found.target, found.target_names
    table = Table(name, [*found.feature_names, *names], [*inputs.T, *targets.T])
    return table, names[0] if name == "diabetes" else list(names)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over rows; exactly 0 where all rows are equal."""
    # compared, since rounding gives equal numbers a deviation that is small but not 0
    constant = values.amax(0) == values.amin(0)
    return values.mean(0), torch.where(constant, 0.0, values.std(0, correction=0))
