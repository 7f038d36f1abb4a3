"""Base of the datamodules of images: their parts, and the shape and scale of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from datamodules.augmentation import Normalize
from datamodules.image_datasets import ImageFiles, ImageSet
from datamodules.image_shape import usual_shape
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts, match_classes
from framework.data.image_files import ImagePath
from framework.data.raw_inputs import as_images
from framework.utilities.checks import check_at_least, check_one_of

DEFAULT_SHAPE = (3, 224, 224)
"""Shape (C, H, W) that image files are brought to where nothing else is known."""


@dataclass(frozen=True)
class ImageGeometry:
    """Shape that image files are brought to; what is None follows training, or a default.

    Args:
        image_size: Side of a square, or height and width (H, W).
        channels: Channels: 3 for RGB, 1 for gray.
        resize: Length that the shorter side is resized to before the crop, at least ``image_size``.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> ImageGeometry((32, 64), None, None).shape({"input_shape": [1, 8, 8]})
        (1, 32, 64)
    """

    image_size: int | tuple[int, int] | None
    channels: int | None
    resize: int | None

    def __post_init__(self) -> None:
        channels, *size = self.shape({})
        check_at_least(1, image_size=min(size))
        check_one_of((1, 3), channels=channels)
        if self.resize is not None and self.image_size is not None and self.resize < max(size):
            raise ValueError(
                f"resize must be at least image_size={self.image_size}, got {self.resize}."
            )

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to training or to the files."""
        return self.image_size is not None and self.channels is not None

    def shape(self, trained: Facts) -> tuple[int, int, int]:
        """Return (C, H, W), by the facts of training."""
        channels, height, width = trained.get("input_shape", DEFAULT_SHAPE)
        if self.image_size is not None:
            size = self.image_size
            height, width = (size, size) if isinstance(size, int) else size
        return (channels if self.channels is None else self.channels), height, width

    def shorter_side(self, trained: Facts) -> int | None:
        """Return the length that the shorter side is resized to; None for what covers the crop."""
        as_trained = self.image_size is None and self.resize is None
        return trained.get("resize") if as_trained else self.resize


class Splits(NamedTuple):
    """Parts of a data set; a validation set that is None may be split off the training set.

    The training set is the full one.
    """

    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None


class ImageOptions(BatchOptions, total=False):
    """Arguments of ``ImageData``."""

    mean: list[float] | None
    std: list[float] | None


class ImageData(DataModule):
    """Base of the datamodules of images.

    Batches hold ``image`` (B, C, H, W) float32 in [0, 1] unless normalized. A subclass sets
    ``input_shape`` and, where there are labels, ``num_classes``, implements ``read``, and
    serves in ``setup`` what ``read_normalized`` returns.

    The remaining arguments are those of ``DataModule``.

    Args:
        mean: Value per channel that is subtracted from images in [0, 1], after everything else;
            together with ``std``. One half each scales images to [-1, 1].
        std: Value per channel that images are divided by after ``mean`` is subtracted.

    Raises:
        ValueError: ``mean`` without ``std``, a std that is not positive, or (when the images are
            read) another number of values than channels.
    """

    input_shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    geometry: ImageGeometry | None = None
    """What decides on ``input_shape`` where images are brought to it from files."""
    kind_of_files: type[ImageFiles] = ImageFiles
    """Data set of images on files."""
    resize: int | None = None
    """What the shorter side of a picture is resized to before the crop; default what covers it."""

    def __init__(
        self,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        if (mean is None) != (std is None):
            raise ValueError("mean and std must be given together.")
        self.normalize = Normalize(mean, std) if mean is not None and std is not None else None

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.input_shape[0]

    def as_batch(self, inputs: Any) -> Batch:
        """Return images as a normalized batch; see ``as_images`` for what they may be."""
        image = as_images(inputs, getattr(self, "input_shape", None), self.resize)
        return {"image": image if self.normalize is None else self.normalize(image)}

    def read(self) -> Splits:
        """Return the data set, its labels clean; set ``input_shape`` where the files decide it.

        Raises:
            TypeError: The data serve parts in ``setup`` only, such as pairs or episodes.
        """
        raise TypeError(
            f"{type(self).__name__} serves more than images, and cannot be wrapped as a set of "
            "them: give another datamodule of images."
        )

    def use_facts(self, facts: Facts) -> None:
        """Prepare images as those that a model was trained on; call it before ``setup``."""
        super().use_facts(facts)
        self._use_preparation()

    def _use_preparation(self) -> None:
        """Take size, channels and scale from training where no argument says otherwise."""
        trained = self.trained
        if self.geometry is not None:
            if self.geometry.is_complete or "input_shape" in trained:
                self.input_shape = self.geometry.shape(trained)
            self.resize = self.geometry.shorter_side(trained)
        if self.normalize is None and "normalize" in trained:
            self.normalize = Normalize(**trained["normalize"])

    def images_of(self, paths: Sequence[ImagePath], label: Tensor | None) -> ImageFiles:
        """Return files in ``place`` as images, and let them say what ``geometry`` leaves open.

        Args:
            paths: Files of the N images, or members of tar files.
            label: Labels (N,) int64, or None where the images have none.
        """
        assert self.place is not None
        if self.geometry is not None and not hasattr(self, "input_shape"):
            self.input_shape = self.geometry.shape({"input_shape": usual_shape(paths)})
        return self.kind_of_files(paths, label, self.place, self.input_shape, self.resize)

    def _use_classes(self, parts: Splits) -> None:
        """Number the classes as in training, by their names, where there are labels."""
        names = self.trained.get("class_names")
        labeled = [images for images in parts if images is not None and "label" in images.fields]
        if names is None or not labeled:
            return
        if self.class_names is not None and list(self.class_names) != names:
            numbers = torch.tensor(match_classes(self.class_names, names, self.origin[0]))
            for images in labeled:
                label = images.fields["label"]
                # those below 0 are not known
                label = torch.where(label < 0, label, numbers[label.clamp(min=0)])
                images.fields = {**images.fields, "label": label}
        self.class_names = names
        self.num_classes = len(names)

    def read_normalized(self) -> Splits:
        """Return what ``read`` does, with ``mean`` and ``std`` applied."""
        self._use_preparation()
        return self._prepared(self.read())

    def _prepared(self, parts: Splits) -> Splits:
        """Let parts number their classes as in training, and apply ``mean`` and ``std``."""
        self._use_classes(parts)
        if self.normalize is not None and len(self.normalize.mean) not in (1, self.in_channels):
            raise ValueError(
                f"mean has {len(self.normalize.mean)} values for images of {self.in_channels} "
                "channels."
            )
        for images in parts:
            if images is not None:
                images.normalize = self.normalize
        return parts
