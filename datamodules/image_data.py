"""Base of the datamodules of images: their parts, and the shape and scale of an image."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import torch

from datamodules.augmentation import Normalize
from datamodules.image_datasets import ImageSet
from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts, match_classes
from framework.data.raw_inputs import as_images


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
    resize: int | None = None
    """What the shorter side of a picture is resized to before the crop; default ``image_size``."""

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
        """Return the data set, its labels clean; set ``input_shape`` where the files decide it."""
        raise NotImplementedError

    def use_facts(self, facts: Facts) -> None:
        """Prepare images as those that a model was trained on; call it before ``setup``."""
        super().use_facts(facts)
        self._use_preparation()

    def _use_preparation(self) -> None:
        """Take size, channels and scale from training where no argument says otherwise."""
        trained = self.trained
        if getattr(self, "input_shape", None) is None and "input_shape" in trained:
            channels, height, width = trained["input_shape"]
            self.input_shape = (channels, height, width)
            self.resize = trained.get("resize") if self.resize is None else self.resize
        if self.normalize is None and "normalize" in trained:
            self.normalize = Normalize(**trained["normalize"])

    def _use_classes(self, parts: Splits) -> None:
        """Number the classes as in training, by their names."""
        names = self.trained.get("class_names")
        if names is None:
            return
        if self.class_names is not None and list(self.class_names) != names:
            source = getattr(self, "origin", type(self).__name__)
            numbers = torch.tensor(match_classes(self.class_names, names, source))
            for images in parts:
                if images is not None and "label" in images.fields:
                    images.fields = {**images.fields, "label": numbers[images.fields["label"]]}
        self.class_names = names
        self.num_classes = len(names)

    def read_normalized(self) -> Splits:
        """Return what ``read`` does, with ``mean`` and ``std`` applied."""
        self._use_preparation()
        parts = self.read()
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
