"""The box coder of GGHL: a horizontal box, and where the corners lie on its sides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.detection.rotated.boxes import check_quads, quad_area


class ORC(NamedTuple):
    """OBB representation components of quadrilaterals."""

    box: Tensor
    """(..., 4): x0, y0, x1, y1 of the horizontal box."""
    s: Tensor
    """(..., 4) in [0, 1]: how far the corners are along the top, right, bottom and left side."""
    r: Tensor
    """(...) in [0, 1]: area of the quadrilateral over that of the horizontal box."""


def quad_to_orc(quads: Tensor, horizontal: float = 0.9) -> ORC:
    """Return horizontal box, gliding corners and area ratio of convex quadrilaterals.

    Of the four cyclic labelings of the corners the one is taken whose corners lie nearest to the
    top, right, bottom and left side; they are then moved onto these sides, so that a corner inside
    the box on all sides, which this form cannot hold, is approximated. A rectangle is exact.

    Paper: Huang et al., A General Gaussian Heatmap Label Assignment for Arbitrary-Oriented Object
    Detection, IEEE TIP 2022, arXiv:2109.12848. Its code labels corners by a table of 16 cases; the
    rule here agrees with it on every rectangle, and its error is smaller elsewhere.

    Args:
        quads: (..., 4, 2) pixels; where the corners start and which way round they go is free.
        horizontal: Area ratio above which a box counts as horizontal, and ``s`` is 0.

    Raises:
        ValueError: ``quads`` has another shape.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import cxcywhr_to_quad, quad_to_orc
        >>> quad = cxcywhr_to_quad(torch.tensor([200.0, 160.0, 80.0, 30.0, torch.pi / 6]))
        >>> box, s, r = quad_to_orc(quad)
        >>> s, r
        (tensor([0.1780, 0.6062, 0.1780, 0.6062]), tensor(0.4316))
    """
    check_quads(quads)
    low, high = quads.amin(-2), quads.amax(-2)
    # on the screen y points down, so that a growing angle is clockwise
    x, y = (quads - quads.mean(-2, keepdim=True)).unbind(-1)
    order = torch.atan2(y, x).argsort(dim=-1, stable=True)
    corners = quads.gather(-2, order[..., None].expand_as(quads))
    labelings = torch.stack([corners.roll(-k, -2) for k in range(4)], -3)
    sides = torch.stack([low[..., 1], high[..., 0], high[..., 1], low[..., 0]], -1)
    moved = (_across(labelings) - sides[..., None, :]).abs().sum(-1)
    best = moved.argmin(-1)[..., None, None, None]
    corners = labelings.take_along_dim(best, -3).squeeze(-3)

    width, height = (high - low).unbind(-1)
    (x1, _), (_, y2), (x3, _), (_, y4) = (c.unbind(-1) for c in corners.unbind(-2))
    left, top, right, bottom = *low.unbind(-1), *high.unbind(-1)
    along = torch.stack([x1 - left, y2 - top, right - x3, bottom - y4], -1)
    length = torch.stack([width, height, width, height], -1)
    box = torch.cat([low, high], -1)
    # a box without area has no corners to speak of
    s = torch.where(length > 0, along / length, 0.0)
    area = width * height
    r = torch.where(area > 0, quad_area(orc_to_quad(box, s)) / area, 0.0)
    return ORC(box, torch.where(r[..., None] > horizontal, 0.0, s), r)


def orc_to_quad(box: Tensor, s: Tensor) -> Tensor:
    """Return the corners on the top, right, bottom and left side; the inverse of `quad_to_orc`.

    Args:
        box: (..., 4): x0, y0, x1, y1.
        s: (..., 4); 0 gives the corners of the horizontal box.

    Returns:
        (..., 4, 2), clockwise on the screen.

    Raises:
        ValueError: ``box`` or ``s`` has another shape.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import orc_to_quad
        >>> box = torch.tensor([0.0, 0.0, 4.0, 2.0])
        >>> orc_to_quad(box, torch.tensor([0.25, 0.5, 0.25, 0.5])).tolist()
        [[1.0, 0.0], [4.0, 1.0], [3.0, 2.0], [0.0, 1.0]]
    """
    if box.shape[-1:] != (4,) or s.shape[-1:] != (4,):
        raise ValueError(
            f"box and s must be (..., 4), got {tuple(box.shape)} and {tuple(s.shape)}."
        )
    left, top, right, bottom = box.unbind(-1)
    width, height = right - left, bottom - top
    s1, s2, s3, s4 = s.unbind(-1)
    return torch.stack(
        [
            torch.stack([left + s1 * width, top], -1),
            torch.stack([right, top + s2 * height], -1),
            torch.stack([right - s3 * width, bottom], -1),
            torch.stack([left, bottom - s4 * height], -1),
        ],
        -2,
    )


def _across(corners: Tensor) -> Tensor:
    """Return y, x, y, x of the four corners: the coordinate that a corner on its side shares."""
    return torch.stack([corners[..., k, 1 - k % 2] for k in range(4)], -1)
