"""CIFAR-10 and CIFAR-100 in the pickled batches of their authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import check_labels, plain_integers
from framework.data.restricted_pickle import load_pickle
from framework.utilities.checks import check_one_of


class _Layout(NamedTuple):
    num_classes: int
    folder: str
    train: list[str]
    test: str
    meta: str
    label_field: str
    names_field: str


_LAYOUTS = {
    "cifar10": _Layout(
        10,
        "cifar-10-batches-py",
        [f"data_batch_{part}" for part in range(1, 6)],
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    "cifar100": _Layout(
        100, "cifar-100-python", ["train"], "test", "meta", "fine_labels", "fine_label_names"
    ),
}


class CIFAR(ClassificationData):
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 color images of 32x32 pixels.

    Reads the "python version" from ``root`` or ``root/cifar-10-batches-py`` (``cifar-100-python``)
    by a reader that cannot run code. The training batches in order are the full training set, in
    the order of the CIFAR-N labels, from which ``val_size`` images are held out.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: Folder of ``data_batch_1`` to ``test_batch`` (of ``train`` and ``test`` for
            ``cifar100``), or the folder above, as the archive unpacks.
        name: Data set: ``cifar10``, or ``cifar100`` with its 100 fine labels.

    Raises:
        FileNotFoundError: a file is missing (at ``setup``).
        ValueError: a file that is damaged, lacks a field or holds anything but arrays and
            containers, or a label outside the classes, by file and position.

    Example:
        >>> data = CIFAR("data", name="cifar100")
        >>> data.num_classes, data.input_shape
        (100, (3, 32, 32))
    """

    input_shape = (3, 32, 32)

    def __init__(
        self,
        root: str,
        name: Literal["cifar10", "cifar100"] = "cifar10",
        val_size: int | float = 5000,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_one_of(_LAYOUTS, name=name)
        self.root = Path(root)
        self.layout = _LAYOUTS[name]
        self.num_classes = self.layout.num_classes

    def read(self) -> Splits:
        """Return the training batches joined, and the test batch."""
        inner = self.root / self.layout.folder
        folder = inner if inner.is_dir() else self.root
        self.class_names = self._read_names(folder / self.layout.meta)
        parts = [self._read_batch(folder / part) for part in self.layout.train]
        image, label = (torch.cat(column) for column in zip(*parts, strict=True))
        test_image, test_label = self._read_batch(folder / self.layout.test)
        train = ImageSet(image=image, label=label)
        return Splits(train, None, ImageSet(image=test_image, label=test_label))

    def _read_batch(self, path: Path) -> tuple[Tensor, Tensor]:
        batch = load_pickle(path)
        pixels = _field(batch, "data", path)
        if not isinstance(pixels, np.ndarray):
            raise ValueError(f"{path}: data must be an array, not {type(pixels).__name__}.")
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
            raise ValueError(
                f"{path}: data must be uint8 of shape (N, 3072), not {pixels.dtype} of shape "
                f"{pixels.shape}."
            )
        label = _field(batch, self.layout.label_field, path)
        if not isinstance(label, np.ndarray):
            label = plain_integers(label, f"{path}: {self.layout.label_field}")
        if label.dtype.kind not in "iu" or label.shape != pixels.shape[:1]:
            raise ValueError(
                f"{path}: {self.layout.label_field} must be {len(pixels)} integers, not "
                f"{label.dtype} of shape {label.shape}."
            )
        found = torch.from_numpy(label.astype(np.int64))
        check_labels(found, self.num_classes, path)
        return torch.tensor(pixels).view(-1, 3, 32, 32), found

    def _read_names(self, path: Path) -> list[str]:
        names = _field(load_pickle(path), self.layout.names_field, path)
        if isinstance(names, list):
            names = [name.decode() if isinstance(name, bytes) else name for name in names]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: {self.layout.names_field} must be a list of texts.")
        if len(names) != self.num_classes:
            raise ValueError(f"{path}: {len(names)} names for {self.num_classes} classes.")
        return names


def _field(batch: Any, name: str, path: Path) -> Any:
    key: Any = name
    if isinstance(batch, dict) and name not in batch:
        key = name.encode()  # as those write it who read it with encoding="bytes"
    if not isinstance(batch, dict) or key not in batch:
        raise ValueError(f"{path} has no field {name!r}.")
    return batch[key]
