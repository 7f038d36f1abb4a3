"""Base of the datamodules of faces: identities to train on, and pairs of images to verify."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Literal, Unpack

from torch import nn

from datamodules.augmentation import Augmentation, Normalize, check_keeps_shape
from datamodules.image_data import ImageData, ImageOptions, Splits
from datamodules.image_datasets import ImageSet
from framework.data.datasets import BatchedDataset
from framework.data.facts import Facts
from framework.embedding.pairs import Pairs
from framework.utilities.checks import check_one_of

HELD_OUT = "held_out"
"""Name of a list of pairs of identities that are held out of training."""
NORMALIZATIONS = {
    "symmetric": ([0.5], [0.5]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
"""Mean and std of images in [0, 1] by the name of a preset."""


class FaceOptions(ImageOptions, total=False):
    """Arguments of ``FaceData``."""

    normalization: Literal["symmetric", "imagenet"] | None
    augment: list[nn.Module] | None


class FaceData(ImageData):
    """Base of the datamodules of faces.

    Training batches hold ``image`` (B, C, H, W) float32, ``label`` (B,) int64, the identity, and
    ``index`` (B,) int64. Validation and test sets hold each image once, of identities that are not
    trained; there ``label`` is a number of the identity in this set alone, or -1 where only pairs
    are known, and ``index`` is the position that the lists of ``pairs`` name. A subclass calls
    ``serve_train`` and ``serve_evaluated`` in ``setup``.

    The remaining arguments are those of ``ImageData``.

    Args:
        normalization: Preset of ``mean`` and ``std``: ``symmetric`` scales images to [-1, 1] (one
            half each), ``imagenet`` has the values of ImageNet. By default as in training, or
            ``symmetric``.
        augment: Transforms of a training image in [0, 1] that keep its shape; by default a
            horizontal flip of every second image, and an empty list for none.

    Raises:
        ValueError: ``normalization`` together with ``mean`` and ``std``.
    """

    def __init__(
        self,
        normalization: Literal["symmetric", "imagenet"] | None = None,
        augment: list[nn.Module] | None = None,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        if normalization is not None:
            check_one_of(NORMALIZATIONS, normalization=normalization)
            if self.normalize is not None:
                raise ValueError(f"Give normalization={normalization} or mean and std, not both.")
            self.normalize = Normalize(*NORMALIZATIONS[normalization])
        self._given_normalize = self.normalize
        self.transforms = _flip() if augment is None else augment
        self._pairs: dict[str, dict[str, Pairs]] = {}

    def pairs(self, stage: Literal["val", "test"]) -> dict[str, Pairs]:
        """Return the lists of pairs of the validation or the test set, by name.

        Args:
            stage: Which of both sets.

        Raises:
            ValueError: another stage.
        """
        check_one_of(("val", "test"), stage=stage)
        return dict(self._pairs.get(stage, {}))

    def serve_train(self, images: ImageSet) -> None:
        """Serve images as the training set, augmented; identities are numbered as in training."""
        super()._use_classes(Splits(images, None, None))
        images = self._prepared(Splits(images, None, None)).train
        self.train_set = images
        if self.transforms:
            self.plain_train_set = copy(images)
            images.normalize = None  # the augmentation does it, last
            self.augment = Augmentation(self.transforms, self.normalize, 0.0, images, 0)
            check_keeps_shape(
                self.transforms,
                images[0]["image"],
                self.input_shape,
                "let augment end in the size of evaluation",
            )

    def serve_evaluated(
        self, stage: Literal["val", "test"], images: BatchedDataset, pairs: Mapping[str, Pairs]
    ) -> None:
        """Serve images as the validation or the test set, which is predicted, too."""
        self._pairs[stage] = dict(pairs)
        if stage == "val":
            self.val_set = images
        else:
            self.test_set = images
        if stage == "test" or self.predict_set is None:
            self.predict_set = images

    def _use_preparation(self) -> None:
        self.normalize = self._given_normalize
        super()._use_preparation()
        if self.normalize is None and not self.trained:
            self.normalize = Normalize(*NORMALIZATIONS["symmetric"])

    def _use_classes(self, parts: Splits) -> None:
        """Keep the classes of training: identities that are verified are none of them."""
        trained: Facts = self.trained
        if "num_classes" in trained:
            self.num_classes = trained["num_classes"]
            self.class_names = trained.get("class_names")


def _flip() -> list[nn.Module]:
    from torchvision.transforms import v2

    return [v2.RandomHorizontalFlip(0.5)]
