"""Feature vectors with labels in MATLAB files, as the papers on domain adaptation share them."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Unpack

import numpy as np
import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.table_encoding import moments, standardized
from framework.data.datasets import Batch
from framework.data.facts import Facts
from framework.data.raw_inputs import as_rows
from framework.utilities.limits import (
    MAX_GZIP,
    FileTooLargeError,
    check_size,
    max_bytes,
    memory_foreseen,
    open_file,
)

_BLOCK = 1 << 20
_COMPRESSED = 15
_NUMBERS = (
    "double",
    "single",
    "logical",
    *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)),
)
_REAL = "must be an array of real numbers"


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
        found = _read_mat(self.path, [self.features, self.labels])
        matrix, label = self._matrix(found[self.features]), found[self.labels]
        rows, width = matrix.shape
        self.input_shape = (width, 1, 1) if self.shape is None else self.shape
        if math.prod(self.input_shape) != width:
            raise ValueError(
                f"{self.path}, {self.features}: {width} features are no image of shape "
                f"{list(self.input_shape)}."
            )
        numbers = self._class_numbers(label, rows)
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

    def _class_numbers(self, stored: np.ndarray, rows: int) -> np.ndarray:
        """Return the labels, (N,) int64 from 0."""
        where = f"{self.path}, {self.labels}"
        if stored.size != rows or max(stored.shape) != rows:
            sample = "column" if self.columns else "row"
            raise ValueError(
                f"{where} must be {rows} numbers, one for each {sample} of {self.features}, not of "
                f"shape {stored.shape}."
            )
        numbers = stored.ravel().astype(np.float64)
        bad = np.flatnonzero(~((numbers >= 0) & (numbers <= rows) & (numbers % 1 == 0)))
        if len(bad):
            raise ValueError(f"{where}: item {bad[0] + 1} is {numbers[bad[0]]:g}, no class number.")
        first = numbers.min()
        if first > 1:
            raise ValueError(f"{where}: class numbers start at 0 or 1, not at {first:g}.")
        return numbers.astype(np.int64) - int(first)


def _read_mat(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return variables of a file, each an array of real numbers."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import matfile_version

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with open_file(path) as file:
        with _complete(path):
            version = matfile_version(file)[0]
            if version == 1:
                _check_elements(path, file)
            file.seek(0)
            there = whosmat(file) if version < 2 else []
        if version == 2:
            raise ValueError(f"{path} is of MATLAB's version 7.3: save it with '-v7'.")
        for name in names:
            _check_variable(path, name, there)
        with _complete(path):
            file.seek(0)
            found = loadmat(file, variable_names=names)
    for name in names:
        if found[name].dtype.kind not in "fiub":
            raise ValueError(f"{path}, {name} {_REAL}, not {found[name].dtype.name}.")
    return {name: found[name] for name in names}


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Raise a ``ValueError`` that names the file where SciPy raises anything."""
    try:
        with memory_foreseen(path):
            yield
    except FileTooLargeError:
        raise
    except Exception as error:  # of many kinds, by which byte is damaged
        raise ValueError(f"{path} is no complete MATLAB file: {error}.") from None


def _check_variable(path: Path, name: str, there: list[tuple[str, tuple[int, ...], str]]) -> None:
    """Raise unless a variable is numbers, and no more than the limit."""
    kinds = [(shape, kind) for known, shape, kind in there if known == name]
    if not kinds:
        names = ", ".join(known for known, *_ in there)
        raise ValueError(f"{path} has no variable {name!r}; it has {names}.")
    for shape, kind in kinds:
        if kind not in _NUMBERS:
            raise ValueError(f"{path}, {name} {_REAL}, not {kind}.")
        # beside the numbers of the file those of single precision
        check_size(path, 12 * math.prod(shape), f"{name} of shape {shape}", path.stat().st_size)


def _check_elements(path: Path, file: BinaryIO) -> None:
    """Raise if a compressed element of a file of version 5 unpacks to more than the limit.

    SciPy unpacks as much as an element's tags announce, whatever the variable's shape is.
    """
    file.seek(126)
    order = "<" if file.read(2) == b"IM" else ">"
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        end = file.tell() + size
        if kind == _COMPRESSED and MAX_GZIP * size > max_bytes():
            stream, count = zlib.decompressobj(), 0
            while not stream.eof and (block := file.read(min(_BLOCK, end - file.tell()))):
                while block:
                    count += len(stream.decompress(block, _BLOCK))
                    check_size(path, count, "a compressed variable")
                    block = stream.unconsumed_tail
        file.seek(end)
