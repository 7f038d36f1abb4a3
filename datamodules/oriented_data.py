"""Base of the datamodules of oriented objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor
from torch.utils.data import Dataset

from datamodules.detection_data import DetectionData
from datamodules.object_augmentation import ObjectTransform
from framework.data.datamodule import BatchOptions, LoaderOptions
from framework.data.datasets import Batch, Sample
from framework.data.facts import match_classes
from framework.data.raw_inputs import as_images
from framework.detection.objects import ObjectTable, pad_objects


class ObjectImages(Dataset[Sample]):
    """Images of one size in memory, with their objects.

    Args:
        image: Images (N, 3, H, W) uint8.
        objects: Objects of the N images.

    Raises:
        ValueError: the numbers of images differ.
    """

    def __init__(self, image: Tensor, objects: ObjectTable) -> None:
        if len(image) != len(objects):
            raise ValueError(f"{len(image)} images cannot have {len(objects)} lists of objects.")
        self.image = image
        self.objects = objects

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, row: int) -> Sample:
        return {"image": self.image[row].float().div_(255), **self.objects[row].fields()}


class OrientedOptions(BatchOptions, total=False):
    """Arguments of ``OrientedData``."""

    augment: list[ObjectTransform] | None


class OrientedData(DetectionData):
    """Base of the datamodules of oriented objects.

    Batches hold ``image`` (B, 3, H, W) float32 in [0, 1] and ``index`` (B,) int64, and of the
    objects, M being the largest number in the batch: ``quads`` (B, M, 4, 2) float32 corners in
    pixels, ``label`` (B, M) int64, -1 where an image has fewer objects, ``difficult`` (B, M) bool
    and ``object_weight`` (B, M) float32, the share of its image under mixup, else 1.

    The remaining arguments are those of ``DataModule``.

    Args:
        batch_size: Rows of a global batch, over all ranks.
        augment: Transforms of a training image and its objects, in this order.
    """

    is_tiled = False
    """True if images outside training are parts of larger ones, named by ``image_id``."""

    def __init__(
        self,
        batch_size: int = 16,
        augment: list[ObjectTransform] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, augment=augment, **options)

    def as_batch(self, inputs: Any) -> Batch:
        """Return images as a batch, in their own pixels; see ``as_images`` for what they may be."""
        return {"image": as_images(inputs, channels=3)}

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples to a batch, their objects padded."""
        return pad_objects(samples)

    def number_classes(self, found: Sequence[str]) -> list[int]:
        """Take over the classes of training, where there was one, and return those of ``found``.

        Args:
            found: Names of the data's own classes, by label.

        Returns:
            Label of each in training; without a training its own.

        Raises:
            IncompatibleError: A class that was not trained.
        """
        trained = self.trained.get("class_names")
        if trained is None:
            self.class_names, self.num_classes = found, len(found)
            return list(range(len(found)))
        numbers = match_classes(found, trained, type(self).__name__)
        self.class_names, self.num_classes = trained, len(trained)
        return numbers

    @property
    def object_counts(self) -> dict[str, int]:
        """Objects of each class in the training set, difficult ones included.

        Raises:
            RuntimeError: there is no training set.
        """
        label = self.trained_images().objects.rows.label
        count = label.bincount(minlength=self.num_classes).tolist()
        return dict(zip(self.class_names, count, strict=True))


def check_objects(objects: ObjectTable | None, source: object) -> None:
    """Refuse images without any object, which nothing is learned from or scored on.

    Args:
        objects: Objects of the images.
        source: What they were read from, for the message.

    Raises:
        ValueError: There is none.
    """
    if objects is None or not len(objects.rows):
        raise ValueError(
            f"{source} has no object on any of its {0 if objects is None else len(objects)} "
            "images, so that there is nothing to learn or to be scored on: check its labels, or "
            "leave this part out."
        )
