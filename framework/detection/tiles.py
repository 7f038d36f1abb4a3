"""Large images as overlapping tiles: where they lie, what they show, and how detections merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from framework.detection.objects import Objects
from framework.detection.rotated import quad_area, rotated_nms
from framework.utilities.checks import check_at_least, check_interval

VISIBLE = 0.7
"""Share of an object's area that a tile has to show, or there is too little to learn from."""

Point = tuple[float, float]


def tile_origins(size: int, window: int, gap: int) -> list[int]:
    """Return where windows begin that cover a length; the last one is moved back to its end.

    Args:
        size: Length of the image in pixels.
        window: Length of a window.
        gap: Overlap of neighbors at least, smaller than a window.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> tile_origins(2000, 1024, gap=200), tile_origins(700, 1024, gap=200)
        ([0, 824, 976], [0])
    """
    check_at_least(1, size=size, window=window)
    check_interval(f"[0, {window})", gap=gap)
    last = max(size - window, 0)
    return [*range(0, last, window - gap), last]


def tile_objects(objects: Objects, left: float, top: float, window: float) -> Objects:
    """Return what a square tile shows of an image's objects, in pixels of the tile.

    An object inside the tile stays as it is. Of one that the border cuts, the part inside is taken:
    with 4 corners it is kept, with 5 the two ends of its shortest edge become their middle, with
    another number it is left out. Its first corner is the one that fits the whole object's best,
    and it gets difficult 2 where the part inside, before corners become one, has at most 0.7 of the
    whole object's area.

    These are the rules of the development kit of DOTA (Xia et al. 2018, arXiv:1711.10398), which
    also cuts corners to whole numbers and to the range from 1 to the window; both are left out.

    Args:
        objects: Objects of the image, convex, in its pixels.
        left: Left edge of the tile in the image.
        top: Top edge of the tile in the image.
        window: Width and height of the tile.

    Example:
        >>> square = torch.tensor([[[90.0, 10], [110, 10], [110, 30], [90, 30]]])
        >>> whole = Objects(square, torch.tensor([3]), torch.zeros(1).byte())
        >>> part = tile_objects(whole, 0, 0, 100)
        >>> part.quads.tolist(), part.difficult.tolist()
        ([[[90.0, 10.0], [100.0, 10.0], [100.0, 30.0], [90.0, 30.0]]], [2])
    """
    quads = objects.quads.double() - torch.tensor([left, top], dtype=torch.float64)
    low, high = quads.amin(1), quads.amax(1)
    inside = ((low >= 0) & (high <= window)).all(1)
    touched = ((low < window) & (high > 0)).all(1)
    difficult = objects.difficult.clone()
    for row in (touched & ~inside).nonzero().flatten().tolist():
        shown = _clip([(x, y) for x, y in quads[row].tolist()], window)
        part = _four_corners(shown)
        if part is None:
            touched[row] = False
            continue
        cut = torch.tensor(part, dtype=torch.float64)
        share = _area(shown) / float(quad_area(quads[row]))
        quads[row] = _in_order_of(quads[row], cut)
        if share <= VISIBLE:
            difficult[row] = 2
    return Objects(quads.float(), objects.label, difficult)[touched]


def _clip(corners: list[Point], window: float) -> list[Point]:
    """Return the part of a convex polygon inside the square from 0 to ``window``."""
    for axis, bound, sign in ((0, 0.0, 1), (0, window, -1), (1, 0.0, 1), (1, window, -1)):
        kept: list[Point] = []
        for start, end in zip(corners, [*corners[1:], *corners[:1]], strict=True):
            a, b = sign * (start[axis] - bound), sign * (end[axis] - bound)
            if a >= 0:
                kept.append(start)
            if a * b < 0:
                share = a / (a - b)
                along = start[1 - axis] + share * (end[1 - axis] - start[1 - axis])
                kept.append((bound, along) if axis == 0 else (along, bound))
        corners = kept
    return corners


def _area(corners: list[Point]) -> float:
    around = zip(corners, [*corners[1:], *corners[:1]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around)) / 2


def _four_corners(corners: list[Point]) -> list[Point] | None:
    if len(corners) == 4:
        return corners
    if len(corners) != 5:
        return None
    edges = torch.tensor(corners, dtype=torch.float64)
    shortest = int((edges.roll(-1, 0) - edges).square().sum(1).argmin())
    (x0, y0), (x1, y1) = corners[shortest], corners[(shortest + 1) % 5]
    others = [corners[(shortest + 2 + k) % 5] for k in range(3)]
    return [((x0 + x1) / 2, (y0 + y1) / 2), *others]


def _in_order_of(whole: Tensor, part: Tensor) -> Tensor:
    """Return the corners of ``part`` beginning where they fit those of ``whole`` best."""
    turned = torch.stack([part.roll(-k, 0) for k in range(4)])
    return turned[(turned - whole).square().sum((1, 2)).argmin()]


def to_whole_image(quads: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """Return corners (..., 2) of a tile in pixels of the whole image.

    Args:
        quads: (..., 2) in pixels of the tile.
        offset: (2,), left and top of the tile in the resized image.
        scale: Factor by which the whole image was resized, a scalar.

    Example:
        >>> tile = torch.tensor([[0.0, 10.0]])
        >>> to_whole_image(tile, torch.tensor([824.0, 0.0]), torch.tensor(0.5))
        tensor([[1648.,   20.]])
    """
    return (quads + offset) / scale


def merge_tiles(
    detections: Sequence[Mapping[str, Tensor]],
    image_id: Tensor,
    offset: Tensor,
    scale: Tensor,
    iou_threshold: float,
) -> dict[int, dict[str, Tensor]]:
    """Return the detections of whole images from those of their tiles.

    They are mapped to the whole image, and of those of one image and class that overlap by more
    than ``iou_threshold`` only the most certain one stays.

    Args:
        detections: Detections of T tiles, each with ``boxes`` (n, 4, 2) in pixels of the tile,
            ``scores`` (n,) and ``labels`` (n,) int64.
        image_id: (T,) int64 number of the whole image of each tile.
        offset: (T, 2), see ``to_whole_image``.
        scale: (T,).
        iou_threshold: IoU above which detections suppress one another: 0.3 in the development kit
            of DOTA, 0.1 in mmrotate; to be named beside every result.

    Returns:
        By image the same fields in pixels of the whole image, by descending score.

    Example:
        >>> box = torch.tensor([[[0.0, 0], [9, 0], [9, 9], [0, 9]]])
        >>> def seen(score):
        ...     return {"boxes": box, "scores": torch.tensor([score]), "labels": torch.tensor([2])}
        >>> image_id, offset = torch.tensor([7, 7, 8]), torch.tensor([[0.0, 0], [1, 0], [0, 0]])
        >>> tiles = [seen(0.5), seen(0.9), seen(0.4)]
        >>> merged = merge_tiles(tiles, image_id, offset, torch.ones(3), iou_threshold=0.3)
        >>> {image: found["scores"].tolist() for image, found in merged.items()}
        {7: [0.8999999761581421], 8: [0.4000000059604645]}
    """
    if not len(detections):
        return {}
    boxes = torch.cat(
        [
            to_whole_image(found["boxes"], offset[tile], scale[tile])
            for tile, found in enumerate(detections)
        ]
    )
    scores = torch.cat([found["scores"] for found in detections])
    labels = torch.cat([found["labels"] for found in detections])
    image = torch.cat(
        [image_id[tile].expand(len(found["labels"])) for tile, found in enumerate(detections)]
    )
    classes = int(labels.max()) + 1 if len(labels) else 1
    kept = rotated_nms(boxes, scores, iou_threshold, labels=image * classes + labels)
    merged = {}
    for number in image_id.unique().tolist():
        rows = kept[image[kept] == number]
        merged[number] = {"boxes": boxes[rows], "scores": scores[rows], "labels": labels[rows]}
    return merged
