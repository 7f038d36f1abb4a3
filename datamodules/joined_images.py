"""Images of several data sets as one, brought to one shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.image_set import ImageSet
from framework.data.datasets import Batch, BatchedDataset


class JoinedImages(BatchedDataset):
    """The images of several sets, one after another, under fields of their own.

    Gray images are repeated to as many channels as there are, images of another size are resized by
    antialiased bilinear interpolation, then the center is cropped, then each set's normalization is
    applied. Images on files are decoded when they are read.

    Args:
        parts: the sets, of N images together; their fields but the image are not used.
        fields: tensors of length N, such as ``label`` (N,).
        shape: (C, H, W) that images are brought to, before the crop.
        crop: size of the square that is cropped; default none.
        normalize: whether the normalization is applied.

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
