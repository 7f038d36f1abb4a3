"""Labeled data of which some classes are never trained, and are outliers in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from datamodules.class_parts import labels_of
from datamodules.wrapped_data import WrappedData, check_makes_no_batches
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Sample, root_and_rows
from framework.data.facts import copy_facts


class OutlierClasses(WrappedData):
    """Trains on some classes of other data, and evaluates on all, the others as outliers.

    The training set is what the wrapped data trains, without the outlier classes. Batches of
    validation, test and prediction also hold ``is_outlier`` (B,) bool. ``label`` keeps the numbers
    of the wrapped data and is for evaluation alone, as no label is needed to tell an outlier. What
    the wrapped data takes from its training rows, such as the mean that tables are standardized by,
    it takes from those of all classes.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Any datamodule of labeled images or rows; its own ``batch_size``, ``eval_batch_size``
            and ``num_workers`` are not used, but its validation split and ``augment`` are.
        outliers: Numbers of the classes that are outliers, in the wrapped data.

    Raises:
        TypeError: Data without labels (at ``setup``).
        ValueError: Data with mixup, batches of its own or label noise; ``outliers`` names a class
            twice, or (at ``setup``) one that there is not, or every class.

    Example:
        >>> from datamodules import Digits
        >>> data = OutlierClasses(Digits(), outliers=[8, 9], batch_size=64)
        >>> data.setup("fit")
        >>> 8 in next(iter(data.train_dataloader()))["label"]
        False
        >>> batch = next(iter(data.val_dataloader()))
        >>> bool((batch["is_outlier"] == (batch["label"] >= 8)).all())
        True
    """

    has_outliers = True
    """Whether evaluation has rows that are marked as outliers."""

    def __init__(
        self, data: DataModule, outliers: Sequence[int], **options: Unpack[BatchOptions]
    ) -> None:
        super().__init__(**options)
        name = type(data).__name__
        if data.mixes_samples or data.has_groups:
            raise ValueError(
                f"{name} makes samples of several, which may be of two classes: switch its mixup "
                "off."
            )
        if not outliers or len(set(outliers)) < len(outliers):
            raise ValueError(
                f"outliers must be numbers of classes, each once, got {list(outliers)}."
            )
        if self.shards is not None:
            raise ValueError("OutlierClasses trains on a part of the rows: drop shards.")
        check_makes_no_batches(self, data)
        self.data = data
        self.outliers = sorted(outliers)
        copy_facts(self.data, self)

    def setup(self, stage: str | None = None) -> None:
        """Read the wrapped data once, for all stages."""
        if self.train_set is not None:
            return
        self.data.use_facts(self.trained)
        self.data.setup(stage)  # type: ignore[arg-type]
        copy_facts(self.data, self)
        name = type(self.data).__name__
        if self.data.train_set is None:
            self._mark_evaluated()
            return
        source, rows = _root(self.data.train_set)
        label = labels_of(source, name)
        if "clean_label" in source.fields:
            raise ValueError(
                f"Outliers are told by labels that are right: drop {name}'s label_noise."
            )
        classes = label[label >= 0].unique().tolist()
        missing = [k for k in self.outliers if k not in classes]
        if missing:
            raise ValueError(
                f"outliers has the class {missing[0]}, and {name} trains {classes}: take some of "
                "those."
            )
        if len(classes) == len(self.outliers):
            raise ValueError(
                f"outliers={self.outliers} leaves no class of {name} to train: take fewer."
            )
        self.train_set = Subset(source, self._kept(label, rows))
        plain, plain_rows = _root(self.data.plain_train_set)
        if plain is not None:
            self.plain_train_set = Subset(plain, self._kept(label, plain_rows))
        self.augment = self.data.augment
        self._mark_evaluated()

    def collate(self, samples: list[Sample]) -> dict[str, Any]:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    def _mark_evaluated(self) -> None:
        self.val_set = self._marked(self.data.val_set)
        self.test_set = self._marked(self.data.test_set)
        self.predict_set = self._marked(self.data.predict_set)

    def _kept(self, label: Tensor, rows: list[int]) -> list[int]:
        inside = ~torch.isin(label, torch.tensor(self.outliers))
        return [row for row in rows if inside[row]]

    def _marked(self, part: Dataset[Sample] | None) -> Dataset[Sample] | None:
        source, rows = _root(part)
        if "label" not in getattr(source, "fields", {}):
            return part
        marked = copy(source)
        outlier = torch.isin(source.fields["label"], torch.tensor(self.outliers))
        marked.fields = {**source.fields, "is_outlier": outlier}
        return Subset(marked, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and what is not trained."""
        return {**super().state_dict(), "outliers": self.outliers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Other classes were trained, or see the base class.
        """
        if state_dict["outliers"] != self.outliers:
            raise RuntimeError(
                f"The checkpoint was trained with data.outliers={state_dict['outliers']}, and "
                f"cannot go on with {self.outliers}, which it would know already: keep the value."
            )
        super().load_state_dict(state_dict)


def _root(dataset: Any) -> tuple[Any, list[int]]:
    """Return the data set behind subsets, and the rows of it that are served."""
    return root_and_rows(dataset, [] if dataset is None else list(range(len(dataset))))
