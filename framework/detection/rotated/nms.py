"""Greedy non-maximum suppression of oriented boxes and quadrilaterals, exact and vectorized."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.detection.rotated.boxes import signed_area
from framework.detection.rotated.iou import BoxFormat, as_quads, iou_of_pairs
from framework.detection.rotated.overlap_candidates import bounds, overlapping_pairs_within
from framework.utilities.checks import check_interval
from framework.utilities.devices import to_device
from framework.utilities.packed_copy import copy_packed

# pixels; below this mean width a box is a line, and its overlap means nothing
_THINNEST = 1e-2


@torch.no_grad()
def rotated_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Tensor | None = None,
    fmt: BoxFormat = "quad",
    max_detections: int | None = None,
) -> Tensor:
    """Return which boxes the greedy rule keeps: none overlaps a kept box of a higher score.

    The result is that of the sequential loop with exact polygon overlaps: keep the best box, drop
    what overlaps it by more than the threshold, go on with the best of the rest. Among equal scores
    the first box comes first. Boxes that are not finite, or are thinner than a hundredth of a
    pixel, are never kept and drop no other.

    Several images are suppressed in one call if ``labels`` tells them apart, as in
    ``image * num_classes + label``.

    Args:
        boxes: (N, 4, 2) corners of convex quadrilaterals in pixels, or (N, 5) with
            ``fmt='cxcywhr'``.
        scores: (N,).
        iou_threshold: Largest IoU that two kept boxes may have, in [0, 1].
        labels: (N,) integers of at least 0; boxes of different labels do not meet. Default: one.
        fmt: Format of the boxes: ``'quad'``, or ``'cxcywhr'`` with the angle in radians, clockwise
            on the screen.
        max_detections: Largest number of boxes kept; default all.

    Returns:
        (K,) int64, in order of descending score.

    Raises:
        ValueError: a shape or an argument is another.

    Example:
        >>> import torch
        >>> from framework.detection.rotated import rotated_nms
        >>> square = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
        >>> boxes = torch.stack([square, square + 1, square + 5])
        >>> rotated_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), iou_threshold=0.3)
        tensor([1, 2])
    """
    quads = as_quads(boxes, fmt)
    rows = quads.shape[:1]
    if quads.ndim != 3 or scores.shape != rows or (labels is not None and labels.shape != rows):
        raise ValueError(
            f"rotated_nms takes boxes, scores and labels of one length, got {tuple(boxes.shape)}, "
            f"{tuple(scores.shape)} and {None if labels is None else tuple(labels.shape)}."
        )
    check_interval("[0, 1]", iou_threshold=iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    order = order[_has_area(quads[order])]
    quads = quads[order]
    group = None if labels is None else labels[order].unique(return_inverse=True)[1]
    above, below = overlapping_pairs_within(quads, group)
    possible = (_largest_possible_iou(quads, above, below) > iou_threshold).nonzero().squeeze(1)
    above, below = above.index_select(0, possible), below.index_select(0, possible)
    overlap = iou_of_pairs(quads.index_select(0, above), quads.index_select(0, below))
    # the rounds of the greedy rule are many short operations, each of which a GPU is waited for
    pairs = {"above": above, "below": below, "overlaps": overlap > iou_threshold}
    kept = _greedy(**copy_packed(pairs, "cpu"), count=len(order)).nonzero().squeeze(1)
    kept = to_device(kept[:max_detections], order.device)
    return order.index_select(0, kept)


def _has_area(quads: Tensor) -> Tensor:
    longest = torch.linalg.vector_norm(quads.roll(-1, 1) - quads, dim=-1).amax(-1)
    # NaN and infinity compare as false
    return (signed_area(quads).abs() > _THINNEST * longest) & quads.isfinite().all(-1).all(-1)


def _largest_possible_iou(quads: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Return a bound: the intersection exceeds neither area, nor that of the horizontal boxes."""
    area, (left, top, right, bottom) = signed_area(quads).abs(), bounds(quads)
    width = torch.minimum(right.index_select(0, i), right.index_select(0, j))
    width -= torch.maximum(left.index_select(0, i), left.index_select(0, j))
    height = torch.minimum(bottom.index_select(0, i), bottom.index_select(0, j))
    height -= torch.maximum(top.index_select(0, i), top.index_select(0, j))
    area_i, area_j = area.index_select(0, i), area.index_select(0, j)
    shared = torch.minimum(torch.minimum(area_i, area_j), width * height)
    # a little more, so that rounding drops no pair at the threshold
    return shared / (area_i + area_j - shared) + 1e-9


def _greedy(above: Tensor, below: Tensor, overlaps: Tensor, count: int) -> Tensor:
    """Return the mask (count,) of the sequential rule from the pairs, and which of them overlap.

    It is the only fixed point of "kept if no kept box above overlaps", as shows by induction from
    the first box. Every round settles at least the next box of each chain of overlaps, of which the
    longest has few.
    """
    above, below = above[overlaps], below[overlaps]
    kept = torch.ones(count, dtype=torch.bool)
    while True:
        now = torch.ones_like(kept)
        now[below[kept[above]]] = False
        if torch.equal(now, kept):
            return kept
        kept = now
