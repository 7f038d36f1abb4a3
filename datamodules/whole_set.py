"""All samples of other data as one set, for methods that learn without labels."""

from __future__ import annotations

from typing import Literal, Unpack

from datamodules.classification import ClassificationData
from datamodules.image_data import ImageData
from datamodules.wrapped_data import WrappedData, check_makes_no_batches
from framework.data.datamodule import BatchOptions
from framework.data.facts import copy_facts


class WholeSet(WrappedData):
    """Serves all images of other data as one set, the same in training and in evaluation.

    Clustering has no held-out samples: it sees every image and assigns every image. ``train_set``,
    ``val_set``, ``test_set`` and ``predict_set`` are one pool of the wrapped data's parts in the
    order train, val, test, each in its own order; the training set is the full one, as nothing is
    split off it. ``index`` is the row of the pool. Training batches come in random order, all
    others in that of the pool.

    Labels, where the data has any, stay in the batches as ``label``: they are for metrics alone.
    So label noise is refused, and mixup and augmentation too: what is learned of a sample belongs
    to the image as it is.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Any datamodule of images; its own ``batch_size``, ``eval_batch_size``,
            ``num_workers``, ``val_size`` and ``split_seed`` are not used.
        parts: Parts to serve, out of ``train``, ``val`` and ``test``; default all that there are.
            There is no ``val`` where validation would be split off the training set.

    Raises:
        TypeError: data that are no images.
        ValueError: data with label noise, mixup, augmentation, ``drop_last`` or ``shards`` of its
            own; unknown or repeated parts; a part that is missing or empty (at ``setup``).

    Example:
        >>> from datamodules import Digits
        >>> data = WholeSet(Digits(mean=[0.5], std=[0.5]), batch_size=100)
        >>> data.setup("fit")
        >>> batch = next(iter(data.val_dataloader()))
        >>> data.num_samples, batch["index"][:3], float(batch["image"].min())
        (1797, tensor([0, 1, 2]), -1.0)
    """

    data: ImageData

    def __init__(
        self,
        data: ImageData,
        parts: list[Literal["train", "val", "test"]] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        _check_wrapped(data)
        check_makes_no_batches(self, data)
        if parts is not None and (
            not parts or len(set(parts)) < len(parts) or set(parts) - {"train", "val", "test"}
        ):
            raise ValueError(f"parts must be some of train, val and test, each once, got {parts}.")
        self.data = data
        self.parts = parts
        copy_facts(self.data, self)

    def setup(self, stage: str | None = None) -> None:
        """Read the wrapped data once, for all stages."""
        if self.train_set is not None:
            return
        name = type(self.data).__name__
        self.data.use_facts(self.trained)
        found = self.data.read_normalized()._asdict()
        there = [part for part, images in found.items() if images is not None]
        parts = there if self.parts is None else [part for part in found if part in self.parts]
        missing = [part for part in parts if part not in there]
        if missing:
            raise ValueError(
                f"{name} has no part {missing[0]!r} of its own, only {' and '.join(there)}."
            )
        pool = [found[part] for part in parts]
        if not sum(map(len, pool)):
            raise ValueError(f"{name} has no image in {' and '.join(parts)}.")
        self.train_set = pool[0].followed_by(*pool[1:])
        self.val_set = self.test_set = self.predict_set = self.train_set
        copy_facts(self.data, self)
        if "label" not in pool[0].fields:
            # the classes of the data that a model was trained on are not those of these images
            self.num_classes = None


def _check_wrapped(data: ImageData) -> None:
    name = type(data).__name__
    if not isinstance(data, ImageData):
        raise TypeError(f"WholeSet wraps datamodules of images, and {name} is none.")
    if isinstance(data, ClassificationData):
        if data.label_noise is not None:
            raise ValueError(
                f"WholeSet has labels for metrics alone, which must be true: drop {name}'s "
                "label_noise."
            )
        if data.transforms or data.mixup:
            raise ValueError(
                f"WholeSet serves every image as it is, in training too: drop {name}'s "
                f"{'augment' if data.transforms else 'mixup'}."
            )
