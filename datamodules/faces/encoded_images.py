"""A data set of encoded images in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.image_datasets import ImageFiles
from framework.data.encoded_image import EncodedImage


class EncodedImages(ImageFiles):
    """Encoded images in memory, decoded when they are read.

    Args:
        images: Contents of the N images, and their names for messages.
        root: File that they come from.
        shape: Shape (C, H, W), see ``ImageFiles``.
        resize: Length that the shorter side is resized to, see ``ImageFiles``.
    """

    def __init__(
        self,
        images: Sequence[EncodedImage],
        root: Path,
        shape: tuple[int, int, int],
        resize: int | None = None,
    ) -> None:
        super().__init__((), None, root, shape, resize)
        self.images = list(images)
        self.paths = np.arange(len(images))

    @property
    def names(self) -> list[str]:
        """Name of each image, without the folder."""
        return [os.path.basename(self.path(row).name) for row in range(len(self))]

    def path(self, row: int) -> EncodedImage:
        """Return the image of a row."""
        return self.images[self.paths[row]]
