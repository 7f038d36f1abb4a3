"""Base of the datamodules of labeled images: splits, label noise, augmentation, mixup."""

from __future__ import annotations

from copy import copy
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from datamodules.augmentation import Augmentation, check_keeps_shape
from datamodules.image_data import ImageData, ImageOptions
from datamodules.label_noise import LabelNoise
from framework.data.datasets import root_and_rows
from framework.data.samplers import GlobalBatchSampler, WeightedBatchSampler
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class ClassificationOptions(ImageOptions, total=False):
    """Arguments of ``ClassificationData`` whose defaults are the same for all data."""

    split_seed: int
    stratify: bool
    balance_classes: bool
    label_noise: LabelNoise | None
    augment: list[nn.Module] | None
    mixup: float


class ClassificationData(ImageData):
    """Base of the datamodules of labeled images.

    Batches hold ``image`` (B, C, H, W) float32 in [0, 1] unless normalized, ``label`` (B,) int64,
    or (B, K) float32 in training with mixup, and ``index`` (B,) int64, the row of the full training
    set (of the evaluated set outside training). With label noise, training batches also hold
    ``clean_label`` (B,) int64; validation and test labels stay clean. A subclass sets
    ``num_classes`` and ``input_shape`` and implements ``read``.

    The remaining arguments are those of ``ImageData``.

    Args:
        val_size: Training rows held out for validation, as a number (int) or as a share (float);
            not used where the data set has a validation part of its own.
        split_seed: Seed of the permutation whose first rows are held out; not the seed of the run.
        stratify: Whether the held-out rows have the training set's share of every class, as nearly
            as their number allows.
        balance_classes: Whether an epoch draws as many rows as there are, with replacement, every
            class equally often.
        label_noise: Noise of the training labels.
        augment: Transforms of a training image in [0, 1], such as those of
            ``torchvision.transforms.v2``, that keep its shape.
        mixup: Parameter α of the Beta distribution that images are mixed by (mixup); 0 for none.

    Raises:
        ValueError: a negative ``mixup``, ``mean`` without ``std``, ``balance_classes`` with
            ``shards``; or (at ``setup``) a ``val_size`` that leaves no training sample, or an
            ``augment`` that changes the shape of an image.
    """

    num_classes: int

    def __init__(
        self,
        val_size: int | float = 0.1,
        split_seed: int = 0,
        stratify: bool = False,
        balance_classes: bool = False,
        label_noise: LabelNoise | None = None,
        augment: list[nn.Module] | None = None,
        mixup: float = 0.0,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(0, mixup=mixup)
        self.val_size = val_size
        self.split_seed = split_seed
        self.stratify = stratify
        self.balance_classes = balance_classes
        if balance_classes and self.shards is not None:
            raise ValueError("balance_classes draws from all rows: drop shards.")
        self.label_noise = label_noise
        self.transforms = augment or []
        self.mixup = mixup
        self.mixes_samples = mixup > 0

    def setup(self, stage: str | None = None) -> None:
        """Read the data once, for all stages."""
        if self.train_set is not None:
            return
        clean, val, test = self.read_normalized()
        given = copy(clean)
        if self.label_noise is not None:
            given = clean.relabeled(self.label_noise.apply(clean.fields["label"], self.num_classes))
        if val is not None:
            self.train_set, self.val_set = given, val
        else:
            held_out, kept = self._split(clean.fields["label"])
            self.train_set = Subset(given, kept)
            self.val_set = Subset(clean, held_out) if held_out else None
        self.test_set = test
        self.predict_set = self.val_set if test is None else test
        if self.transforms or self.mixup:
            plain = copy(given)
            self.plain_train_set = plain if val is not None else Subset(plain, kept)
            given.normalize = None  # the augmentation does it, last
            self.augment = Augmentation(
                self.transforms, self.normalize, self.mixup, self.train_set, self.num_classes
            )
            check_keeps_shape(
                self.transforms,
                self.train_set[0]["image"],
                self.input_shape,
                "let augment end in the size of evaluation, or set image_size to that of augment",
            )

    def train_sampler(self) -> GlobalBatchSampler:
        """Return the stream of training batches."""
        if not self.balance_classes:
            return super().train_sampler()
        assert self.train_set is not None
        root, rows = root_and_rows(self.train_set, list(range(len(self.train_set))))  # type: ignore[arg-type]
        label = root.fields["label"][rows]
        return WeightedBatchSampler(
            label.bincount()[label].double().reciprocal(),
            self.batch_size,
            **self._stream,
        )

    def _split(self, label: Tensor) -> tuple[list[int], list[int]]:
        """Return the rows held out and the rows kept, each in ascending order."""
        size, rows = self.val_size, len(label)
        held_out = round(size * rows) if isinstance(size, float) else size
        if not 0 <= held_out < rows:
            raise ValueError(f"val_size={size} does not fit a training set of {rows} samples.")
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "split"))
        order = torch.randperm(rows, generator=generator)
        if self.stratify:
            order = order[place_in_class(label[order]).argsort(stable=True)]
        return order[:held_out].sort().values.tolist(), order[held_out:].sort().values.tolist()


def place_in_class(label: Tensor) -> Tensor:
    """Return how far along its class each row stands, (N,) in (0, 1).

    Any number of rows with the smallest places has the share of every class.
    """
    count = label.bincount()
    by_class = label.argsort(stable=True)
    first = count.cumsum(0) - count
    place = torch.empty(len(label), dtype=torch.float64)
    place[by_class] = (torch.arange(len(label)) - first[label[by_class]] + 0.5).double() / count[
        label[by_class]
    ]
    return place
