"""Areas of convex polygons in rational numbers: what floating point is compared with."""

from __future__ import annotations

from fractions import Fraction

import torch

Polygon = list[tuple[Fraction, Fraction]]


def polygon(quad: torch.Tensor) -> Polygon:
    """Return the corners as they are stored, without any rounding, clockwise on the screen."""
    corners = [(Fraction(x), Fraction(y)) for x, y in quad.double().tolist()]
    return corners if signed_area(corners) >= 0 else corners[::-1]


def signed_area(p: Polygon) -> Fraction:
    pairs = zip(p, p[1:] + p[:1], strict=True)
    return sum((x * v - y * u for (x, y), (u, v) in pairs), Fraction(0)) / 2


def intersection(p: Polygon, q: Polygon) -> Polygon:
    """Clip p by one line of q after the other (Sutherland and Hodgman)."""
    for (ax, ay), (bx, by) in zip(q, q[1:] + q[:1], strict=True):
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in p]
        clipped = []
        for k, (x, y) in enumerate(p):
            (u, v), here, there = p[(k + 1) % len(p)], side[k], side[(k + 1) % len(p)]
            if here >= 0:
                clipped.append((x, y))
            if (here >= 0) != (there >= 0):
                t = here / (here - there)
                clipped.append((x + t * (u - x), y + t * (v - y)))
        p = clipped
    return p


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q = polygon(a), polygon(b)
    shared = signed_area(intersection(p, q))
    return float(shared / (signed_area(p) + signed_area(q) - shared))


def ious(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the overlap of row i of (K, 4, 2) with row i, as (K,) float64."""
    values = [iou(p, q) for p, q in zip(a, b, strict=True)]
    return torch.tensor(values, dtype=torch.float64)
