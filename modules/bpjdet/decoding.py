"""Decoding of the head's output to bodies and parts."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from framework.utilities.precision import at_least_float32
from modules.bpjdet.anchor_grid import BOX_CHANNELS, OBJECTNESS, AnchorGrid, check_raw
from modules.bpjdet.assignment import STATES_PER_SLOT

BODY = 0
"""The class of bodies."""


class Decoded(NamedTuple):
    """What predictions stand for.

    Args:
        boxes: Left, top, right and bottom in pixels, (..., 4).
        points: Centers of a body's parts, or of a part's body in the first place, in pixels,
            (..., K, 2).
        scores: Objectness times the probability of the most likely class, (...).
        labels: The most likely classes, (...) int64.
        states: Probabilities of the contact states, (..., S).
    """

    boxes: Tensor
    points: Tensor
    scores: Tensor
    labels: Tensor
    states: Tensor


def decode(
    raw: Tensor, cell: Tensor, stride: Tensor, anchor: Tensor, num_classes: int, num_slots: int
) -> Decoded:
    """Return what raw output stands for.

    With t the sigmoid of the output, a center is 2 t - 1/2 cells and a size (2 t)² anchors, at most
    4; a point is 4 t - 2 anchors from the upper left corner of the cell.

    Paper: Zhou et al., arXiv:2304.10765.

    Args:
        raw: Output of the head, (..., 5 + C + 2 K + S).
        cell: Columns and rows of the cells, (..., 2).
        stride: Strides in pixels, (...).
        anchor: Widths and heights of the anchors in pixels, (..., 2).
        num_classes: Number C of classes, the bodies' among them.
        num_slots: Number K of slots.

    Example:
        >>> import torch
        >>> from modules.bpjdet.decoding import decode
        >>> at = (torch.tensor([3.0, 1.0]), torch.tensor(8.0), torch.tensor([10.0, 20.0]))
        >>> found = decode(torch.zeros(9), *at, num_classes=2, num_slots=1)
        >>> found.boxes, found.points
        (tensor([23.,  2., 33., 22.]), tensor([[24.,  8.]]))
    """
    t = at_least_float32(raw).sigmoid()
    of_points = BOX_CHANNELS + num_classes
    of_states = of_points + 2 * num_slots
    corner = cell * stride[..., None]
    center = corner + (2 * t[..., :2] - 0.5) * stride[..., None]
    half = (2 * t[..., 2:OBJECTNESS]).square() * anchor / 2
    offsets = 4 * t[..., of_points:of_states].unflatten(-1, (num_slots, 2)) - 2
    probability, label = t[..., BOX_CHANNELS:of_points].max(dim=-1)
    return Decoded(
        boxes=torch.cat([center - half, center + half], dim=-1),
        points=corner[..., None, :] + offsets * anchor[..., None, :],
        scores=t[..., OBJECTNESS] * probability,
        labels=label,
        states=t[..., of_states:],
    )


@torch.no_grad()
def detect(
    raw: Tensor,
    grid: AnchorGrid,
    num_classes: int,
    num_slots: int,
    num_states: int = 0,
    body_score: float = 0.05,
    body_iou: float = 0.6,
    part_score: float = 0.1,
    part_iou: float = 0.3,
    max_detections: int = 300,
    pre_nms_top_k: int = 5000,
) -> list[dict[str, Tensor]]:
    """Return the bodies and parts of every image, best first.

    Bodies and parts have thresholds of their own. Of the boxes of one class that overlap by more
    than ``body_iou`` or ``part_iou`` the best stays.

    Paper: Zhou et al., arXiv:2304.10765. Its thresholds are the defaults; for CityPersons 0.01 for
    bodies and 0.02 for parts.

    Args:
        raw: Output of the head, (B, N, 5 + C + 2 K + S).
        grid: The N predictions.
        num_classes: Number C of classes, the bodies' among them.
        num_slots: Number K of slots.
        num_states: Number S of contact states, 4 for each slot.
        body_score: Score that a body exceeds.
        body_iou: Overlap above which the worse of two bodies goes.
        part_score: Score that a part exceeds.
        part_iou: Overlap above which the worse of two parts of a class goes.
        max_detections: Most bodies, and most parts, of an image.
        pre_nms_top_k: Most candidates for bodies, and for parts, of an image.

    Returns:
        Of each image ``boxes`` (n, 4), ``scores`` (n,) descending, ``labels`` (n,) and ``points``
        (n, K, 2), with contact states also their probabilities ``states`` (n, S).

    Raises:
        ValueError: ``raw`` does not fit the predictions.

    Example:
        >>> import torch
        >>> from modules.bpjdet.anchor_grid import AnchorGrid
        >>> from modules.bpjdet.decoding import detect
        >>> grid = AnchorGrid.of((32, 32), torch.full((1, 1, 2), 20.0), strides=(16,))
        >>> raw = torch.full((1, 4, 9), -9.0)
        >>> raw[0, 0] = torch.tensor([0, 0, 0, 0, 3, 2, -2, 0, 0])
        >>> found = detect(raw, grid, num_classes=2, num_slots=1)[0]
        >>> found["boxes"].tolist(), found["labels"].tolist()
        ([[-2.0, -2.0, 18.0, 18.0]], [0])
    """
    check_raw(raw, grid, BOX_CHANNELS + num_classes + 2 * num_slots + num_states)
    logits = at_least_float32(raw[..., OBJECTNESS : BOX_CHANNELS + num_classes])
    probability, label = logits[..., 1:].sigmoid().max(dim=-1)
    score = logits[..., 0].sigmoid() * probability
    kept: list[tuple[Tensor, Tensor]] = []
    for of_pass, least, overlap in (
        (label == BODY, body_score, body_iou),
        (label != BODY, part_score, part_iou),
    ):
        # of all images at once, as a GPU is waited for wherever a number of boxes is found out
        image, place = ((score > least) & of_pass).nonzero(as_tuple=True)
        best = _best(score[image, place], image)
        best = best[_first(image[best], pre_nms_top_k)]
        image, place = image[best], place[best]
        boxes = _decode_rows(raw, grid, image, place, num_classes, num_slots).boxes
        group = image * num_classes + label[image, place]
        best = _nms(boxes, score[image, place], group, overlap)
        best = best[image[best].argsort(stable=True)]
        best = best[_first(image[best], max_detections)]
        kept.append((image[best], place[best]))
    image, place = (torch.cat(both) for both in zip(*kept, strict=True))
    best = _best(score[image, place], image)
    image, place = image[best], place[best]
    rows = _decode_rows(raw, grid, image, place, num_classes, num_slots)
    # of all predictions at once, as of a few, another kernel may round otherwise
    rows = rows._replace(scores=score[image, place], labels=label[image, place])
    numbers = torch.arange(1, len(raw) + 1, device=raw.device)
    ends = torch.searchsorted(image, numbers).tolist()
    names = ["boxes", "scores", "labels", "points"] + ["states"] * (num_states > 0)
    return [
        {name: getattr(rows, name)[start:end] for name in names}
        for start, end in pairwise([0, *ends])
    ]


def contact_states(found: dict[str, Tensor], of_body: float = 0.4) -> Tensor:
    """Return the contact states of parts, fused with what their body says of its slot, (n, 4).

    A part's own states are always its first four; those of a body, or of a part without one, stay
    as they are. The paper's code reads other logits for second hands, which are never trained.

    Args:
        found: Detections of one image with ``states`` (n, S), ``body`` and ``slot`` (n,).
        of_body: Weight of what the body says.

    Example:
        >>> import torch
        >>> from modules.bpjdet.decoding import contact_states
        >>> found = {
        ...     "states": torch.tensor([[0.0] * 4 + [1.0] * 4, [0.5] * 8]),
        ...     "body": torch.tensor([-1, 0]),
        ...     "slot": torch.tensor([-1, 1]),
        ... }
        >>> contact_states(found)[1]
        tensor([0.7000, 0.7000, 0.7000, 0.7000])
    """
    states, body, slot = found["states"], found["body"], found["slot"]
    own = states[:, :STATES_PER_SLOT]
    by_slot = states.unflatten(1, (-1, STATES_PER_SLOT))
    said = by_slot[body.clamp(min=0), slot.clamp(min=0)]
    fused = of_body * said + (1 - of_body) * own
    return torch.where((body >= 0)[:, None], fused, own)


def _decode_rows(
    raw: Tensor, grid: AnchorGrid, image: Tensor, place: Tensor, num_classes: int, num_slots: int
) -> Decoded:
    at = (grid.cell[place], grid.stride[place], grid.anchor[place])
    return decode(raw[image, place], *at, num_classes=num_classes, num_slots=num_slots)


def _best(score: Tensor, image: Tensor) -> Tensor:
    """Return the order by image, and in it by score."""
    order = score.argsort(descending=True, stable=True)
    return order[image[order].argsort(stable=True)]


def _first(image: Tensor, most: int) -> Tensor | slice:
    """Return the first rows of each image, where the images are in order."""
    if len(image) <= most:
        return slice(None)
    before = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
    return (before < most).nonzero().squeeze(1)


def _nms(boxes: Tensor, scores: Tensor, group: Tensor, overlap: float) -> Tensor:
    """Return what of each group stays, best first."""
    if not len(boxes):
        return group.new_zeros(0)
    # groups are moved apart: in float32 a batch of large images would round the boxes, and what
    # lies left of or above 0 would meet the group before
    apart = boxes.double()
    return batched_nms(apart - apart.min(), scores.double(), group, overlap)
