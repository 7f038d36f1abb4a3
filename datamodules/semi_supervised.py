"""A few labeled rows and many unlabeled ones, out of any labeled data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from datamodules.class_parts import labels_of
from datamodules.classification import place_in_class
from datamodules.image_datasets import ImageSet
from datamodules.partly_labeled import PartlyLabeled
from datamodules.wrapped_data import WrappedData, check_makes_no_batches
from framework.data.datamodule import BatchOptions, DataModule, check_share
from framework.data.datasets import Batch, Sample, root_and_rows
from framework.data.facts import Facts, facts_of
from framework.data.labeled_sampling import LabeledBatchSampler
from framework.objectives.labels import IGNORE_INDEX
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.randomness import stable_seed

PREPARED = ("input_shape", "resize", "input_mean", "input_std")
"""Facts by which unlabeled rows of other data are prepared as the labeled ones are."""


class SemiSupervised(WrappedData):
    """Serves few training rows of other data with their labels, and the others without.

    Training batches hold ``image`` or ``input`` as the wrapped data has it, ``label`` (B,) int64,
    which is -100 (``IGNORE_INDEX``) for unlabeled rows, and ``index`` (B,) int64, the row of the
    full training set of ``data``, and behind that of ``unlabeled``. Every global batch has
    ``labeled_per_batch`` labeled rows, see ``LabeledBatchSampler``. Losses on labels pass over the
    label -100; ``RobustSelfTrainingLoss`` learns from these rows.

    Unlabeled rows are those of ``data`` whose labels are hidden, or all training rows of
    ``unlabeled``, which then are of another domain; they are resized, standardized and normalized
    as those of ``data``. ``transform`` shifts their domain: it is drawn once for each row and is
    the same in every epoch. Validation and test are those of ``data``, as they are.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Datamodule of labeled images or of rows of a table; its own ``batch_size``,
            ``eval_batch_size`` and ``num_workers`` are not used.
        labeled: Number of rows that keep their labels, of every class the same share.
        per_class: Whether ``labeled`` is the number of rows of each class.
        labeled_per_batch: Labeled rows of a global batch.
        unlabeled: Datamodule whose training rows, without their labels, take the place of the
            rows with hidden labels; of the same shape, and without transforms of its own.
        num_unlabeled: Number of unlabeled rows; None for all that there are.
        transform: Transforms of an unlabeled image in [0, 1], or of an unlabeled row of a table,
            such as those of ``torchvision.transforms.v2``, that keep its shape.
        split_seed: Seed of the choice of rows and of the draws of ``transform``; not the seed of
            the run.

    Raises:
        ValueError: an argument out of its range; data with mixup, groups or batches of its own; or
            (at ``setup``) too few rows, or unlabeled rows of another shape.
        TypeError: Data without labels (at ``setup``).

    Example:
        >>> from datamodules import Digits, SemiSupervised
        >>> data = SemiSupervised(Digits(), labeled=40, labeled_per_batch=2, batch_size=6)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["label"]
        tensor([-100, -100,    7, -100, -100,    2])
    """

    never_one_row = True

    def __init__(
        self,
        data: DataModule,
        labeled: int = 40,
        per_class: bool = False,
        labeled_per_batch: int = 16,
        unlabeled: DataModule | None = None,
        num_unlabeled: int | None = None,
        transform: list[nn.Module] | None = None,
        split_seed: int = 0,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, labeled=labeled, num_unlabeled=num_unlabeled)
        check_interval(f"[1, {self.batch_size - 1}]", labeled_per_batch=labeled_per_batch)
        if self.shards is not None:
            raise ValueError("SemiSupervised makes batches of both kinds of rows: drop shards.")
        for one in (data, unlabeled):
            if one is not None:
                _check_wrapped(self, one)
        self.data = data
        self.labeled = labeled
        self.per_class = per_class
        self.labeled_per_batch = labeled_per_batch
        self.unlabeled = unlabeled
        self.num_unlabeled = num_unlabeled
        self.transforms = transform or []
        self.split_seed = split_seed

    def prepare_data(self) -> None:
        """Prepare the wrapped data."""
        super().prepare_data()
        if self.unlabeled is not None:
            self.unlabeled.prepare_data()

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        super().forget()
        if self.unlabeled is not None:
            self.unlabeled.forget()

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, once, and choose the rows."""
        if self.train_set is not None:
            return
        self.set_up_data()
        source, rows = _source(self.data)
        label = labels_of(source, type(self.data).__name__)[rows]
        known, hidden = self._chosen(label)
        sources, labeled, others = [source], rows[known], rows[hidden]
        if self.unlabeled is not None:
            facts = facts_of(self.data)
            self.unlabeled.use_facts({name: facts[name] for name in PREPARED if name in facts})
            self.unlabeled.setup("fit")
            if self.unlabeled.augment is not None:
                raise ValueError(
                    f"{type(self.unlabeled).__name__} has transforms of its own: give them as "
                    "transform to SemiSupervised."
                )
            other, others = _source(self.unlabeled)
            others = self._permutation(others) + len(source)
            sources.append(other)
        if self.num_unlabeled is not None:
            others = others[: self.num_unlabeled]
        if len(others) < (self.num_unlabeled or 1):
            raise ValueError(
                f"There are {len(others)} rows without a label beside the {len(labeled)} labeled "
                f"ones: lower {'num_unlabeled' if self.num_unlabeled else 'labeled'}."
            )
        targets = torch.full((sum(map(len, sources)),), IGNORE_INDEX)
        targets[labeled] = source.fields["label"][labeled]
        kept = [*labeled.sort().values.tolist(), *others.sort().values.tolist()]
        plain_set = self.data.plain_train_set
        images = source if plain_set is None else root_and_rows(plain_set, [])[0]
        normalize = images.normalize if isinstance(images, ImageSet) else None
        self.augment = self.data.augment
        plain = PartlyLabeled(sources, targets, self.transforms, self.split_seed, normalize)
        plain.check_shapes(kept[0], kept[-1])
        self.train_set = Subset(plain, kept)
        if self.augment is not None:  # it normalizes, last
            self.plain_train_set = self.train_set
            raw = PartlyLabeled(sources, targets, self.transforms, self.split_seed, None)
            self.train_set = Subset(raw, kept)

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    @property
    def num_labeled(self) -> int:
        """Number of labeled rows that are trained, which come first in ``train_set``."""
        root, rows = root_and_rows(self.train_set, list(range(len(self.train_set))))  # type: ignore[arg-type]
        return int((root.fields["label"][rows] != IGNORE_INDEX).sum())

    def train_sampler(self) -> LabeledBatchSampler:
        """Return the stream of batches of labeled and unlabeled rows."""
        labeled = self.num_labeled
        return LabeledBatchSampler(
            labeled,
            len(self.train_set) - labeled,  # type: ignore[arg-type]
            self.batch_size,
            self.labeled_per_batch,
            **self._stream,
        )

    def _held_and_kept(self, share: float, rows: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows to hold out, the same share of either kind, and the others."""
        labeled = self.num_labeled
        held: list[int] = []
        for first, size in ((0, labeled), (labeled, rows - labeled)):
            generator = torch.Generator().manual_seed(stable_seed("hold out", first, size))
            order = torch.randperm(size, generator=generator) + first
            held += order[: check_share(share, size)].sort().values.tolist()
        gone = set(held)
        return held, [row for row in range(rows) if row not in gone]

    def _chosen(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows keep their labels, and the others, in the order of choice."""
        name = type(self.data).__name__
        there = (label >= 0).nonzero().flatten()
        order = self._permutation(there)
        place = place_in_class(label[order])
        if self.per_class:
            count = label[order].bincount()
            least = int(count[count > 0].min())
            if self.labeled > least:
                raise ValueError(
                    f"labeled={self.labeled} of each class are more than the {least} training rows "
                    f"of the smallest class of {name}."
                )
            # the number of a row in its class
            chosen = (place * count[label[order]]).long() < self.labeled
            known = order[chosen]
        else:
            if self.labeled > len(there):
                raise ValueError(
                    f"labeled={self.labeled} are more than the {len(there)} labeled training rows "
                    f"of {name}."
                )
            known = order[place.argsort(stable=True)][: self.labeled]
        taken = torch.zeros(len(label), dtype=torch.bool).index_fill(0, known, True)
        everyone = self._permutation(torch.arange(len(label)))
        return known, everyone[~taken[everyone]]

    def _permutation(self, rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "labeled"))
        return rows[torch.randperm(len(rows), generator=generator)]

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity and the place in it."""
        return {**super().state_dict(), "labels": self._choice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Training goes on with other labeled rows or other batches of them, or see
                the base class.
        """
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        if trains and state_dict["labels"] != self._choice:
            raise RuntimeError(
                f"The checkpoint was trained with {state_dict['labels']}, and cannot go on with "
                f"{self._choice}: keep the values."
            )
        super().load_state_dict(state_dict)

    @property
    def _choice(self) -> Facts:
        names = ("labeled", "per_class", "labeled_per_batch", "num_unlabeled", "split_seed")
        return {name: getattr(self, name) for name in names}


def _source(data: DataModule) -> tuple[Any, Tensor]:
    """Return the training set behind a datamodule and the rows of it that are trained."""
    source, rows = root_and_rows(data.train_set, list(range(len(data.train_set))))  # type: ignore[arg-type]
    return source, torch.tensor(rows, dtype=torch.int64)


def _check_wrapped(wrapper: SemiSupervised, data: DataModule) -> None:
    if data.mixes_samples or data.has_groups:
        raise ValueError(
            f"{type(data).__name__} makes samples of several, which have no label of their own: "
            "wrap what it is made of, or switch its mixup off."
        )
    check_makes_no_batches(wrapper, data)
