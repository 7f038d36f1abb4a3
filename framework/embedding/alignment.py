"""Alignment of faces by five landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.utilities.checks import check_at_least

TEMPLATE_SIZE = 112
FACE_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture, (x, y) in
pixels of an aligned face of 112 x 112, as InsightFace has them; 0 is the middle of a pixel."""


def similarity_transform(points: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the rotation, scale and shift that bring points closest to others.

    It minimizes the sum of squared distances in closed form (Umeyama 1991, in two dimensions); a
    reflection is not allowed. Points are taken for complex numbers: the factor of the best map
    ``a z + b`` is the covariance of both lists by the variance of the first.

    Args:
        points: K >= 2 points (x, y), (..., K, 2), not all the same.
        target: Points (..., K, 2) that they are brought to; default ``FACE_TEMPLATE``.

    Returns:
        Matrices (..., 2, 3) that take (x, y, 1) to the target, float64.

    Raises:
        ValueError: other shapes, or points that are all the same.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> larger = 2 * points + torch.tensor([5.0, 3.0])
        >>> [round(value, 6) for value in similarity_transform(points, larger)[0].abs().tolist()]
        [2.0, 0.0, 5.0]
    """
    if target is None:
        target = torch.tensor(FACE_TEMPLATE, device=points.device)
    shapes = tuple(points.shape[-2:]), tuple(target.shape[-2:])
    if shapes[0] != shapes[1] or shapes[0][-1:] != (2,) or shapes[0][0] < 2:
        raise ValueError(
            f"Points and target must both be (..., K, 2) with K at least 2, got {shapes[0]} and "
            f"{shapes[1]}."
        )
    source, goal = (torch.view_as_complex(part.double().contiguous()) for part in (points, target))
    source_mean, goal_mean = (part.mean(-1, keepdim=True) for part in (source, goal))
    centered = source - source_mean
    variance = (centered * centered.conj()).real.sum(-1)
    if not bool((variance > 0).all()):
        raise ValueError("Points that are all the same, or no numbers, cannot be aligned.")
    factor = (centered.conj() * (goal - goal_mean)).sum(-1) / variance
    shift = goal_mean[..., 0] - factor * source_mean[..., 0]
    first = torch.stack([factor.real, -factor.imag, shift.real], -1)
    return torch.stack([first, torch.stack([factor.imag, factor.real, shift.imag], -1)], -2)


def align_face(
    image: Tensor, landmarks: Tensor | Sequence[Sequence[float]], size: int = TEMPLATE_SIZE
) -> Tensor:
    """Return the face in an image, upright, in the middle and of one size.

    The landmarks are brought to those of ``FACE_TEMPLATE`` by ``similarity_transform``, and pixels
    are interpolated bilinearly, black outside of the image. Images much larger than the face are
    not smoothed before, as InsightFace does not.

    Args:
        image: Image (C, H, W), uint8 or floating-point.
        landmarks: Left eye, right eye, nose, left and right corner of the mouth, as seen in the
            picture, as (x, y) in pixels, (5, 2); 0 is the middle of the first pixel.
        size: Width and height S of the result.

    Returns:
        The aligned face (C, S, S), of the type of ``image``.

    Raises:
        ValueError: another shape, or landmarks that are all the same.

    Example:
        >>> image = torch.zeros(3, 200, 300, dtype=torch.uint8)
        >>> align_face(image, [[130, 80], [170, 80], [150, 105], [134, 125], [166, 125]]).shape
        torch.Size([3, 112, 112])
    """
    check_at_least(1, size=size)
    if image.ndim != 3:
        raise ValueError(f"The image must be (C, H, W), got {tuple(image.shape)}.")
    points = torch.as_tensor(landmarks, dtype=torch.float64, device=image.device)
    template = torch.tensor(FACE_TEMPLATE, dtype=torch.float64, device=image.device)
    # from the aligned face back to the image
    matrix = torch.linalg.inv(
        _square(similarity_transform(points, template * size / TEMPLATE_SIZE))
    )
    place = torch.arange(size, dtype=torch.float64, device=image.device)
    y, x = torch.meshgrid(place, place, indexing="ij")
    found = torch.stack([x, y, torch.ones_like(x)], -1) @ matrix[:2].T
    height, width = image.shape[1:]
    # in units of half the image from its middle, as `grid_sample` counts
    grid = (2 * found + 1) / torch.tensor([width, height], device=image.device) - 1
    # half precision does not tell the pixels of a row apart
    values = image if image.dtype == torch.float64 else image.float()
    aligned = F.grid_sample(values[None], grid[None].to(values), align_corners=False)[0]
    return (aligned if image.is_floating_point() else aligned.round().clamp(0, 255)).to(image.dtype)


def _square(matrix: Tensor) -> Tensor:
    last = matrix.new_tensor([[0.0, 0.0, 1.0]])
    return torch.cat([matrix, last])
