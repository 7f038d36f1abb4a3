"""Decoding of the head's output to boxes and detections."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.detection.rotated import orc_to_quad, rotated_nms
from framework.utilities.checks import check_one_of
from framework.utilities.precision import at_least_float32
from modules.gghl.cells import Cells

ScoreMode = Literal["product", "sqrt"]
BOX_CHANNELS = 10
"""Four distances, four gliding ratios, the area ratio and the objectness; classes follow."""
OBJECTNESS = 9


class Boxes(NamedTuple):
    """Boxes of cells.

    Args:
        center: Centers of the cells in pixels, (..., 2).
        distances: Distances from the cell's center to top, right, bottom and left in pixels,
            (..., 4).
        s: Gliding ratios in [0, 1], (..., 4).
        r: Area ratio in [0, 1], (...).
    """

    center: Tensor
    distances: Tensor
    s: Tensor
    r: Tensor

    @property
    def box(self) -> Tensor:
        """Left, top, right and bottom in pixels, (..., 4)."""
        x, y = self.center.unbind(-1)
        top, right, bottom, left = self.distances.unbind(-1)
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


def decode_boxes(
    raw: Tensor, center: Tensor, stride: Tensor, oriented: bool = True, horizontal: float = 0.9
) -> Boxes:
    """Return the boxes that raw output stands for.

    Distances are exponentials in units of the stride; their logarithm is held in [-10, 8], beyond
    which half precision overflows. Where r is above ``horizontal``, s is 0 and the box horizontal.

    Args:
        raw: Output of the head, (..., 10 + C) float32 or float64.
        center: Centers of the cells in pixels, (..., 2).
        stride: Strides of the cells in pixels, (...).
        oriented: Whether boxes are oriented; otherwise s = 0 and r = 1.
        horizontal: Area ratio above which a box is horizontal.

    Example:
        >>> import torch
        >>> from modules.gghl.decoding import decode_boxes
        >>> boxes = decode_boxes(torch.zeros(11), torch.tensor([20.0, 12.0]), torch.tensor(8.0))
        >>> boxes.box, boxes.r
        (tensor([12.,  4., 28., 20.]), tensor(0.5000))
    """
    lengths, s, r = raw[..., :OBJECTNESS].split([4, 4, 1], dim=-1)
    distances = lengths.clamp(-10, 8).exp() * stride[..., None]
    if oriented:
        # the sigmoid never is 0, which a horizontal box needs
        s = (s.sigmoid().clamp(min=0.01) - 0.01) / 0.99
        r = F.relu6(r + 3) / 6
        s = s.masked_fill(r > horizontal, 0.0)
    else:
        s, r = torch.zeros_like(s), torch.ones_like(r)
    return Boxes(center, distances, s, r.squeeze(-1))


@torch.no_grad()
def decode(
    raw: Tensor,
    cells: Cells,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
    max_detections: int = 500,
    pre_nms_top_k: int = 2000,
    score_mode: ScoreMode = "product",
    oriented: bool = True,
    horizontal: float = 0.9,
    extent: Tensor | None = None,
) -> list[dict[str, Tensor]]:
    """Return the detections of every image, best first.

    A cell's score is its objectness times the probability of its most likely class. The best
    ``pre_nms_top_k`` cells become quadrilaterals, whose horizontal boxes are clipped to the image,
    and of those of one class that overlap by more than ``nms_iou`` the best stays.

    Paper: Huang et al., arXiv:2109.12848. The authors clip to W - 1 and H - 1; coordinates here are
    continuous, and the image ends at W and H. They suppress minimum-area rectangles; here the
    overlap is that of the quadrilaterals.

    Args:
        raw: Output of the head, (B, N, 10 + C).
        cells: The N cells.
        score_threshold: Score that a detection exceeds; the authors take 0.2, and 0.005 for
            precision.
        nms_iou: Overlap above which the worse of two detections of a class goes.
        max_detections: Most detections of an image.
        pre_nms_top_k: Most cells of an image that become boxes, before suppression.
        score_mode: Score that is reported: ``product``, or ``sqrt`` for its square root as the
            authors report it.
        oriented: Whether boxes are oriented; otherwise all are horizontal.
        horizontal: Area ratio above which a box is horizontal.
        extent: Width and height in pixels to which boxes are clipped, (B, 2), where an image was
            filled up beyond; default the whole image.

    Returns:
        Of each image ``boxes``, quadrilaterals (n, 4, 2) in pixels, ``scores`` (n,) and ``labels``
        (n,).

    Raises:
        ValueError: ``raw`` does not fit the cells, or ``score_mode`` is unknown.

    Example:
        >>> import torch
        >>> from modules.gghl.cells import Cells
        >>> from modules.gghl.decoding import decode
        >>> cells = Cells.of((32, 32))
        >>> raw = torch.full((1, 21, 12), -9.0)
        >>> raw[0, 16] = torch.tensor([0, 0, 0, 0, -9, -9, -9, -9, 3, 1, -2, 2])
        >>> found = decode(raw, cells)[0]
        >>> found["boxes"][0].tolist(), found["labels"].tolist()
        ([[0.0, 0.0], [24.0, 0.0], [24.0, 24.0], [0.0, 24.0]], [1])
    """
    check_one_of(get_args(ScoreMode), score_mode=score_mode)
    check_raw(raw, cells)
    raw = at_least_float32(raw)
    probability, label = raw[..., BOX_CHANNELS:].sigmoid().max(dim=-1)
    score = raw[..., OBJECTNESS].sigmoid() * probability
    height, width = cells.image_size
    image, cell = (score > score_threshold).nonzero(as_tuple=True)
    # of all images at once, as a GPU is waited for wherever a number of boxes is found out
    order = score[image, cell].argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    image, cell = image[order], cell[order]
    boxes = decode_boxes(
        raw[image, cell], cells.center[cell], cells.stride[cell], oriented, horizontal
    )
    if extent is None:
        limits = raw.new_empty(len(raw), 2)
        limits[:, 0], limits[:, 1] = width, height
    else:
        limits = extent.to(raw.dtype)
    box = boxes.box.clamp(min=0).minimum(limits.repeat(1, 2)[image])
    place = torch.arange(len(image), device=raw.device)
    place = place - torch.searchsorted(image, image)
    inside = (box[:, 2:] > box[:, :2]).all(dim=1) & (place < pre_nms_top_k)
    kept = inside.nonzero().squeeze(1)
    image, cell, quads = image[kept], cell[kept], orc_to_quad(box[kept], boxes.s[kept])
    scores, labels = score[image, cell], label[image, cell]
    best = rotated_nms(quads, scores, nms_iou, image * (raw.shape[2] - BOX_CHANNELS) + labels)
    best = best[image[best].argsort(stable=True)]
    numbers = torch.arange(1, len(raw) + 1, device=raw.device)
    ends = torch.searchsorted(image[best], numbers).tolist()
    detections = []
    for start, end in pairwise([0, *ends]):
        rows = best[start : min(end, start + max_detections)]
        shown = scores[rows].sqrt() if score_mode == "sqrt" else scores[rows]
        detections.append({"boxes": quads[rows], "scores": shown, "labels": labels[rows]})
    return detections


def check_raw(raw: Tensor, cells: Cells) -> None:
    """Raise ``ValueError`` unless ``raw`` is (B, N, 10 + C), C >= 1, for these N cells."""
    number = len(cells.level)
    if raw.ndim != 3 or raw.shape[1] != number or raw.shape[2] <= BOX_CHANNELS:
        raise ValueError(
            f"The head's output must be (B, {number}, {BOX_CHANNELS} + classes) for an image of "
            f"{cells.image_size}, got {tuple(raw.shape)}."
        )
