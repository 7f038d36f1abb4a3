"""Areas of the intersection and of the common hull of convex polygons, for many pairs at once.

Polygons are (V, 2, K): corners, coordinates, pairs. They run clockwise on the screen.
"""

from __future__ import annotations

import torch
from torch import Tensor


def polygon_area(p: Tensor) -> Tensor:
    """Return the signed area (K,) of polygons (V, 2, K)."""
    following = p.roll(-1, 0)
    return 0.5 * (p[:, 0] * following[:, 1] - p[:, 1] * following[:, 0]).sum(0)


def intersection_area(p: Tensor, q: Tensor) -> Tensor:
    """Return the area common to two convex polygons.

    By Green's theorem it is a sum over its boundary: over what lies in ``q`` of each edge of ``p``,
    and over what lies in ``p`` of each edge of ``q``. Both follow from one table, the side of each
    line of ``q`` on which each corner of ``p`` is, so that rounding cannot count an edge that both
    share twice or not at all: edges that nearly coincide cost an area of the order of rounding.

    Args:
        p: (V, 2, K).
        q: (U, 2, K).

    Returns:
        (K,), at least 0.
    """
    edge_p, edge_q = p.roll(-1, 0) - p, q.roll(-1, 0) - q
    # corner i of p as seen from the start of edge j of q: (V, U, K)
    x, y = (p[:, None, k] - q[None, :, k] for k in range(2))
    ex, ey = edge_q[:, 0], edge_q[:, 1]
    side = ex * y - ey * x
    following = side.roll(-1, 0)
    inside = side >= 0
    inside_next = inside.roll(-1, 0)
    entering, leaving = inside_next & ~inside, inside & ~inside_next
    crossing = entering | leaving
    # masked before the division, for the gradient's sake
    t = (side / torch.where(crossing, side - following, 1.0)).clamp(0, 1)

    start = torch.where(entering, t, torch.where(inside | inside_next, 0.0, 1.0)).amax(1)
    end = torch.where(leaving, t, 1.0).amin(1)
    length_p = (end - start).clamp(min=0)
    of_p = ((p[:, 0] * edge_p[:, 1] - p[:, 1] * edge_p[:, 0]) * length_p).sum(0)

    # where along edge j of q, as a share of it, edge i of p crosses its line
    along = ex * x + ey * y
    place = along + t * (along.roll(-1, 0) - along)
    squared = ex.square() + ey.square()
    place = (place / torch.where(squared > 0, squared, 1.0)).clamp(0, 1)
    # where p comes back to the inner side of the line, the line has left p
    length_q = torch.where(entering, place, torch.where(leaving, -place, 0.0)).sum(0)
    of_q = ((q[:, 0] * ey - q[:, 1] * ex) * length_q).sum(0)
    return (0.5 * (of_p + of_q)).clamp(min=0)


def hull_area(points: Tensor) -> Tensor:
    """Return the area (K,) of the convex hull of points (V, 2, K).

    The upper boundary of the hull is piecewise linear with breaks at points only. At each of these
    it is the highest place that a segment between two points reaches, and the lower boundary the
    lowest, so that the area is a sum of trapezoids.
    """
    x, order = points[:, 0].sort(0)
    y = points[:, 1].gather(0, order)
    upper, lower = y, y
    count = len(x)
    for i in range(count):
        for j in range(i + 2, count):
            width = x[j] - x[i]
            share = (x[i + 1 : j] - x[i]) / torch.where(width > 0, width, 1.0)
            height = torch.cat([y[: i + 1], y[i] + share * (y[j] - y[i]), y[j:]])
            upper, lower = torch.maximum(upper, height), torch.minimum(lower, height)
    gap = upper - lower
    return ((gap[1:] + gap[:-1]) * (x[1:] - x[:-1])).sum(0) / 2
