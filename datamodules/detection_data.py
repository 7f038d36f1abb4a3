"""What datamodules of images with objects share: their facts, and augmentation with partners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch.utils.data import Dataset

from datamodules.object_augmentation import ObjectAugmentation, SampleTransform
from framework.data.datamodule import DataModule, LoaderOptions
from framework.data.datasets import Sample, root_and_rows


class DetectionData(DataModule):
    """Base of the datamodules of images on which something is labeled at places.

    Args:
        batch_size: Rows of a global batch, over all ranks.
        augment: Transforms of a training image and what is labeled on it, in this order.
    """

    num_classes: int
    class_names: Sequence[str]
    input_shape: tuple[int, int, int]
    """(3, H, W) of an image."""
    image_names: Sequence[str] | None = None
    """Names of the predicted images, of whole ones where they are tiled; known after ``setup``."""
    image_paths: Sequence[str] | None = None
    """Paths of the predicted images, by their numbers."""

    def __init__(
        self,
        batch_size: int,
        augment: Sequence[SampleTransform] | None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        self.transforms = augment or []
        self.mixes_samples = any(transform.mixes_samples for transform in self.transforms)

    def augment_from(self, train_set: Dataset[Sample]) -> None:
        """Let training samples be augmented, with partners from ``train_set``."""
        if self.transforms:
            self.augment = ObjectAugmentation(self.transforms, train_set)

    def trained_images(self) -> Any:
        """Return the training images, those that are held out among them.

        Raises:
            RuntimeError: there is no training set.
        """
        if self.train_set is None:
            raise RuntimeError(f"{type(self).__name__} has no training set; call setup('fit').")
        return root_and_rows(self.train_set, [])[0]
