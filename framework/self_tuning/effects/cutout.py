"""Squares that are cut out of images, in a tuned number and size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.hyperparameter import HyperParameter

LENGTH = HyperParameter(init=4, low=0, high=24, discrete=True)
"""Range of the length in the paper, for images of 32 x 32 pixels."""

HOLES = HyperParameter(init=1, low=0, high=4, discrete=True)
"""Range of the number of holes in the paper."""


class Cutout(InputEffect):
    """Sets squares of each image to one value, at random places.

    Each image has its own number of squares and their own length. The middle of a square is any
    pixel, so that it may reach beyond the border.

    Shapes: images (B, C, H, W).

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088; cutout is by DeVries
    and Taylor, arXiv:1708.04552. The former's code begins at a length of 3, see ``HyperParameter``.

    Args:
        field: Field of a batch that holds the images.
        name: Prefix of the hyperparameters' names, ``NAME.length`` and ``NAME.holes``.
        length: Length of a square's side in pixels, a whole number of at least 0.
        holes: Number of squares, a whole number of at least 0.
        fill: Value in the squares; 0 is the mean of normalized images.

    Raises:
        ValueError: A range goes below 0; in a step, a field that holds no images.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Cutout, Draws
        >>> cutout = Cutout()
        >>> values = {"length": torch.tensor([2.0, 2.0]), "holes": torch.tensor([0.0, 1.0])}
        >>> with cutout.at(values, Draws(seed=0, step=0)):
        ...     image = cutout.change_batch({"image": torch.ones(2, 1, 4, 4)})["image"]
        >>> (image == 0).sum((1, 2, 3))
        tensor([0, 4])
    """

    def __init__(
        self,
        field: str = "image",
        name: str = "cutout",
        length: HyperParameter = LENGTH,
        holes: HyperParameter = HOLES,
        fill: float = 0.0,
    ) -> None:
        limited = {
            "length": length.within(f"{name}.length", LENGTH, low=0),
            "holes": holes.within(f"{name}.holes", HOLES, low=0),
        }
        super().__init__(field, name, limited)
        self.fill = fill

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the images ``x`` with squares cut out."""
        if x.ndim != 4:
            raise ValueError(
                f"{self.name} cuts squares out of images (B, C, H, W), but the field "
                f"{self.field!r} has the shape {tuple(x.shape)}."
            )
        most = math.ceil(self.hyperparameters["holes"].range[1]) - 1
        uniform = draws.uniform(self.stream(self.field), len(x), 2, most, device=x.device)
        length, holes = self.value_of("length", x), self.value_of("holes", x)
        sides = length if length.ndim == 0 else length[..., 0]
        rows, columns = (inside(uniform[:, axis], sides, x.shape[2 + axis]) for axis in (0, 1))
        return torch.where(cut_pixels(rows, columns, holes), self.fill, x)


def cut_pixels(rows: Tensor, columns: Tensor, holes: Tensor) -> Tensor:
    """Return which pixels lie in one of the first squares.

    Args:
        rows: Whether a row of pixels meets a square, (B, K, H) bool.
        columns: Whether a column does, (B, K, W) bool.
        holes: Number of squares that count, (B, 1, 1, 1) or ().

    Returns:
        (B, 1, H, W) bool.
    """
    number = torch.arange(rows.shape[1], device=rows.device).view(1, -1, 1, 1)
    squares = rows[..., None] & columns[..., None, :] & (number < holes)
    return squares.any(1, keepdim=True)


def inside(uniform: Tensor, length: Tensor, size: int) -> Tensor:
    """Return which of ``size`` pixels on an axis lie in squares around random ones.

    Args:
        uniform: Numbers in [0, 1), (B, K).
        length: Whole numbers, (B, 1, 1) or ().
        size: Number of pixels.

    Returns:
        (B, K, size) bool.
    """
    first = torch.floor(uniform * size)[..., None] - torch.floor(length / 2)
    pixel = torch.arange(size, device=uniform.device)
    return (pixel >= first) & (pixel < first + length)
