"""The breast-cancer table that scikit-learn carries: two classes from thirty measurements."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from datamodules.label_noise import LabelNoise
from datamodules.table_encoding import moments, standardized
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.data.raw_inputs import as_rows
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class BreastCancer(DataModule):
    """569 tumors, 212 malignant and 357 benign, each described by 30 measurements.

    Batches hold ``input`` (B, 30) float32, standardized on the training rows, ``label`` (B,) int64
    and ``index`` (B,) int64, the row of the training set. With label noise, training batches also
    hold ``clean_label`` (B,) int64; all other rows keep their true labels. The rows are Street,
    Wolberg and Mangasarian's (1993) "Wisconsin Diagnostic Breast Cancer" of the UCI repository.

    A permutation fixed by ``split_seed`` puts rows aside for testing, for validation, and as
    ``guide_set``, which an upper problem such as that of ``HyperCleaning`` looks at; by default 284
    train, 57 guide, 57 validate and 171 test.

    The remaining arguments are those of ``DataModule``.

    Args:
        clean_size: Rows of the guide set, whose labels are never wrong.
        val_size: Rows for validation.
        test_size: Rows for testing.
        split_seed: Seed of the permutation; not the seed of the run.
        label_noise: Noise of the training labels.

    Raises:
        ValueError: Sizes that are negative or leave no training row.

    Example:
        >>> data = BreastCancer(batch_size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'input': (32, 30), 'label': (32,), 'index': (32,)}
        >>> len(data.train_set), len(data.guide_set), len(data.val_set), len(data.test_set)
        (284, 57, 57, 171)
    """

    num_classes = 2
    class_names = ("malignant", "benign")
    input_shape = (30,)
    input_mean: Tensor
    """Mean of the measurements over the training rows, (30,)."""
    input_std: Tensor
    """Standard deviation of the measurements over the training rows, (30,)."""

    def __init__(
        self,
        clean_size: int = 57,
        val_size: int = 57,
        test_size: int = 171,
        split_seed: int = 0,
        label_noise: LabelNoise | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(0, clean_size=clean_size, val_size=val_size, test_size=test_size)
        if clean_size + val_size + test_size >= 569:
            raise ValueError(
                f"clean_size={clean_size}, val_size={val_size} and test_size={test_size} leave "
                "none of the 569 rows to train."
            )
        self.clean_size = clean_size
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.label_noise = label_noise

    def setup(self, stage: str | None = None) -> None:
        """Read and split the table once, for all stages."""
        if self.train_set is not None:
            return
        from sklearn.datasets import load_breast_cancer

        table, classes = load_breast_cancer(return_X_y=True)
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "breast cancer"))
        order = torch.randperm(len(classes), generator=generator)
        inputs, label = torch.from_numpy(table)[order], torch.from_numpy(classes).long()[order]
        held = [self.clean_size, self.val_size, self.test_size]
        sizes = [len(label) - sum(held), *held]
        if "input_mean" in self.trained:
            self.input_mean, self.input_std = self.trained["input_mean"], self.trained["input_std"]
        else:
            self.input_mean, self.input_std = moments(inputs[: sizes[0]])
        parts = [
            {"input": self._standardized(rows), "label": own}
            for rows, own in zip(inputs.split(sizes), label.split(sizes), strict=True)
        ]
        if self.label_noise is not None:
            clean = parts[0]["label"]
            parts[0] |= {
                "label": self.label_noise.apply(clean, self.num_classes),
                "clean_label": clean,
            }
        sets = [ArrayDataset(**part) if len(part["label"]) else None for part in parts]
        self.train_set, self.guide_set, self.val_set, self.test_set = sets
        self.predict_set = self.test_set or self.val_set

    def _standardized(self, rows: Tensor) -> Tensor:
        return standardized(rows, self.input_mean, self.input_std).float()

    def as_batch(self, inputs: Any) -> Batch:
        """Return rows (N, 30) of measurements as a standardized batch."""
        return {"input": self._standardized(as_rows(inputs, 30).double())}

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Read the table again, for the statistics of its training rows."""
        self.setup()
