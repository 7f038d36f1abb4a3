"""Exact overlap of convex quadrilaterals, differentiable and without a compiled kernel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framework.detection.rotated.boxes import check_boxes, check_quads, cxcywhr_to_quad
from framework.detection.rotated.intersection import hull_area, intersection_area, polygon_area
from framework.detection.rotated.overlap_candidates import overlapping_pairs
from framework.utilities.checks import check_one_of

BoxFormat = Literal["quad", "cxcywhr"]
Mode = Literal["iou", "iof", "giou"]

# pairs at a time: on a CPU what a cache holds and torch leaves to one thread, as threads would wait
# for one another after each of many short operations; on a GPU what fills it
_CHUNK_CPU, _CHUNK_GPU = 2000, 2**18
# square pixels; a smaller union is that of two points
_NOTHING = 1e-12


def rotated_iou(
    a: Tensor,
    b: Tensor,
    fmt: BoxFormat = "quad",
    aligned: bool = False,
    mode: Mode = "iou",
) -> Tensor:
    """Return the exact overlap of oriented boxes or of any convex quadrilaterals.

    Computed in float64 and differentiable in both arguments. Pairs whose horizontal boxes do not
    meet are not clipped. A box without area overlaps nothing.

    torchvision's kernel for oriented boxes is not used: it fits rectangles to quadrilaterals, has
    no gradient, and is wrong on some nearly parallel pairs.

    Args:
        a: (N, 4, 2) corners in order, either way round; or (N, 5) with ``fmt='cxcywhr'``.
        b: (M, 4, 2) or (M, 5).
        fmt: Format of the boxes: ``'quad'``, or ``'cxcywhr'`` with the angle in radians, clockwise
            on the screen.
        aligned: Whether to compare row i with row i, N = M, rather than all with all.
        mode: Measure: ``'iou'``; ``'iof'``, the intersection over the area of ``a``; or ``'giou'``,
            the IoU minus the share of the common convex hull that neither covers
            (arXiv:1902.09630).

    Returns:
        (N, M), or (N,) if aligned, in the wider dtype of both, at least float32.

    Raises:
        ValueError: a shape, ``fmt`` or ``mode`` is another.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import rotated_iou
        >>> a = torch.tensor([[50.0, 50.0, 40.0, 20.0, 0.0]])
        >>> b = torch.tensor([[50.0, 50.0, 40.0, 20.0, torch.pi / 6], [90.0, 90.0, 9.0, 9.0, 0.0]])
        >>> rotated_iou(a, b, fmt="cxcywhr")
        tensor([[0.6233, 0.0000]])
    """
    check_one_of(("iou", "iof", "giou"), mode=mode)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = as_quads(a, fmt), as_quads(b, fmt)
    if a.ndim != 3 or b.ndim != 3:
        raise ValueError("rotated_iou takes one list of boxes each, without leading dimensions.")
    if aligned:
        if len(a) != len(b):
            raise ValueError(f"Aligned boxes must be as many, got {len(a)} and {len(b)}.")
        return _of_pairs(a, b, mode).to(dtype)
    if mode == "giou":
        rows, columns = len(a), len(b)
        values = _of_pairs(a.repeat_interleave(columns, 0), b.repeat(rows, 1, 1), mode)
        return values.view(rows, columns).to(dtype)
    row, column = overlapping_pairs(a.detach(), b.detach())
    result = a.new_zeros(len(a), len(b))
    return result.index_put(
        (row, column), _of_pairs(a.index_select(0, row), b.index_select(0, column), mode)
    ).to(dtype)


def iou_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of row i of ``a`` with row i of ``b``, float64 quads (K, 4, 2), as (K,)."""
    return _of_pairs(a, b, "iou")


def as_quads(boxes: Tensor, fmt: BoxFormat) -> Tensor:
    """Return boxes of either format as float64 corners.

    Raises:
        ValueError: another format, or boxes that are not of it.
    """
    if fmt == "quad":
        check_quads(boxes)
        return boxes.double()
    if fmt == "cxcywhr":
        check_boxes(boxes)
        return cxcywhr_to_quad(boxes.double())
    raise ValueError(f"fmt must be 'quad' or 'cxcywhr', got {fmt!r}.")


def _of_pairs(a: Tensor, b: Tensor, mode: Mode) -> Tensor:
    chunk = _CHUNK_GPU if a.is_cuda else _CHUNK_CPU
    parts = [_overlap(p, q, mode) for p, q in zip(a.split(chunk), b.split(chunk), strict=True)]
    return torch.cat(parts) if parts else a.new_zeros(0)


def _overlap(a: Tensor, b: Tensor, mode: Mode) -> Tensor:
    # near the origin, as products of large coordinates cancel badly
    center = a.mean(1, keepdim=True)
    p, q = _clockwise(a - center), _clockwise(b - center)
    area_p, area_q = polygon_area(p), polygon_area(q)
    shared = intersection_area(p, q)
    union = area_p + area_q - shared
    overlap = _ratio(shared, area_p if mode == "iof" else union)
    if mode != "giou":
        return overlap
    hull = hull_area(torch.cat([p, q]))
    return overlap - _ratio(hull - union, hull)


def _clockwise(quads: Tensor) -> Tensor:
    """Return (4, 2, K), clockwise on the screen, from (K, 4, 2) either way round."""
    # pairs last, so that every operation runs over contiguous memory
    corners = quads.permute(1, 2, 0).contiguous()
    return torch.where(polygon_area(corners) < 0, corners.flip(0), corners)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return the quotient in [0, 1], 0 where the whole is next to nothing."""
    some = whole > _NOTHING
    # masked before the division, for the gradient's sake
    return torch.where(some, part / torch.where(some, whole, 1.0), 0.0).clamp(0, 1)
