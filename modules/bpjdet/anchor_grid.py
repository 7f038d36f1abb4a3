"""The predictions of all feature levels: the cell, the stride and the anchor of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

BOX_CHANNELS = 5
"""Center, size and objectness of a prediction; classes, points and states follow."""
OBJECTNESS = 4
"""Channel of the objectness."""


@dataclass(frozen=True)
class AnchorGrid:
    """The N predictions of all levels, ordered by level, anchor, row and column.

    A head's map (B, A (5 + C + 2K), H, W) comes into this order by
    ``map.unflatten(1, (A, -1)).movedim(2, -1).flatten(1, 3)``.

    Args:
        cell: Columns i and rows j, (N, 2) float32.
        stride: Strides in pixels, (N,) float32.
        anchor: Widths and heights of the anchors in pixels, (N, 2).
        shapes: Rows and columns of each level.
        num_anchors: Number A of anchors of a level.
        image_size: Height and width of the image in pixels.
    """

    cell: Tensor
    stride: Tensor
    anchor: Tensor
    shapes: tuple[tuple[int, int], ...]
    num_anchors: int
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.stride)

    @property
    def sizes(self) -> list[int]:
        """Number of predictions of each level."""
        return [self.num_anchors * prod(shape) for shape in self.shapes]

    @classmethod
    def of(
        cls, image_size: tuple[int, int], anchors: Tensor, strides: Sequence[int] = (8, 16, 32, 64)
    ) -> AnchorGrid:
        """Return the predictions for an image, on the device of the anchors.

        Args:
            image_size: Height and width in pixels.
            anchors: Widths and heights in pixels, (L, A, 2).
            strides: Strides of the L levels.

        Raises:
            ValueError: Anchors and strides do not fit.

        Example:
            >>> import torch
            >>> from modules.bpjdet.anchor_grid import AnchorGrid
            >>> grid = AnchorGrid.of((64, 96), torch.ones(2, 3, 2), strides=(16, 32))
            >>> grid.shapes, grid.sizes
            (((4, 6), (2, 3)), [72, 18])
            >>> grid.cell[7].tolist(), grid.stride[-1].item()
            ([1.0, 1.0], 32.0)
        """
        check_anchors(anchors, strides)
        number = anchors.shape[1]
        height, width = image_size
        size = (height, width)
        cell, stride, kind, shapes = _made_once(size, tuple(strides), number, anchors.device)
        return cls(cell, stride, anchors.flatten(0, 1)[kind], shapes, number, size)


def check_anchors(anchors: Tensor, strides: Sequence[int]) -> None:
    """Raise ``ValueError`` unless anchors are (L, A, 2) for these L ascending strides."""
    if list(strides) != sorted(set(strides)) or not strides or strides[0] < 1:
        raise ValueError(f"strides must be ascending numbers, got {tuple(strides)}.")
    if anchors.ndim != 3 or anchors.shape[2] != 2 or len(anchors) != len(strides):
        raise ValueError(
            f"anchors must be ({len(strides)}, A, 2) for the strides {tuple(strides)}, got "
            f"{tuple(anchors.shape)}."
        )


def check_raw(raw: Tensor, grid: AnchorGrid, channels: int) -> None:
    """Raise ``ValueError`` unless ``raw`` is (B, N, channels) for these N predictions."""
    if raw.ndim != 3 or raw.shape[1:] != (len(grid), channels):
        raise ValueError(
            f"The head's output must be (B, {len(grid)}, {channels}) for an image of "
            f"{grid.image_size}, got {tuple(raw.shape)}."
        )


def level_shapes(
    image_size: tuple[int, int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return rows and columns of each level."""
    # a convolution of stride 2 keeps the last, incomplete cell
    return tuple((-(-image_size[0] // s), -(-image_size[1] // s)) for s in strides)


@lru_cache(maxsize=64)
def _made_once(
    image_size: tuple[int, int], strides: tuple[int, ...], number: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """Return cells, strides, numbers of the anchors among all, and the levels' shapes."""
    shapes = level_shapes(image_size, strides)
    cells, kinds = [], []
    # those of a first validation also serve training, which takes no tensor of inference mode
    with torch.inference_mode(False), torch.device("cpu"):
        for level, (rows, columns) in enumerate(shapes):
            kind = torch.arange(level * number, (level + 1) * number)
            grid = torch.cartesian_prod(kind, torch.arange(rows), torch.arange(columns))
            kinds.append(grid[:, 0])
            cells.append(grid[:, 1:].flip(1).float())
        kind = torch.cat(kinds)
        stride = torch.tensor(strides, dtype=torch.float32)[kind // number]
        cell, stride, kind = (value.to(device) for value in (torch.cat(cells), stride, kind))
    return cell, stride, kind, shapes
