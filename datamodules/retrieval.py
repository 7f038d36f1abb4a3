"""Batches and parts of deep metric learning, out of any labeled images."""

from __future__ import annotations

from typing import Any, Unpack

from datamodules.class_parts import Classes
from datamodules.parted_classes import PartedClasses
from framework.data.class_sampling import ClassBatchSampler
from framework.data.datamodule import DataModule, LoaderOptions
from framework.data.datasets import Batch, Sample, root_and_rows
from framework.utilities.checks import check_at_least


class Retrieval(PartedClasses):
    """Labeled images for metric learning: balanced batches, and evaluation on other classes.

    A global training batch holds ``images_per_class`` images of each of ``batch_size`` /
    ``images_per_class`` classes, see ``ClassBatchSampler``. Training, validation and test images
    have no class in common: they are those of ``data``'s own parts where these differ, as those of
    ``Omniglot``, ``OnlineProducts`` and ``InShop`` do, else of classes that ``val_classes`` and
    ``test_classes`` name. By default training classes are held out for validation, where others
    choose the best epoch by the test.

    The protocol of CUB-200-2011 and, in folders of classes, of Cars196 (first half of the classes
    for training, second half for the test) is that of ``ImageFolder`` with ``test_classes: 0.5``.

    Batches hold what ``data`` yields and ``index`` (B,) int64, the position in the training,
    validation or test set; training labels are 0..C-1, those of validation and test follow.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Datamodule of labeled images; its own ``batch_size``, ``eval_batch_size`` and
            ``num_workers`` are not used.
        images_per_class: Images m of a class in a training batch.
        val_classes: Validation classes of ``data``'s training set, by their labels, or how many of
            them (int), or which share (float), the last ones; by default ``data``'s own validation
            part if its classes are others, else a tenth. 0 for none.
        test_classes: Test classes of ``data``'s training set, by their labels, or how many of them
            (int), or which share (float), the last ones; by default ``data``'s own test part if
            its classes are others, else none where its own validation part serves, else half.
        batch_size: Rows of a global batch, over all ranks.

    Raises:
        ValueError: Data with mixup or noisy labels, an argument out of its range, or (at ``setup``)
            no class left to train on; fewer classes than a batch holds (when training begins).
        TypeError: Data that are no labeled images.

    Example:
        >>> from datamodules import Digits, Retrieval
        >>> data = Retrieval(Digits(), images_per_class=4, batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.num_classes, len(batch["label"].unique()), data.test_set.label.unique().tolist()
        (4, 4, [5, 6, 7, 8, 9])
    """

    def __init__(
        self,
        data: DataModule,
        images_per_class: int = 4,
        val_classes: Classes | None = None,
        test_classes: Classes | None = None,
        batch_size: int = 128,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        check_at_least(1, images_per_class=images_per_class)
        if batch_size % images_per_class:
            raise ValueError(
                f"batch_size={batch_size} must be a multiple of images_per_class="
                f"{images_per_class}, as a batch has so many of each class."
            )
        if self.shards is not None:
            raise ValueError("Retrieval draws classes from all rows: drop shards.")
        self.data = data
        self.images_per_class = images_per_class
        self.val_classes = val_classes
        self.test_classes = test_classes

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, and part its classes, once."""
        if self.train_set is not None:
            return
        parts = self.read_parts()
        self.num_classes = parts.num_classes
        self.augment = self.data.augment
        self.train_set = parts.train
        self.plain_train_set = parts.plain if self.augment is not None else None
        self.val_set, self.test_set = parts.val, parts.test
        self.predict_set = self.val_set if self.test_set is None else self.test_set

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    def train_sampler(self) -> ClassBatchSampler:
        """Return the stream of batches with some images of each of several classes."""
        source, rows = root_and_rows(self.train_set, list(range(len(self.train_set))))  # type: ignore[arg-type]
        return ClassBatchSampler(
            source.label[rows], self.batch_size, self.images_per_class, **self._stream
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity and the place in it."""
        return {**super().state_dict(), "images_per_class": self.images_per_class}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Training goes on inside an epoch with another ``images_per_class``, or see
                the base class.
        """
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        found = state_dict["images_per_class"]
        if trains and state_dict["position"] and found != self.images_per_class:
            raise RuntimeError(
                f"The checkpoint was written inside epoch {state_dict['epoch']} with "
                f"images_per_class={found}, and cannot continue with {self.images_per_class}; keep "
                "the value or resume from a checkpoint of an epoch's end."
            )
        super().load_state_dict(state_dict)
