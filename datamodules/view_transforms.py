"""The usual random transforms that make the views of contrastive learning."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

SMALLEST_BLURRED = 16
"""Shortest side that is blurred: a smaller image has no detail to spare."""


def view_transforms(shape: Sequence[int]) -> list[nn.Module]:
    """Return the random transforms of a view for images of a shape.

    Color images get those of SimCLR (arXiv:2002.05709) with the strengths of iSogCLR
    (arXiv:2305.11965): a crop of 20 % to 100 % of the area, a flip, other colors with probability
    0.8, gray with 0.2 and blur with 0.5. Gray images, which often are of characters, keep their
    sides, for a mirrored one is another: they get a turn of up to 15 degrees, a crop of 40 % to
    100 % and another brightness and contrast. Sides under 16 pixels are not blurred.

    Args:
        shape: Shape (C, H, W) of an image, C 1 or 3.

    Raises:
        ValueError: Another number of channels.

    Example:
        >>> [type(step).__name__ for step in view_transforms((1, 8, 8))]
        ['RandomRotation', 'RandomResizedCrop', 'RandomApply']
    """
    from torchvision.transforms import v2

    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(
            f"There are usual views of images of 1 or 3 channels, not of {channels}: set augment."
        )
    if channels == 3:
        steps: list[nn.Module] = [
            v2.RandomResizedCrop((height, width), scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
        ]
    else:
        steps = [
            v2.RandomRotation(15.0, v2.InterpolationMode.BILINEAR),
            v2.RandomResizedCrop((height, width), scale=(0.4, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4)], p=0.8),
        ]
    if (side := min(height, width)) >= SMALLEST_BLURRED:
        # as in SimCLR, the kernel spans a tenth of the image
        kernel = max(3, side // 10 // 2 * 2 + 1)
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5))
    return steps
