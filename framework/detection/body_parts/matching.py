"""Which detections find the objects of one image, in NumPy: an image has few of either."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CORRECT, WRONG, UNCOUNTED = 1, 0, -1
"""A true positive, a false one, and a detection that an evaluation overlooks."""


def overlaps(boxes: Array, others: Array) -> tuple[Array, Array]:
    """Return the IoU of all pairs of boxes, and the share of each first box inside the second.

    Boxes without area overlap nothing.

    Args:
        boxes: (A, 4) corners x0, y0, x1, y1.
        others: (B, 4).

    Returns:
        Two arrays (A, B).

    Example:
        >>> import numpy as np
        >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 1, 2, 4]]))
        (array([[0.25]]), array([[0.5]]))
    """
    boxes = boxes[:, None]
    shared, area = shared_area(boxes, others), area_of(boxes)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(shared > 0, shared / (area + area_of(others) - shared), 0.0)
        share = np.where(shared > 0, shared / area, 0.0)
    return iou, share


def shared_area(boxes: Array, others: Array) -> Array:
    """Return the area that boxes (..., 4) and others, with which they broadcast, have in common."""
    width, height = (
        np.minimum(boxes[..., side + 2], others[..., side + 2])
        - np.maximum(boxes[..., side], others[..., side])
        for side in (0, 1)
    )
    shared: Array = width.clip(0) * height.clip(0)
    return shared


def area_of(boxes: Array) -> Array:
    """Return the area of boxes (..., 4)."""
    area: Array = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def match_greedily(
    overlap: Sequence[Array], absorbed: Mask, threshold: float, inclusive: bool
) -> NDArray[np.int8]:
    """Return for each detection whether it is right, by the rules of pedestrian detection.

    A detection goes through the objects that no better one has taken and keeps the one that
    overlaps more, in every sense, than the one kept before. Without any it is overlooked where a
    region to be ignored absorbs it, and wrong elsewhere.

    Args:
        overlap: One or more senses of overlap, (D, G) each, of detections by descending score.
        absorbed: (D, R) whether each region to be ignored would take each detection.
        threshold: Overlap that is needed.
        inclusive: Whether an overlap as large as the threshold, or as one kept before, is enough.

    Returns:
        (D,) of ``CORRECT``, ``WRONG`` and ``UNCOUNTED``.

    Example:
        >>> import numpy as np
        >>> iou = np.array([[0.6, 0.9], [0.2, 0.8], [0.7, 0.0], [0.6, 0.0]])
        >>> absorbed = np.array([[False], [False], [True], [True]])
        >>> match_greedily([iou], absorbed, threshold=0.5, inclusive=False)
        array([ 1,  0,  1, -1], dtype=int8)
    """
    better = operator.ge if inclusive else operator.gt
    result = np.where(absorbed.any(1), UNCOUNTED, WRONG).astype(np.int8)
    near = np.logical_and.reduce([better(one, threshold) for one in overlap])
    rows, columns = near.nonzero()
    values = np.stack([one[rows, columns] for one in overlap], 1).tolist()
    taken: set[int] = set()
    pairs = zip(rows.tolist(), columns.tolist(), values, strict=True)
    for row, candidates in groupby(pairs, key=operator.itemgetter(0)):
        kept, best = -1, [threshold] * len(overlap)
        for _, column, value in candidates:
            if column not in taken and all(map(better, value, best)):
                kept, best = column, value
        if kept >= 0:
            taken.add(kept)
            result[row] = CORRECT
    return result


def first_of_each(target: NDArray[np.int64], candidates: Mask) -> Mask:
    """Return which detections are the first candidates for their targets.

    Args:
        target: (D,) the object that each detection is nearest to.
        candidates: (D,) whether the detection may take it.

    Example:
        >>> import numpy as np
        >>> first_of_each(np.array([4, 4, 2, 4]), np.array([False, True, True, True]))
        array([False,  True,  True, False])
    """
    result = np.zeros(len(target), dtype=bool)
    rows = candidates.nonzero()[0]
    result[rows[np.unique(target[rows], return_index=True)[1]]] = True
    return result
