"""Classes of unequal frequency: any labeled images with rows of some classes taken away."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.class_parts import labels_of
from datamodules.wrapped_data import WrappedData, check_makes_no_batches
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Batch, Sample, root_and_rows
from framework.data.facts import copy_facts
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed

USUAL_IMBALANCE = 10.0


class LongTailed(WrappedData):
    """Serves labeled images with training classes thinned to a long tail.

    The rows of class k of K are n imbalance^(-k / (K - 1)), rounded, with the largest n for which
    every class has as many: the exponential profile of Cui et al. 2019 (arXiv:1901.05555) and Cao
    et al. 2019 (arXiv:1906.07413), who round down and take n from balanced data. Which rows stay
    depends on ``seed`` and on the labels alone. Validation and test are those of ``data``, all
    classes as frequent as they are there.

    Batches hold what those of ``data`` hold; ``index`` stays the row of its full training set.
    After ``setup``, ``class_counts`` has the training rows of each class.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Datamodule of labeled images; its own ``batch_size``, ``eval_batch_size`` and
            ``num_workers`` are not used.
        imbalance: Ratio of the rows of the first class to those of the last one.
        counts: Training rows of each class by its label, in place of ``imbalance``.
        seed: Seed of the choice of rows; it does not follow the seed of the run.

    Raises:
        ValueError: ``imbalance`` below 1, a count below 1, ``imbalance`` beside ``counts``; data
            with mixup, groups or batches of its own; or (at ``setup``) noisy labels, or a class
            with fewer rows than it is to have.
        TypeError: Data that are no labeled images (at ``setup``).

    Example:
        >>> from datamodules import Digits
        >>> data = LongTailed(Digits(), imbalance=10.0)
        >>> data.setup("fit")
        >>> data.class_counts, len(data.val_set), data.num_samples
        ([143, 111, 86, 66, 51, 40, 31, 24, 18, 14], 180, 1617)
    """

    def __init__(
        self,
        data: DataModule,
        imbalance: float | None = None,
        counts: list[int] | None = None,
        seed: int = 0,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, imbalance=imbalance)
        if counts is not None:
            if imbalance is not None:
                raise ValueError("Either imbalance or counts says how frequent the classes are.")
            if not counts or min(counts) < 1:
                raise ValueError(f"counts must be at least 1 for each class, got {counts}.")
        if data.mixes_samples or data.has_groups:
            raise ValueError(
                f"{type(data).__name__} makes samples of several, also of rows that are taken "
                "away: switch its mixup off."
            )
        check_makes_no_batches(self, data)
        self.data = data
        self.imbalance = USUAL_IMBALANCE if imbalance is None else imbalance
        self.counts = counts
        self.choice_seed = seed
        self.class_counts: list[int] = []
        copy_facts(self.data, self)

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, once, and choose the training rows."""
        if self.train_set is not None:
            return
        self.set_up_data()
        train_set, name = self.data.train_set, type(self.data).__name__
        source, rows = root_and_rows(train_set, list(range(len(train_set))))  # type: ignore[arg-type]
        label = labels_of(source, name)[rows]
        if "clean_label" in source.fields:
            raise ValueError(
                f"Classes are thinned by labels that are right: drop {name}'s label_noise."
            )
        self.class_counts = self._wanted(label, name)
        kept = [
            members[self._order(len(members), k)[:count]]
            for k, count in enumerate(self.class_counts)
            for members in [(label == k).nonzero().flatten()]
        ]
        chosen = torch.cat(kept).sort().values.tolist()
        self.train_set = Subset(train_set, chosen)  # type: ignore[arg-type]
        if self.data.plain_train_set is not None:
            self.plain_train_set = Subset(self.data.plain_train_set, chosen)
        self.augment = self.data.augment

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    def _order(self, rows: int, label: int) -> Tensor:
        """Return the rows of a class in the order in which they are kept."""
        generator = torch.Generator().manual_seed(stable_seed(self.choice_seed, "tail", label))
        return torch.randperm(rows, generator=generator)

    def _wanted(self, label: Tensor, name: str) -> list[int]:
        """Return how many rows each class is to have, of those that there are."""
        there = label[label >= 0].bincount(minlength=self.data.num_classes or 0)
        if self.counts is None:
            return exponential_counts(there, self.imbalance)
        if len(self.counts) != len(there):
            raise ValueError(
                f"counts are of {len(self.counts)} classes, and {name} has {len(there)}."
            )
        for k, (count, found) in enumerate(zip(self.counts, there.tolist(), strict=True)):
            if count > found:
                raise ValueError(
                    f"counts asks for {count} training rows of class {k}, of which {name} has "
                    f"{found}."
                )
        return self.counts


def exponential_counts(there: Tensor, imbalance: float) -> list[int]:
    """Return counts that decay exponentially over the classes, as large as the data allow.

    Args:
        there: Rows of each class, (K,) int64.
        imbalance: Ratio of the first count to the last one, before rounding.

    Raises:
        ValueError: A class without a row, or too few rows for one in the last class.

    Example:
        >>> exponential_counts(torch.tensor([100, 100, 60]), imbalance=4.0)
        [100, 50, 25]
        >>> exponential_counts(torch.tensor([100, 30, 60]), imbalance=4.0)
        [60, 30, 15]
    """
    steps = max(len(there) - 1, 1)
    share = imbalance ** (-torch.arange(len(there), dtype=torch.float64) / steps)
    # a unit in the last place must not cost a row
    counts = (share * (there / share).min() * (1 + 1e-12)).round().long()
    if len(counts) == 0 or int(counts.min()) < 1:
        raise ValueError(
            f"Classes of {there.tolist()} training rows have none left for the rarest class at an "
            f"imbalance of {imbalance:g}: lower it."
        )
    return counts.tolist()
