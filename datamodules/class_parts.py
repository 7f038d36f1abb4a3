"""Data whose training, validation and test classes differ, out of any labeled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch, BatchedDataset, root_and_rows
from framework.utilities.checks import check_interval

Classes: TypeAlias = int | float | list[int]
"""Classes by their labels, or how many of them (int), or which share (float)."""
VAL_SHARE = 0.1
TEST_SHARE = 0.5


class ClassSubset(BatchedDataset):
    """Some rows of a set of labeled images, under labels and positions of their own.

    Args:
        source: Images with ``label``.
        rows: Positions of N of them.
        label: Their labels here, (N,) int64.
    """

    def __init__(self, source: Any, rows: Tensor, label: Tensor) -> None:
        self.source = source
        self.rows = rows
        self.label = label
        self.decodes = getattr(source, "decodes", False)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        return {**self.source.batch(self.rows[rows]), "label": self.label[rows]}


class ClassParts(NamedTuple):
    """Parts without a class in common.

    Args:
        train: Training images, of the labels 0..C-1.
        plain: The same without augmentation.
        val: Validation images, of the labels from C on; None where there are none.
        test: Test images, of the labels from there on; None where there are none.
        num_classes: Number C of training classes.
    """

    train: ClassSubset
    plain: ClassSubset
    val: ClassSubset | None
    test: ClassSubset | None
    num_classes: int


def class_parts(
    data: DataModule, val_classes: Classes | None, test_classes: Classes | None
) -> ClassParts:
    """Return the images of labeled data in parts of different classes.

    By ``test_classes`` the last classes are taken in the order of their labels; then of the others
    by ``val_classes``. What is None is the part of ``data`` itself where that is of other classes
    than its training set; else a tenth of the classes, at least one, is for validation, and half of
    them for the test if neither part of ``data`` is of other classes. Classes are taken with all
    rows of the full training set, also those that ``data`` holds out from it.

    Args:
        data: Datamodule of labeled images, set up.
        val_classes: Validation classes.
        test_classes: Test classes.

    Raises:
        TypeError: Data that are no labeled images.
        ValueError: Data with mixup or noisy labels, a class that there is not, or no class left to
            train on.
    """
    name = type(data).__name__
    if data.mixes_samples or data.has_groups:
        raise ValueError(f"{name} makes samples of several: switch its mixup off.")
    source, _ = root_and_rows(data.train_set, [])
    label = labels_of(source, name)
    if "clean_label" in source.fields:
        raise ValueError(f"Classes are told by labels that are right: drop {name}'s label_noise.")
    plain, _ = root_and_rows(data.plain_train_set, [])
    classes = label[label >= 0].unique().tolist()
    own_val = None if val_classes is not None else _own(data.val_set, classes)
    own_test = None if test_classes is not None else _own(data.test_set, classes)
    if own_test is not None:
        tested = _classes(own_test)
    elif own_val is not None and test_classes is None:
        tested = []
    else:
        tested = _chosen(test_classes, TEST_SHARE, classes, "test_classes")
    rest = [k for k in classes if k not in tested]
    if own_val is not None:
        val = _classes(own_val)
    else:
        val = _chosen(val_classes, VAL_SHARE, rest, "val_classes")
    train = [k for k in rest if k not in val]
    if not train:
        raise ValueError(
            f"{name} has {len(classes)} classes, of which {len(val)} for validation and "
            f"{len(tested)} for the test leave none to train on: set data.val_classes and "
            "data.test_classes."
        )
    held_out = source if plain is None else plain
    first = len(train) + len(val)
    train_set = _subset(source, train, 0)
    return ClassParts(
        train=train_set,
        plain=train_set if plain is None else _subset(plain, train, 0),
        val=_subset(held_out if own_val is None else own_val, val, len(train)) if val else None,
        test=_subset(held_out if own_test is None else own_test, tested, first) if tested else None,
        num_classes=len(train),
    )


def labels_of(source: Any, name: str) -> Tensor:
    """Return the labels (N,) of a set of images.

    Args:
        source: Set of images.
        name: Name of its datamodule, for the message.

    Raises:
        TypeError: It holds no labels.
    """
    if "label" not in getattr(source, "fields", {}):
        raise TypeError(
            f"{name} serves {type(source).__name__}, and classes can be told apart in labeled "
            "images only."
        )
    return source.fields["label"]


def _classes(source: Any) -> list[int]:
    label = source.fields["label"]
    return label[label >= 0].unique().tolist()


def _own(dataset: Any, trained: list[int]) -> Any:
    """Return a part of the data that has other classes than those trained, or None."""
    source, _ = root_and_rows(dataset, [])
    if "label" not in getattr(source, "fields", {}):
        return None
    found = _classes(source)
    return None if not found or set(found) & set(trained) else source


def _chosen(wanted: Classes | None, share: float, classes: list[int], argument: str) -> list[int]:
    """Return the classes that were chosen, or the last ones."""
    if isinstance(wanted, list):
        unknown = [k for k in wanted if k not in classes]
        if unknown:
            raise ValueError(
                f"{argument} has the class {unknown[0]}, and those left are "
                f"{', '.join(map(str, classes[:20]))}{' ...' if len(classes) > 20 else ''}."
            )
        return sorted(set(wanted))
    if isinstance(wanted, int):
        number = wanted
    else:
        check_interval("[0, 1)", **{argument: wanted})
        number = round((share if wanted is None else wanted) * len(classes))
        number = min(max(number, 1), len(classes)) if wanted is None else number
    check_interval(f"[0, {len(classes)}]", **{argument: number})
    return classes[len(classes) - number :]


def _subset(source: Any, classes: list[int], first: int) -> ClassSubset:
    """Return the images of some classes, whose labels here begin with ``first``."""
    label = source.fields["label"]
    number = torch.full((int(label.max()) + 2,), -1)  # the last one is of rows without a class
    number[torch.tensor(classes, dtype=torch.int64)] = torch.arange(len(classes)) + first
    here = number[label.clamp(min=-1)]
    rows = (here >= 0).nonzero().flatten()
    return ClassSubset(source, rows, here[rows])
