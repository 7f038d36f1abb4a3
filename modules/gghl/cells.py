"""The cells of all feature levels, for each of which the network predicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """The N cells of all levels, ordered by level, row and column.

    Args:
        center: Centers x and y in pixels, (N, 2) float32.
        stride: Strides in pixels, (N,) float32.
        level: Levels, (N,) int64.
        shapes: Rows and columns of each level.
        strides: Stride of each level.
        image_size: Height and width of the image in pixels.
    """

    center: Tensor
    stride: Tensor
    level: Tensor
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    image_size: tuple[int, int]

    @classmethod
    def of(
        cls,
        image_size: tuple[int, int],
        strides: tuple[int, ...] = (8, 16, 32),
        device: torch.device | str | None = None,
    ) -> Cells:
        """Return the cells of an image; column i, row j is centered at ((i + ½) s, (j + ½) s).

        Example:
            >>> from modules.gghl.cells import Cells
            >>> cells = Cells.of((64, 96))
            >>> cells.shapes
            ((8, 12), (4, 6), (2, 3))
            >>> cells.center[-1].tolist()
            [80.0, 48.0]
        """
        device = torch.get_default_device() if device is None else torch.device(device)
        return _made_once(tuple(image_size), tuple(strides), device)


@lru_cache(maxsize=64)
def _made_once(
    image_size: tuple[int, int], strides: tuple[int, ...], device: torch.device
) -> Cells:
    # a convolution of stride 2 keeps the last, incomplete cell
    shapes = tuple((-(-image_size[0] // s), -(-image_size[1] // s)) for s in strides)
    centers, numbers = [], [rows * columns for rows, columns in shapes]
    # those of a first validation also serve training, which takes no tensor of inference mode
    with torch.inference_mode(False), torch.device("cpu"):
        for (rows, columns), s in zip(shapes, strides, strict=True):
            y = (torch.arange(rows) + 0.5) * s
            x = (torch.arange(columns) + 0.5) * s
            centers.append(torch.cartesian_prod(y, x).flip(1))
        level = torch.arange(len(strides)).repeat_interleave(torch.tensor(numbers))
        stride = torch.tensor(strides, dtype=torch.float32)[level]
        placed = [value.to(device) for value in (torch.cat(centers), stride, level)]
    center, stride, level = placed
    return Cells(center, stride, level, shapes, strides, image_size)
