"""Tables with a real-valued target: a file, or one of the sets that scikit-learn carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Subset

from datamodules.table_encoding import Coding, Missing, TableEncoding, moments, standardized
from datamodules.table_reader import Table, read_table
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.data.facts import Facts, listed
from framework.data.raw_inputs import as_rows
from framework.utilities.checks import check_one_of
from framework.utilities.randomness import stable_seed

BUNDLED = ("diabetes", "linnerud")
SMALLEST, LARGEST = 1e-36, 1e36
"""Range of a standard deviation in whose unit float32 can give targets."""


class TableRows(ArrayDataset):
    """Rows of a table, which may have names.

    Args:
        names: Title and names of the N rows, or None.
        **fields: Tensors of length N.
    """

    def __init__(self, names: tuple[str, list[str]] | None, **fields: Tensor) -> None:
        super().__init__(**fields)
        self.names_title = "row" if names is None else names[0]
        self.names = None if names is None else names[1]


class Tabular(DataModule):
    """Rows of numbers with one or several real-valued targets, standardized on the training rows.

    Batches hold ``input`` (B, D) float32, ``target`` (B,) float32, or (B, T) where ``target`` is a
    list, and ``index`` (B,) int64, the row of the table, counted from 0. A permutation fixed by
    ``split_seed`` puts ``test_size`` rows aside for testing and the next ``val_size`` for
    validation.

    Means and standard deviations are those of the training rows alone; a column that is constant
    there becomes 0. They are in the checkpoint with the names and categories of the columns, and
    used for every later table. Of another table than the one of the training all rows are
    predicted, and it needs no target. Metrics and predictions of the ``Regressor`` are in the
    target's own unit. A first column without a name that numbers the rows is left out.

    The remaining arguments are those of ``DataModule``.

    Args:
        source: File ``.csv``, ``.txt`` or ``.parquet``, or a set that comes
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
        categories: What becomes of columns that hold text: ``one_hot`` makes one input of 0 and 1
            per category of the training rows, ``ordinal`` its number in alphabetical order.
        missing: What becomes of missing values: ``drop`` leaves their rows out, with a count;
            ``mean`` and ``median`` put that of the training rows in the place of numbers. Rows
            without a target are left out.
        row_names: Column that names the rows in ``predictions.csv``, such as an ID; no feature.
        separator: Character between the fields of a ``.csv``; default the usual one in its first
            line.
        decimal: Character before the decimals of a number in text.

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
    encoding: TableEncoding | None = None
    """How columns become inputs; known after ``setup``, as the following are."""
    input_size: int
    """Number of inputs D."""
    input_mean: Tensor | None = None
    """Mean of the inputs over the training rows, (D,)."""
    input_std: Tensor | None = None
    """Standard deviation of the inputs over the training rows, (D,)."""
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
        categories: Coding = "refuse",
        missing: Missing = "refuse",
        row_names: int | str | None = None,
        separator: str | None = None,
        decimal: str = ".",
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        if features is not None and not features:
            raise ValueError("features must name at least one column.")
        if target is not None and target == []:
            raise ValueError("target must name at least one column.")
        if fold is not None and source in BUNDLED:
            raise ValueError(f"fold={fold} reads files beside the table; {source} has none.")
        check_one_of(get_args(Coding), categories=categories)
        check_one_of(get_args(Missing), missing=missing)
        self.source = source
        self.place = None if source in BUNDLED else Path(source)
        self.target = target
        self.features = features
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.fold = fold
        self.standardize_inputs = standardize_inputs
        self.standardize_target = standardize_target
        self.coding = categories
        self.missing = missing
        self.row_names = row_names
        self.separator = separator
        self.decimal = decimal

    def setup(self, stage: str | None = None) -> None:
        """Read the table once, for all stages; of a new table all rows serve each of them."""
        if stage == "predict" and self.is_elsewhere:
            if self.predict_set is None:
                self.use_facts(self.trained)
                self.predict_set = self._new_rows(self._file())
            return
        if stage in ("validate", "test") and self.is_new:
            if self.test_set is None:
                self.use_facts(self.trained)
                self.val_set = self.test_set = self._new_rows(self._file(), self.target_names)
            return
        if self.train_set is not None:
            return
        self.use_facts(self.trained)
        table, targets = self._table()
        target = self._target(table, targets)
        features = self._features(table, targets)
        train, val, test = self._split(self._kept(table, targets, features), len(table))
        if self.encoding is None:
            self.encoding = TableEncoding.measured(
                table, features, train, coding=self.coding, missing=self.missing
            )
        inputs = self.encoding.inputs(table)
        if self.input_mean is None:
            self.input_mean, self.input_std = moments(inputs[train])
        if "target_mean" not in self.trained:
            self.target_mean, self.target_std = moments(target[train])
            if not self.standardize_target:
                self.target_mean.zero_()
                self.target_std.fill_(1)
            self.target_std[self.target_std == 0] = 1
        self._name_facts([table.names[k] for k in targets])
        target = (target - self.target_mean) / self.target_std
        rows = TableRows(
            self._names(table), input=self._standardized(inputs), target=target.float()
        )
        _check_range(rows.fields["target"][train], self.target_names, self.target_std, self.source)
        self.train_set = Subset(rows, train)
        self.val_set = Subset(rows, val) if val else None
        self.test_set = Subset(rows, test) if test else None
        self.predict_set = self.test_set or self.val_set

    def use_facts(self, facts: Facts) -> None:
        """Take columns, codes and statistics from training."""
        super().use_facts(facts)
        if "column_names" not in facts:
            return
        self.encoding = TableEncoding(
            columns=facts["column_names"],
            categories=facts.get("categories", {}),
            coding=self.coding,
            missing=self.missing,
            fill_values=facts.get("fill_values"),
        )
        self.input_mean, self.input_std = facts["input_mean"], facts["input_std"]
        self.target_mean, self.target_std = facts["target_mean"], facts["target_std"]
        self._name_facts(facts["target_names"])

    def _name_facts(self, targets: list[str]) -> None:
        assert self.encoding is not None
        self.column_names = self.encoding.columns
        self.categories = self.encoding.categories or None
        self.fill_values = self.encoding.fill_values
        self.feature_names = self.encoding.feature_names
        self.target_names = targets
        self.input_size, self.num_targets = len(self.feature_names), len(targets)

    def _standardized(self, inputs: Tensor) -> Tensor:
        assert self.input_mean is not None
        assert self.input_std is not None
        if self.standardize_inputs:
            inputs = standardized(inputs, self.input_mean, self.input_std)
        return inputs.float()

    def as_batch(self, inputs: Any) -> Batch:
        """Return rows (N, D) in the columns' own units as a standardized batch.

        A table with named columns, such as a data frame, may have them in any order, and beside
        numbers texts where ``categories`` takes them.
        """
        if hasattr(inputs, "columns"):
            names = [str(name) for name in inputs.columns]
            cells = [inputs[name].to_numpy() for name in inputs.columns]
            assert self.encoding is not None
            rows = self.encoding.inputs(Table("the table", names, cells))
        else:
            rows = as_rows(inputs, self.input_size).double()
        return {"input": self._standardized(rows)}

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Read the table again, where the checkpoint has no statistics of its training rows."""
        if not self.trained:
            self.setup()

    def _table(self) -> tuple[Table, list[int]]:
        """Return the table and the positions of its targets."""
        if self.source in BUNDLED:
            table, default = _bundled(self.source)
        else:
            table, default = self._file(), -1
        target = default if self.target is None else self.target
        return table, [
            table.position(name) for name in (target if isinstance(target, list) else [target])
        ]

    def _features(self, table: Table, targets: list[int]) -> list[int]:
        """Return the positions of the features, which are those of training if there was one."""
        if self.encoding is not None:
            return [table.position(name) for name in self.encoding.columns]
        named = None if self.row_names is None else table.position(self.row_names)
        if self.features is not None:
            features = [table.position(name) for name in self.features]
        else:
            features = [k for k in range(len(table.names)) if k not in targets and k != named]
            index = next((k for k in features if table.is_index(k)), None)
            if index is not None:
                rank_zero_warn(
                    f"{self.source}: the column {table.names[index]!r} numbers the rows, as pandas "
                    "writes its index, and is no feature; name it in features to keep it."
                )
                features.remove(index)
        shared = [table.names[k] for k in features if k in targets]
        if shared:
            raise ValueError(f"{self.source}: the target {shared[0]!r} is among the features.")
        if not features:
            raise ValueError(f"{self.source} has no column beside the target.")
        return features

    def _target(self, table: Table, targets: list[int]) -> Tensor:
        """Return the targets (N,) or (N, T), float64."""
        missing = self.missing != "refuse"
        found = torch.from_numpy(np.stack([table.numbers(k, missing) for k in targets], axis=1))
        several = isinstance(self.target, list) or (self.target is None and len(targets) > 1)
        return found if several else found[:, 0]

    def _kept(self, table: Table, targets: list[int], features: list[int]) -> list[int]:
        """Return the rows with a target and, where others are dropped, with all features."""
        if self.missing == "refuse":
            return list(range(len(table)))
        needed = [*targets, *features] if self.missing == "drop" else targets
        return self._without_missing(table, needed)

    def _without_missing(self, table: Table, columns: list[int]) -> list[int]:
        holes = np.stack([table.missing(k) for k in columns], axis=1)
        gone = holes.any(axis=1)
        if gone.any():
            where = [table.names[columns[k]] for k in np.flatnonzero(holes.any(axis=0))]
            rank_zero_warn(
                f"{self.source}: {int(gone.sum()):,} of {len(table):,} rows are left out, as a "
                f"value is missing in {listed(where)}."
            )
        if gone.all():
            raise ValueError(f"{self.source} has no row without a missing value.")
        return np.flatnonzero(~gone).tolist()

    def _new_rows(self, table: Table, targets: Sequence[str] = ()) -> Subset[Any]:
        """Return all rows of a table, which may lack the target unless that is asked for."""
        assert self.encoding is not None
        columns = [*self.encoding.columns, *targets]
        absent = [name for name in columns if name not in table.names]
        if absent and len(table.names) == len(columns) and not table.is_named:
            table.names = list(columns)
            absent = []
        if absent:
            raise ValueError(
                f"{self.source} lacks the column{'s' * (len(absent) > 1)} {listed(absent)}, of "
                f"those that the model was trained on: {listed(columns)}."
            )
        if self.missing == "drop":
            needed = columns
        else:  # a row without a target cannot be scored
            needed = [] if self.missing == "refuse" else list(targets)
        rows = list(range(len(table)))
        if needed:
            rows = self._without_missing(table, [table.position(name) for name in needed])
        fields = {"input": self._standardized(self.encoding.inputs(table))}
        if targets:
            target = self._target(table, [table.position(name) for name in targets])
            fields["target"] = ((target - self.target_mean) / self.target_std).float()
        return Subset(TableRows(self._names(table), **fields), rows)

    def _names(self, table: Table) -> tuple[str, list[str]] | None:
        """Return the title and the names of the rows."""
        if self.row_names is None:
            return None
        k = table.position(self.row_names)
        return table.names[k], [text or "" for text in table.texts(k)]

    def _file(self) -> Table:
        path = Path(self.source)
        if not path.suffix and not path.exists():
            raise ValueError(
                f"source={self.source!r} is neither a file nor one of {', '.join(BUNDLED)}."
            )
        return read_table(path, self.separator, self.decimal)

    def _split(self, kept: list[int], total: int) -> tuple[list[int], list[int], list[int]]:
        """Return the rows of training, validation and test, each in ascending order."""
        rows = len(kept)
        if self.fold is None:
            test, rest = [], kept
        else:
            test, rest = self._fold_rows("test", total), self._fold_rows("train", total)
            if not set(test).isdisjoint(rest):
                row = min(set(test).intersection(rest))
                raise ValueError(
                    f"Fold {self.fold} of {self.source} has row {row} in both training and test."
                )
            there = set(kept)
            test, rest = ([row for row in part if row in there] for part in (test, rest))
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


def _check_range(targets: Tensor, names: list[str], unit: Tensor, source: str) -> None:
    """Refuse targets that float32, in which metrics and predictions are given, cannot hold."""
    fine = (unit >= SMALLEST) & (unit <= LARGEST)
    if not (bool(fine.all()) and bool(targets.isfinite().all())):
        name = names[int((~fine).reshape(-1).int().argmax())]
        raise ValueError(
            f"{source}: the target {name!r} varies by {unit.reshape(-1).max():.3g}, beyond the "
            "range of float32; give it in another unit."
        )
