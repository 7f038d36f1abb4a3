"""Feature vectors with labels in MATLAB files, as the papers on domain adaptation share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import class_numbers
from datamodules.mat_file import read_mat
from datamodules.table_encoding import moments, standardized
from framework.data.datasets import Batch
from framework.data.facts import Facts
from framework.data.raw_inputs import as_rows


class MatFeatures(ClassificationData):
    """Rows of features in a MATLAB file (version 5 to 7.2), each served as an image.

    One variable of the file holds the features, a matrix of N rows and D columns, another N class
    numbers, from 1 to K or from 0 to K - 1; which of the two and K follow from the smallest and the
    largest. Labels are 0 to K - 1. Batches hold ``image`` (B, D, 1, 1) float32, of any range, and
    the whole file is the full training set. ``num_classes`` and ``input_shape`` are known after
    ``setup``. Objects and cells are refused, and nothing is unpickled.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        path: MATLAB file.
        features: Name of the variable of the features.
        labels: Name of the variable of the class numbers.
        columns: Whether a column is a sample, not a row.
        shape: Shape (C, H, W) of an image, where the D features are one, row by row; default (D, 1,
            1).
        standardize: Whether each feature is standardized over the file, or with a checkpoint over
            the file of the training; a constant feature becomes 0.

    Raises:
        FileNotFoundError: there is no such file (at ``setup``).
        ValueError: a ``shape`` that is none; a damaged file, one of version 7.3, or a variable that
            is missing or holds something else, by name (at ``setup``).

    Example:
        >>> data = MatFeatures("data/MNIST_vs_USPS.mat", "X_src", "Y_src", True, [1, 16, 16])
        >>> data.shape
        (1, 16, 16)
    """

    input_mean: Tensor | None = None
    """Mean of each feature over the training file, (D,), with ``standardize``."""
    input_std: Tensor | None = None
    """Standard deviation of each feature over the training file, (D,), with ``standardize``."""

    def __init__(
        self,
        path: str,
        features: str = "fts",
        labels: str = "labels",
        columns: bool = False,
        shape: Sequence[int] | None = None,
        standardize: bool = False,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise ValueError(f"shape must be [channels, height, width], got {list(shape)}.")
        self.path = Path(path)
        self.place = self.path
        self.features = features
        self.labels = labels
        self.columns = columns
        self.shape = None if shape is None else (shape[0], shape[1], shape[2])
        self.standardize = standardize

    def read(self) -> Splits:
        """Return the file; all of it is the training set."""
        found = read_mat(self.path, [self.features, self.labels])
        matrix, label = self._matrix(found[self.features]), found[self.labels]
        rows, width = matrix.shape
        self.input_shape = (width, 1, 1) if self.shape is None else self.shape
        if math.prod(self.input_shape) != width:
            raise ValueError(
                f"{self.path}, {self.features}: {width} features are no image of shape "
                f"{list(self.input_shape)}."
            )
        each = f"{'column' if self.columns else 'row'} of {self.features}"
        numbers = class_numbers(label, rows, f"{self.path}, {self.labels}", each)
        self.num_classes = int(numbers.max()) + 1
        image = torch.from_numpy(matrix).view(rows, *self.input_shape)
        return Splits(ImageSet(image=image, label=torch.from_numpy(numbers)), None, None)

    def _matrix(self, stored: np.ndarray) -> np.ndarray:
        """Return the samples, (N, D) float32."""
        if stored.ndim != 2 or not stored.size:
            raise ValueError(
                f"{self.path}, {self.features} must be a matrix, not of shape {stored.shape}."
            )
        with np.errstate(over="ignore"):  # what becomes infinite is named below
            matrix = stored.astype(np.float32)
        bad = np.argwhere(~np.isfinite(matrix))
        if len(bad):
            row, column = (bad[0] + 1).tolist()
            raise ValueError(f"{self.path}: {self.features}({row},{column}) is no finite number.")
        if self.columns:
            matrix = matrix.T
        if self.standardize:
            values = torch.from_numpy(matrix.astype(np.float64))
            self._use_statistics()
            if self.input_mean is None:
                self.input_mean, self.input_std = moments(values)
            matrix = self._standardized(values).numpy()
        return np.ascontiguousarray(matrix, dtype=np.float32)

    def use_facts(self, facts: Facts) -> None:
        """Take the statistics of the features from training."""
        super().use_facts(facts)
        self._use_statistics()

    def _use_statistics(self) -> None:
        if "input_mean" in self.trained:
            self.input_mean, self.input_std = self.trained["input_mean"], self.trained["input_std"]

    def _standardized(self, values: Tensor) -> Tensor:
        assert self.input_mean is not None
        assert self.input_std is not None
        return standardized(values, self.input_mean, self.input_std)

    def as_batch(self, inputs: Any) -> Batch:
        """Return features, (N, D) or as images, in the unit of the file as a batch of images."""
        if isinstance(inputs, (Tensor, np.ndarray)) and inputs.ndim == 4:
            inputs = inputs.reshape(len(inputs), -1)
        rows = as_rows(inputs, math.prod(self.input_shape))
        if self.standardize:
            rows = self._standardized(rows.double())
        image = rows.float().view(len(rows), *self.input_shape)
        return {"image": image if self.normalize is None else self.normalize(image)}
