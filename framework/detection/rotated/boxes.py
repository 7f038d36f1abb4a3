"""Oriented boxes as four corners or as center, sides and angle.

Coordinates are continuous pixels, x to the right and y down. Corners go clockwise on the screen;
angles are radians from +x towards +y, which is clockwise on the screen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quad_area(quads: Tensor) -> Tensor:
    """Return the area that quadrilaterals enclose, whichever way round their corners go.

    Args:
        quads: (..., 4, 2).

    Returns:
        (...) of the same unit squared.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import quad_area
        >>> quad_area(torch.tensor([[0.0, 0.0], [10.0, 2.0], [10.0, 8.0], [0.0, 10.0]]))
        tensor(80.)
    """
    check_quads(quads)
    return signed_area(quads).abs()


def signed_area(polygons: Tensor) -> Tensor:
    """Return the shoelace area of polygons (..., V, 2), positive if clockwise on the screen."""
    # measured from a corner, as products of large coordinates cancel badly
    x, y = (polygons - polygons[..., :1, :]).unbind(-1)
    return 0.5 * (x * y.roll(-1, -1) - y * x.roll(-1, -1)).sum(-1)


def is_convex(quads: Tensor) -> Tensor:
    """Return which quadrilaterals are strictly convex, hence neither crossed nor without area.

    Args:
        quads: (..., 4, 2).

    Returns:
        (...) bool; False where a coordinate is NaN.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import is_convex
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> is_convex(torch.stack([square, square[[0, 2, 1, 3]]]))
        tensor([ True, False])
    """
    check_quads(quads)
    x, y = (quads.roll(-1, -2) - quads).double().unbind(-1)
    turns = x * y.roll(-1, -1) - y * x.roll(-1, -1)
    return (turns > 0).all(-1) | (turns < 0).all(-1)


def cxcywhr_to_quad(boxes: Tensor) -> Tensor:
    """Return the corners of oriented rectangles, clockwise on the screen.

    The first corner is the one at the start of the width and of the height: the top left one at
    angle 0.

    Args:
        boxes: (..., 5): center x and y, width, height, and the angle of the width in radians.

    Returns:
        (..., 4, 2).

    Raises:
        ValueError: another last dimension.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import cxcywhr_to_quad
        >>> cxcywhr_to_quad(torch.tensor([5.0, 5.0, 4.0, 2.0, 0.0])).tolist()
        [[3.0, 4.0], [7.0, 4.0], [7.0, 6.0], [3.0, 6.0]]
    """
    check_boxes(boxes)
    cx, cy, width, height, angle = boxes.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    along = torch.stack([cos, sin], -1) * width[..., None] / 2
    across = torch.stack([-sin, cos], -1) * height[..., None] / 2
    corners = [-along - across, along - across, along + across, across - along]
    return torch.stack([cx, cy], -1)[..., None, :] + torch.stack(corners, -2)


def quad_to_cxcywhr(quads: Tensor) -> Tensor:
    """Return center, long side, short side and the angle of the long side.

    A rectangle is recovered exactly. Of any other quadrilateral the center is the mean of the
    corners, each side the mean of two opposite ones, and the angle that of the mean direction of
    the longer two. The angle of a square is that of its first side.

    Args:
        quads: (..., 4, 2), corners in order.

    Returns:
        (..., 5): center x and y, long side, short side, angle in [0, pi).

    Example:
        >>> import torch
        >>> from framework.detection.rotated import cxcywhr_to_quad, quad_to_cxcywhr
        >>> box = torch.tensor([200.0, 160.0, 30.0, 80.0, 0.5])
        >>> quad_to_cxcywhr(cxcywhr_to_quad(box))  # the angle is 0.5 + pi / 2
        tensor([200.0000, 160.0000,  80.0000,  30.0000,   2.0708])
    """
    check_quads(quads)
    sides = quads.roll(-1, -2) - quads
    lengths = torch.linalg.vector_norm(sides, dim=-1)
    first = (lengths[..., 0] + lengths[..., 2]) / 2
    second = (lengths[..., 1] + lengths[..., 3]) / 2
    swap = second > first
    direction = torch.where(
        swap[..., None],
        sides[..., 1, :] - sides[..., 3, :],
        sides[..., 0, :] - sides[..., 2, :],
    )
    angle = torch.atan2(direction[..., 1], direction[..., 0]).remainder(math.pi)
    # the remainder of a tiny negative angle rounds to pi itself
    angle = torch.where(angle >= math.pi, torch.zeros_like(angle), angle)
    size = torch.stack([torch.maximum(first, second), torch.minimum(first, second), angle], -1)
    return torch.cat([quads.mean(-2), size], -1)


def cxcywhr_to_torchvision(boxes: Tensor) -> Tensor:
    """Return boxes in torchvision's CXCYWHR: degrees, counter-clockwise on the screen.

    Torchvision's XYXYXYXY needs no conversion but ``quads.flatten(-2)``.

    Args:
        boxes: (..., 5), angle in radians, clockwise.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import cxcywhr_to_torchvision
        >>> cxcywhr_to_torchvision(torch.tensor([5.0, 5.0, 4.0, 2.0, torch.pi / 6]))
        tensor([  5.0000,   5.0000,   4.0000,   2.0000, -30.0000])
    """
    check_boxes(boxes)
    return torch.cat([boxes[..., :4], -boxes[..., 4:].rad2deg()], -1)


def torchvision_to_cxcywhr(boxes: Tensor) -> Tensor:
    """Return boxes in radians, clockwise, from torchvision's CXCYWHR.

    Args:
        boxes: (..., 5), angle in degrees, counter-clockwise.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import torchvision_to_cxcywhr
        >>> torchvision_to_cxcywhr(torch.tensor([5.0, 5.0, 4.0, 2.0, -90.0]))
        tensor([5.0000, 5.0000, 4.0000, 2.0000, 1.5708])
    """
    check_boxes(boxes)
    return torch.cat([boxes[..., :4], -boxes[..., 4:].deg2rad()], -1)


def check_quads(quads: Tensor) -> None:
    """Raise a ValueError unless ``quads`` are floats (..., 4, 2)."""
    if quads.shape[-2:] != (4, 2) or not quads.is_floating_point():
        raise ValueError(
            f"Quads are floats (..., 4, 2), got {quads.dtype} of shape {tuple(quads.shape)}."
        )


def check_boxes(boxes: Tensor) -> None:
    """Raise a ValueError unless ``boxes`` are floats (..., 5)."""
    if boxes.shape[-1:] != (5,) or not boxes.is_floating_point():
        raise ValueError(
            "Oriented boxes are floats (..., 5), cx, cy, w, h, angle; got "
            f"{boxes.dtype} of shape {tuple(boxes.shape)}."
        )
