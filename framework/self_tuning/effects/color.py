"""Changes of color by a factor of each image, as torchvision makes them by one factor.

Images are (B, C, H, W) in [0, 1] with one or three channels; factors are (B, 1, 1, 1) or ().
"""

from __future__ import annotations

import torch
from torch import Tensor


def grayscale(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images, and others themselves."""
    if images.shape[1] == 1:
        return images
    r, g, b = images.split(1, dim=1)
    return 0.2989 * r + 0.587 * g + 0.114 * b


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return the images times ``factor``, a number of at least 0."""
    return (images * factor).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return the images with distances from their mean luma times ``factor``."""
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return the images with distances from their luma times ``factor``."""
    return images if images.shape[1] == 1 else _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Return the images with hues turned by ``factor`` of a whole turn, in [-0.5, 0.5]."""
    if images.shape[1] == 1 or not len(images):
        return images
    r, g, b = images.split(1, dim=1)
    low, high = images.aminmax(dim=1, keepdim=True)
    chroma = high - low
    # of gray, hues do not matter
    width = torch.where(chroma > 0, chroma, 1)
    sixth = torch.where(
        high == r,
        (g - b) / width,
        torch.where(high == g, (b - r) / width + 2, (r - g) / width + 4),
    )
    turned = sixth + 6 * factor
    # 5, 3 and 1, of red, green and blue
    offsets = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)
    k = (turned + offsets.view(1, 3, 1, 1)).remainder(6)
    return (high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)).clamp(0, 1)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * others).clamp(0, 1)
