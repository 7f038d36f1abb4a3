"""The first images of an evaluation with numbers about what was and what should be found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.detection.pictures import as_bytes
from framework.utilities.checks import check_at_least
from framework.utilities.packed_copy import copy_packed


class ImageSamples(Metric):
    """Base of metrics that keep the images with the lowest indices and what was found on them.

    Memory is fixed, and batches and ranks do not matter. A subclass says what it keeps of an image,
    by ``rows_of``, and how that is read, by ``compute``.

    Args:
        image_shape: (C, H, W).
        images: Number of images kept, P.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: P below 1, or images of another shape.
    """

    full_state_update = True
    is_differentiable = False
    shape: ClassVar[tuple[int, int]]
    """(n, columns) of the numbers of an image, for detections and for true objects each."""
    image: Tensor
    index: Tensor
    objects: Tensor

    def __init__(self, image_shape: Sequence[int], images: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, images=images)
        self.image_shape = tuple(image_shape)
        image = torch.zeros(images, *image_shape, dtype=torch.uint8)
        self.add_state("image", image, dist_reduce_fx=None)
        # an empty place comes after every image; ranks are stacked
        empty = torch.full((images,), torch.iinfo(torch.int64).max)
        self.add_state("index", empty, dist_reduce_fx=None)
        objects = torch.full((images, 2, *self.shape), -1.0)
        self.add_state("objects", objects, dist_reduce_fx=None)

    def rows_of(self, found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
        """Return what is kept of an image, (2, n, columns)."""
        raise NotImplementedError(f"{type(self).__name__} keeps nothing.")

    def update(
        self,
        image: Tensor,
        found: Sequence[dict[str, Tensor]],
        truth: Sequence[dict[str, Tensor]],
        index: Tensor,
    ) -> None:
        """Keep those images of a batch that come before the ones kept so far.

        Args:
            image: (B, C, H, W) in [0, 1].
            found: Detections of each image, best first.
            truth: True objects of each image.
            index: (B,) int64 stable number of the image.
        """
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(
                f"The images are {tuple(image.shape[1:])}, but those of the figure were to be "
                f"{self.image_shape}."
            )
        last = int(self.index.max())
        chosen = [row for row, number in enumerate(index.tolist()) if number < last]
        if not chosen:
            return
        added = {
            "index": torch.stack([index[row] for row in chosen]),
            "objects": torch.stack([self.rows_of(found[row], truth[row]) for row in chosen]),
        }
        added = copy_packed(added, self.index.device)
        pixels = as_bytes(torch.stack([image[row] for row in chosen]))
        joined = (
            torch.cat([self.image, pixels]),
            torch.cat([self.index, added["index"]]),
            torch.cat([self.objects, added["objects"].to(self.objects.dtype)]),
        )
        order = joined[1].argsort(stable=True)[: len(self.index)]
        self.image, self.index, self.objects = (state[order] for state in joined)

    def kept(self) -> tuple[Tensor, Tensor]:
        """Return the images (P, C, H, W) uint8 and their numbers (P, 2, n, columns), of all ranks.

        Torchmetrics makes scalars of tensors with one element, so lists of tensors that are not
        filled up would not keep their shapes.
        """
        image, index, objects = self.image, self.index, self.objects
        if index.ndim == 2:
            places = index.shape[1]
            image, index, objects = (state.flatten(0, 1) for state in (image, index, objects))
            order = index.argsort(stable=True)[:places]
            image, index, objects = image[order], index[order], objects[order]
        filled = index < torch.iinfo(torch.int64).max
        return image[filled], objects[filled]


def filled_up(columns: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """Return columns (n,) or (n, k) as rows of numbers, cut and filled up with -1 to a shape.

    Example:
        >>> filled_up([torch.tensor([5, 6, 7]), torch.zeros(3, 1)], (2, 2)).tolist()
        [[5.0, 0.0], [6.0, 0.0]]
    """
    columns = [column[: shape[0]] for column in columns]
    parts = [column.flatten(1) if column.ndim > 1 else column[:, None] for column in columns]
    rows = parts[0].new_full(shape, -1, dtype=torch.float32)
    rows[: len(parts[0])] = torch.cat([part.to(rows) for part in parts], 1)
    return rows
