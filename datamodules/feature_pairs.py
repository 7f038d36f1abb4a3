"""Two feature files whose rows belong together, such as those of images and of their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.feature_files import read_features, read_numbers
from datamodules.labels import class_numbers
from datamodules.table_encoding import moments, standardized
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.data.facts import Facts
from framework.data.raw_inputs import as_rows
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class FeaturePairs(DataModule):
    """Rows of two feature files as two modes of the same samples, for contrastive learning.

    Row i of both files is of one sample, such as an image and its caption, each embedded by any
    network. Batches hold ``input`` (B, D1) and ``input2`` (B, D2) float32, ``index`` (B,) int64,
    the row of the files, and with ``labels`` also ``label`` (B,) int64. Rows for validation and
    test are drawn by ``split_seed``. ``input_shape``, ``second_shape`` and ``num_classes`` are
    known after ``setup``.

    A model of such data predicts and measures all rows of other files of the same widths.

    The remaining arguments are those of ``DataModule``.

    Args:
        path: File of the first mode's features, (N, D1): ``.npy``, ``.npz``, ``.mat``, ``.h5``,
            ``.csv``, ``.txt`` or ``.parquet``.
        path2: File of the second mode's features, (N, D2).
        labels: File of the classes, N numbers from 0 or 1, for evaluation; default none.
        key: Name of the array in a ``.npz``, ``.mat`` or HDF5 file of the first mode.
        key2: Name of the array in such a file of the second mode.
        label_key: Name of the array in such a file of the classes.
        val_size: Rows for validation, as a number (int) or as a share of all (float).
        test_size: Rows for testing, as a number (int) or as a share of all (float).
        split_seed: Seed of the permutation that says which rows; not the seed of the run.
        standardize: Whether each feature is standardized over the training rows, those of the
            training where there is a checkpoint; a constant feature becomes 0.

    Raises:
        ValueError: A negative size; or (at ``setup``) a damaged file, one of another shape, files
            of different lengths, or sizes that leave no training row.
        FileNotFoundError: There is no such file (at ``setup``).

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = tempfile.mkdtemp()
        >>> np.save(f"{folder}/image.npy", np.random.rand(20, 3))
        >>> np.save(f"{folder}/text.npy", np.random.rand(20, 5))
        >>> data = FeaturePairs(f"{folder}/image.npy", f"{folder}/text.npy", batch_size=8)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["input"].shape, batch["input2"].shape, len(data.val_set)
        (torch.Size([8, 3]), torch.Size([8, 5]), 2)
    """

    input_shape: tuple[int, ...]
    second_shape: tuple[int, ...]
    input_mean: Tensor | None = None
    """Mean of each feature over the training rows, (D1 + D2,), with ``standardize``."""
    input_std: Tensor | None = None
    """Standard deviation of each feature over the training rows, likewise."""

    def __init__(
        self,
        path: str,
        path2: str,
        labels: str | None = None,
        key: str | None = None,
        key2: str | None = None,
        label_key: str | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        standardize: bool = True,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(0, val_size=val_size, test_size=test_size)
        self.path, self.path2 = Path(path), Path(path2)
        self.labels = None if labels is None else Path(labels)
        self.keys = (key, key2, label_key)
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.standardize = standardize
        self.place = self.path

    def setup(self, stage: str | None = None) -> None:
        """Read the files once, for all stages; of other files all rows serve each of them."""
        if self.train_set is not None or self.predict_set is not None:
            return
        self.use_facts(self.trained)
        modes, label = self._read()
        total = len(modes[0])
        if (stage == "predict" and self.is_elsewhere) or (
            stage in ("validate", "test") and self.is_new
        ):
            self.val_set = self.test_set = self.predict_set = self._rows(modes, label)
            return
        val, test = (
            round(size * total) if isinstance(size, float) else size
            for size in (self.val_size, self.test_size)
        )
        if val + test >= total:
            raise ValueError(
                f"val_size={self.val_size} and test_size={self.test_size} leave none of the "
                f"{total:,} rows of {self.path} for training."
            )
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "pairs"))
        order = torch.randperm(total, generator=generator)
        held, tested, kept = (
            part.sort().values.tolist() for part in order.split([val, test, total - val - test])
        )
        if self.standardize and self.input_mean is None:
            found = [moments(mode[kept].double()) for mode in modes]
            self.input_mean, self.input_std = (torch.cat(part) for part in zip(*found, strict=True))
        rows = self._rows(modes, label)
        self.train_set = Subset(rows, kept)
        self.val_set = Subset(rows, held) if held else None
        self.test_set = Subset(rows, tested) if tested else None
        self.predict_set = self.test_set or self.val_set

    def use_facts(self, facts: Facts) -> None:
        """Take the statistics of the features from training."""
        super().use_facts(facts)
        if "second_shape" in facts:
            self.input_shape = tuple(facts["input_shape"])
            self.second_shape = tuple(facts["second_shape"])
        if "input_mean" in facts:
            self.input_mean, self.input_std = facts["input_mean"], facts["input_std"]

    def as_batch(self, inputs: Any) -> Batch:
        """Return features (N, D1) of the first mode as a batch."""
        rows = as_rows(inputs, self.input_shape[0]).float()
        return {"input": self._standardized(rows, slice(0, self.input_shape[0]))}

    def _read(self) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """Return both modes, and the labels where there are any."""
        key, key2, label_key = self.keys
        first, second = read_features(self.path, key), read_features(self.path2, key2)
        if len(second) != len(first):
            raise ValueError(
                f"{self.path2} has {len(second):,} rows for the {len(first):,} of {self.path}."
            )
        widths = {"input_shape": (self.path, first), "second_shape": (self.path2, second)}
        for name, (place, found) in widths.items():
            shape = tuple(self.trained.get(name, found.shape[1:]))
            if shape != found.shape[1:]:
                raise ValueError(
                    f"{place} has rows of {found.shape[1]} numbers, and the model was trained on "
                    f"rows of {shape[0]}."
                )
            setattr(self, name, shape)
        modes = (torch.from_numpy(first), torch.from_numpy(second))
        if self.labels is None:
            return modes, None
        numbers = read_numbers(self.labels, label_key)
        label = class_numbers(numbers, len(first), self.labels, "row of features")
        self.num_classes = max(int(label.max()) + 1, self.trained.get("num_classes") or 0)
        self.class_names = [str(k) for k in range(self.num_classes)]
        return modes, torch.from_numpy(label)

    def _rows(self, modes: tuple[Tensor, Tensor], label: Tensor | None) -> ArrayDataset:
        width = modes[0].shape[1]
        places = (slice(0, width), slice(width, None))
        first, second = (
            self._standardized(mode, place) for mode, place in zip(modes, places, strict=True)
        )
        return ArrayDataset(
            input=first, input2=second, **({} if label is None else {"label": label})
        )

    def _standardized(self, rows: Tensor, columns: slice) -> Tensor:
        """Return rows (N, D) float32 of some of the features in the unit of training."""
        if not self.standardize or self.input_mean is None or self.input_std is None:
            return rows
        return standardized(rows, self.input_mean[columns], self.input_std[columns]).float()
