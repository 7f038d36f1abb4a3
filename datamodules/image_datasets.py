"""Data sets of images: in memory, on files, or several joined to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from framework.data.datasets import ArrayDataset, Batch, BatchedDataset, Sample
from framework.data.image_files import ImagePath
from framework.data.raw_inputs import as_images
from framework.data.tar_files import Member


class ImageSet(ArrayDataset):
    """Images in memory, yielded as ``image`` (C, H, W) float32 with the other fields.

    Takes ``image`` (N, C, H, W), uint8 or float32 in [0, 1], and ``label`` (N,) int64. A subclass
    that reads its images from elsewhere overrides ``read`` and ``followed_by``.

    Example:
        >>> image = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
        >>> images = ImageSet(image=image, label=torch.arange(2))
        >>> float(images[1]["image"].max()), int(images[1]["label"])
        (1.0, 1)
    """

    normalize: Callable[[Tensor], Tensor] | None = None
    """Applied to the (B, C, H, W) images of every batch."""

    def read(self, rows: Tensor) -> Batch:
        """Return the rows with ``image`` in [0, 1], not normalized."""
        return super().batch(rows)

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        batch = self.read(torch.as_tensor(rows, dtype=torch.int64))
        if self.normalize is not None:
            batch["image"] = self.normalize(batch["image"])
        return batch

    def __getitem__(self, row: int) -> Sample:
        return {name: value[0] for name, value in self.batch([row]).items()}

    def relabeled(self, label: Tensor) -> ImageSet:
        """Return the same images under other labels, the present ones as ``clean_label``."""
        other = copy(self)
        other.fields = {**self.fields, "label": label, "clean_label": self.fields["label"]}
        return other

    def followed_by(self, *others: Self) -> Self:
        """Return these images and then those of other parts of the same data set."""
        joined = copy(self)
        joined.fields = {
            name: torch.cat([value, *(other.fields[name] for other in others)])
            for name, value in self.fields.items()
        }
        return joined


class ImageFiles(ImageSet):
    """Images that are decoded when they are read.

    Args:
        paths: Files of the N images.
        label: Labels (N,) int64, or None where the images have none.
        root: Folder that the files lie in.
        shape: Shape (C, H, W) of an image: C is 3 for RGB and 1 for gray; H and W are cropped from
            its center.
        resize: Length that the shorter side is resized to before; default what covers H and W.
    """

    decodes = True
    """Reading a sample is work that loading processes should do."""

    def __init__(
        self,
        paths: Sequence[ImagePath],
        label: Tensor | None,
        root: str | Path,
        shape: tuple[int, int, int],
        resize: int | None = None,
    ) -> None:
        # without the base class, which takes its length from a field
        self.fields = {} if label is None else {"label": label}
        # a list of strings would be copied page by page in workers
        self.paths = np.array([str(path) for path in paths])
        self.root = root
        self.shape = shape
        self.resize = resize

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> list[str]:
        """Path of each file, relative to ``root``."""
        return [os.path.relpath(path, self.root) for path in self.paths.tolist()]

    def path(self, row: int) -> ImagePath:
        """Return where the image of a row is."""
        return str(self.paths[row])

    def followed_by(self, *others: Self) -> Self:
        """Return these images and then those of other parts of the same data set."""
        joined = super().followed_by(*others)
        joined.paths = np.concatenate([self.paths, *(other.paths for other in others)])
        return joined

    def read(self, rows: Tensor) -> Batch:
        """Return the rows with their images decoded."""
        image = torch.empty(len(rows), *self.shape, dtype=torch.float32)
        for i, row in enumerate(rows.tolist()):
            image[i] = as_images(self.path(row), self.shape, self.resize)[0]
        return {"image": image, **super().read(rows)}


class ImageMembers(ImageFiles):
    """Images in tar files that are read, each by its place, when they are needed.

    Args:
        paths: Members of the N images.
        *others: Further arguments of ``ImageFiles``.
    """

    def __init__(self, paths: Sequence[ImagePath], *others: Any) -> None:
        super().__init__(paths, *others)
        members = [path for path in paths if isinstance(path, Member)]
        self.places = np.array(
            [(len(member.tar), member.offset, member.size, *member.state) for member in members],
            dtype=np.int64,
        ).reshape(-1, 5)

    def path(self, row: int) -> Member:
        """Return where the image of a row is."""
        path = str(self.paths[row])
        length, offset, size, *state = self.places[row].tolist()
        return Member(path[:length], path[length + 1 :], offset, size, (state[0], state[1]))

    def followed_by(self, *others: Self) -> Self:
        """Return these images and then those of other parts of the same data set."""
        joined = super().followed_by(*others)
        joined.places = np.concatenate([self.places, *(other.places for other in others)])
        return joined


class JoinedImages(BatchedDataset):
    """The images of several sets, one after another, under fields of their own.

    Gray images are repeated to as many channels as there are, images of another size are resized by
    antialiased bilinear interpolation, then the center is cropped, then each set's normalization is
    applied. Images on files are decoded when they are read.

    Args:
        parts: Sets of N images together, whose other fields are not used.
        fields: Tensors of length N, such as ``label`` (N,).
        shape: Shape (C, H, W) that images are brought to, before the crop.
        crop: Width and height of the central square that is cropped; default none.
        normalize: Whether the normalization is applied.

    Example:
        >>> gray = ImageSet(image=torch.ones(2, 1, 4, 4), label=torch.arange(2))
        >>> color = ImageSet(image=torch.zeros(3, 3, 8, 8), label=torch.arange(3))
        >>> images = JoinedImages([gray, color], {"label": torch.arange(5)}, (3, 4, 4))
        >>> batch = images.batch([4, 0])
        >>> batch["image"].shape, batch["image"].mean((1, 2, 3)), batch["label"]
        (torch.Size([2, 3, 4, 4]), tensor([0., 1.]), tensor([4, 0]))
    """

    def __init__(
        self,
        parts: Sequence[ImageSet],
        fields: dict[str, Tensor],
        shape: tuple[int, int, int],
        crop: int | None = None,
        normalize: bool = True,
    ) -> None:
        self.parts = list(parts)
        self.decodes = any(getattr(part, "decodes", False) for part in parts)
        self.fields = fields
        self.shape = shape
        self.crop = crop
        self.normalize = normalize

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        channels, height, width = self.shape
        size = (height, width) if self.crop is None else (self.crop, self.crop)
        image = torch.empty(len(rows), channels, *size, dtype=torch.float32)
        first = 0
        for part in self.parts:
            mine = (rows >= first) & (rows < first + len(part))
            image[mine] = self._view(part, rows[mine] - first)  # gray goes to every channel
            first += len(part)
        return {"image": image, **{name: value[rows] for name, value in self.fields.items()}}

    def _view(self, part: ImageSet, rows: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as transforms

        image = transforms.resize(part.read(rows)["image"], list(self.shape[1:]))
        if self.crop is not None:
            image = transforms.center_crop(image, [self.crop, self.crop])
        return part.normalize(image) if self.normalize and part.normalize is not None else image
