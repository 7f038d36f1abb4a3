"""Labeled images of which some classes are never trained, and known by a few examples only."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.classification import ClassificationData
from datamodules.image_datasets import ImageSet
from datamodules.wrapped_data import WrappedData
from framework.data.datamodule import BatchOptions
from framework.data.datasets import Batch, BatchedDataset, root_and_rows
from framework.data.facts import Facts, copy_facts
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class NovelClasses(WrappedData):
    """Trains on some classes of other data, and evaluates on all, the others by a few examples.

    The trained classes are the base classes, the others the novel ones; ``label`` numbers the base
    classes from 0 on and then the novel ones, each in the order of the wrapped data. The training
    set is what the wrapped data trains of the base classes.

    Validation and test batches also hold ``shot`` (B,) int64: the sets begin with the supports,
    which are training images of the novel classes and have 1, 2, ... inside of their class; after
    them come the images of all classes that the wrapped data evaluates, the queries, with 0.
    ``index`` (B,) is the position in this set.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Any datamodule of labeled images; its own ``batch_size``, ``eval_batch_size`` and
            ``num_workers`` are not used, but its validation split and ``augment`` are.
        novel: Numbers of the novel classes in the wrapped data.
        shots: Supports of each novel class.
        support_seed: Seed of the permutation whose first images of a class are its supports; not
            the seed of the run.

    Raises:
        TypeError: data that are no labeled images.
        ValueError: data with label noise, mixup, ``balance_classes``, ``drop_last`` or ``shards``
            of its own; ``novel`` names a class twice, one that there is not, or all but one; or (at
            ``setup``) a class has fewer training images than ``shots``.

    Example:
        >>> from datamodules import Digits
        >>> data = NovelClasses(Digits(), novel=[7, 8, 9], shots=5, batch_size=32)
        >>> data.setup("fit")
        >>> data.num_classes, int(next(iter(data.train_dataloader()))["label"].max())
        (7, 6)
        >>> next(iter(data.val_dataloader()))["shot"][:7]
        tensor([1, 2, 3, 4, 5, 1, 2])
    """

    data: ClassificationData
    input_shape: tuple[int, int, int]
    """(C, H, W) of an image, known after ``setup``."""

    def __init__(
        self,
        data: ClassificationData,
        novel: Sequence[int],
        shots: int = 5,
        support_seed: int = 0,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        _check_wrapped(data)
        check_at_least(1, shots=shots)
        if len(set(novel)) != len(novel) or not novel or min(novel) < 0:
            raise ValueError(f"novel must be numbers of classes, each once, got {list(novel)}.")
        self.data = data
        self.novel = sorted(novel)
        self.shots = shots
        self.support_seed = support_seed

    def setup(self, stage: str | None = None) -> None:
        """Read the wrapped data once, for all stages."""
        if self.train_set is not None:
            return
        self.data.use_facts(self.facts_for_data(self.trained))
        self.data.setup(stage)
        copy_facts(self.data, self)
        order = self._order(self.data.num_classes)
        self.num_classes = len(order) - len(self.novel)
        names = self.data.class_names
        self.class_names = None if names is None else [names[k] for k in order[: self.num_classes]]
        self.novel_names = [str(k) if names is None else names[k] for k in self.novel]
        number = torch.empty(len(order), dtype=torch.int64)
        number[torch.tensor(order)] = torch.arange(len(order))

        train, rows = _images_and_rows(self.data.train_set)
        plain, _ = _images_and_rows(self.data.plain_train_set or self.data.train_set)
        label = _numbered(train.fields["label"], number)
        base = rows[(label[rows] >= 0) & (label[rows] < self.num_classes)]
        self.train_set = Subset(_relabeled(train, label), base.tolist())
        self.augment = self.data.augment
        if self.data.plain_train_set is not None:
            self.plain_train_set = Subset(_relabeled(plain, label), base.tolist())
        supports = self._supports(label, rows)
        for name in ("val_set", "test_set"):
            part = getattr(self.data, name)
            if part is not None:
                queries, places = _images_and_rows(part)
                shown = SupportsAndQueries(plain, supports, queries, places, number)
                setattr(self, name, shown)
        self.predict_set = self.data.predict_set

    def facts_for_data(self, facts: Facts) -> Facts:
        """Return facts without those of the base classes, which are not all of the data's."""
        return {
            name: fact for name, fact in facts.items() if name not in ("class_names", "num_classes")
        }

    def _order(self, num_classes: int) -> list[int]:
        """Return the wrapped data's numbers of the base classes, then of the novel ones."""
        base = [k for k in range(num_classes) if k not in self.novel]
        if self.novel[-1] >= num_classes or len(base) < 2:
            raise ValueError(
                f"novel={self.novel} must leave two of the {num_classes} classes, 0 to "
                f"{num_classes - 1}, or more."
            )
        return [*base, *self.novel]

    def _supports(self, label: Tensor, rows: Tensor) -> Tensor:
        """Return the rows of the supports, (novel classes, shots)."""
        generator = torch.Generator().manual_seed(stable_seed(self.support_seed, "supports"))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        supports = []
        for number, name in enumerate(self.novel_names, start=self.num_classes or 0):
            own = rows[label[rows] == number]
            if len(own) < self.shots:
                raise ValueError(
                    f"The novel class {name!r} has {len(own)} training images, fewer than "
                    f"shots={self.shots}."
                )
            supports.append(own[: self.shots])
        return torch.stack(supports)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and what is not trained."""
        return {**super().state_dict(), "novel": self.novel}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Other classes were trained, or see the base class.
        """
        if state_dict["novel"] != self.novel:
            raise RuntimeError(
                f"The checkpoint was trained with data.novel={state_dict['novel']}, and cannot go "
                f"on with {self.novel}, which it would know already: keep the value."
            )
        super().load_state_dict(state_dict)


class SupportsAndQueries(BatchedDataset):
    """Examples of novel classes, and then the images that are to be classified.

    Args:
        examples: Set that the supports are in.
        supports: Their rows (K, S).
        images: Set that the queries are in.
        queries: Their rows (Q,).
        number: Number of each class of the sets, (C,) int64.
    """

    def __init__(
        self,
        examples: ImageSet,
        supports: Tensor,
        images: ImageSet,
        queries: Tensor,
        number: Tensor,
    ) -> None:
        self.parts = (examples, images)
        self.rows = (supports.flatten(), queries)
        self.number = number
        shot = torch.arange(1, supports.shape[1] + 1).repeat(len(supports))
        self.shot = torch.cat([shot, torch.zeros_like(queries)])
        self.decodes = any(getattr(part, "decodes", False) for part in self.parts)

    def __len__(self) -> int:
        return len(self.shot)

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        first = len(self.rows[0])
        is_query = rows >= first
        own = [rows[~is_query], rows[is_query] - first]
        parts = [
            part.batch(places[mine])
            for part, places, mine in zip(self.parts, self.rows, own, strict=True)
        ]
        back = torch.cat([(~is_query).nonzero(), is_query.nonzero()]).flatten().argsort()
        image, label = (
            torch.cat([part[name] for part in parts])[back] for name in ("image", "label")
        )
        return {"image": image, "label": _numbered(label, self.number), "shot": self.shot[rows]}


def _images_and_rows(dataset: Any) -> tuple[ImageSet, Tensor]:
    images, rows = root_and_rows(dataset, list(range(len(dataset))))
    return images, torch.tensor(rows, dtype=torch.int64)


def _numbered(label: Tensor, number: Tensor) -> Tensor:
    """Return the new numbers of classes; those below 0 are not known."""
    return torch.where(label < 0, label, number[label.clamp(min=0)])


def _relabeled(images: ImageSet, label: Tensor) -> ImageSet:
    other = copy(images)
    other.fields = {**images.fields, "label": label}
    return other


def _check_wrapped(data: ClassificationData) -> None:
    name = type(data).__name__
    if not isinstance(data, ClassificationData):
        raise TypeError(f"NovelClasses wraps datamodules of labeled images, and {name} is none.")
    if data.label_noise is not None or data.mixup:
        raise ValueError(
            f"NovelClasses needs every label as it is: drop {name}'s "
            f"{'mixup' if data.mixup else 'label_noise'}."
        )
    for what, is_set in (
        ("balance_classes", data.balance_classes),
        ("drop_last", data.drop_last),
        ("shards", data.shards is not None),
    ):
        if is_set:
            raise ValueError(f"NovelClasses makes the batches: drop {name}'s {what}.")
