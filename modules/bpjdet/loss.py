"""The loss of BPJDet: boxes, objectness, classes, and the points from bodies to their parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.precision import at_least_float32
from modules.bpjdet.anchor_grid import BOX_CHANNELS, OBJECTNESS, AnchorGrid, check_raw
from modules.bpjdet.assignment import UNSURE, Assignment

BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
"""Weights of the objectness of each level, from fine to coarse, by the number of levels."""
TINY = 1e-7
"""Added to areas and lengths that divide, as torchvision does."""


class ExtendedObjectLoss(nn.Module):
    r"""The loss of extended objects: YOLOv5's, and the distances of points from where they belong.

    The terms, each the sum over the levels of a mean, are

    - ``box``: 1 - CIoU, over the positives of the level;
    - ``objectness``: cross-entropy with the CIoU, at least 0, of a positive prediction and with 0
      elsewhere, over all predictions, times ``balance``; of several rows of one prediction the
      largest CIoU counts, whatever their order, so that it is the same twice on a GPU;
    - ``class``: cross-entropy, over positives and classes;
    - ``part``: Euclidean distance of predicted points in cells, over the points that there are, of
      bodies and parts alike;
    - ``state``: cross-entropy summed over the contact states, over the positives where each is 0
      or 1.

    They are given per image, such that the mean over the images of the global batch is the term.
    ``weights`` weighs them, with S the image's size, C the classes and L the levels: ``box``
    0.05 · 3/L, ``objectness`` 0.7 (S/640)² · 3/L, ``class`` 0.3 C/80 · 3/L, ``part`` 0.015 · 3/L
    and ``state`` 0.01 · 3/L.

    Paper: Zhou et al., *BPJDet: Extended Object Representation for Generic Body-Part Joint
    Detection*, TPAMI 2024, arXiv:2304.10765. The weight of ``part`` is that of the released
    commands; the code's default is 0.025. Its loss is also multiplied by the number of images.

    Args:
        num_classes: Number C of classes, the bodies' among them.
        num_slots: Number K of slots; without any there is no term ``part``, and this is YOLOv5's.
        num_levels: Number L of levels.
        image_size: Length S in pixels of the longer side of the training images.
        num_states: Number S of contact states, 4 for each slot; 0 for none.
        weights: Weights of terms, in place of those above.
        balance: Weights of the objectness of each level; default YOLOv5's for 3 or 4 levels.
        smoothing: Label smoothing δ; the label of a class is 1 - δ/2 where present, else δ/2.
        sync_normalizer: Whether positives and points are counted over all ranks, so that several
            ranks have the loss of one process, by a collective call; otherwise each rank takes its
            own means, as the paper's code.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.bpjdet.anchor_grid import AnchorGrid
        >>> from modules.bpjdet.assignment import AnchorAssigner
        >>> from modules.bpjdet.loss import ExtendedObjectLoss
        >>> people = {
        ...     "bodies": torch.tensor([[[255.0, 200, 345, 360]]]),
        ...     "parts": torch.zeros(1, 1, 1, 4),
        ...     "visible": torch.zeros(1, 1, 1, dtype=torch.bool),
        ...     "part_ignored": torch.zeros(1, 1, 1, dtype=torch.bool),
        ...     "ignored": torch.zeros(1, 1, dtype=torch.bool),
        ...     "num_people": torch.tensor([1]),
        ... }
        >>> anchors = torch.tensor([[[96.0, 68], [86, 152], [180, 137]]])
        >>> found = AnchorAssigner(anchors, strides=(16,))(people, (1,), (640, 640))
        >>> grid = AnchorGrid.of((640, 640), anchors, strides=(16,))
        >>> loss = ExtendedObjectLoss(2, 1, num_levels=1, balance=(1.0,))
        >>> loss(torch.zeros(1, len(grid), 9), grid, found)["box"]
        tensor([0.4607])
    """

    def __init__(
        self,
        num_classes: int,
        num_slots: int,
        num_levels: int = 4,
        image_size: int = 640,
        num_states: int = 0,
        weights: Mapping[str, float] | None = None,
        balance: Sequence[float] | None = None,
        smoothing: float = 0.0,
        sync_normalizer: bool = True,
    ) -> None:
        super().__init__()
        check_at_least(1, num_classes=num_classes, num_levels=num_levels, image_size=image_size)
        check_at_least(0, num_slots=num_slots, num_states=num_states)
        check_interval("[0, 1)", smoothing=smoothing)
        self.weights = _weights(num_classes, num_slots, num_levels, image_size, num_states)
        for term in weights or ():
            check_one_of(self.weights, weights=term)
        self.weights.update(weights or {})
        check_at_least(0, **{f"weights.{term}": value for term, value in self.weights.items()})
        known = BALANCE.get(num_levels) if balance is None else balance
        if known is None or len(known) != num_levels:
            raise ValueError(
                f"balance must have a weight for each of {num_levels} levels, got {balance}."
            )
        self.num_classes = num_classes
        self.num_slots = num_slots
        self.num_states = num_states
        self.balance = tuple(known)
        self.smoothing = smoothing
        self.sync_normalizer = sync_normalizer

    def forward(self, raw: Tensor, grid: AnchorGrid, assignment: Assignment) -> dict[str, Tensor]:
        """Return the terms before they are weighted, each (B,); 0 for an image without objects.

        Args:
            raw: Output of the head, (B, N, 5 + C + 2 K + S): box, objectness, classes, points,
                states.
            grid: The N predictions.
            assignment: Positive predictions of the B images.

        Raises:
            ValueError: Shapes do not fit.
        """
        sizes = [BOX_CHANNELS, self.num_classes, 2 * self.num_slots, self.num_states]
        check_raw(raw, grid, sum(sizes))
        self._check_assignment(raw, assignment)
        with torch.autocast(raw.device.type, enabled=False):
            flat = assignment.image * len(grid) + assignment.prediction
            # a prediction may have several rows, whose gradients an index adds in any order
            rows = at_least_float32(F.embedding(flat, raw.flatten(0, 1)))
            a = _in_type(assignment, rows.dtype)
            box, classes, points, states = rows.split(sizes, dim=1)
            t = box[:, :OBJECTNESS].sigmoid()
            box = torch.cat([2 * t[:, :2] - 0.5, (2 * t[:, 2:]).square() * a.anchor_size], dim=1)
            ciou = _complete_iou(box, a.box)
            label = torch.full_like(classes, self.smoothing / 2)
            label = label.scatter(1, a.label[:, None], 1 - self.smoothing / 2)
            positive, visible, known = self._shares(len(raw), a)
            errors = {
                "box": (1 - ciou) * positive,
                "class": _entropy(classes, label).mean(dim=1) * positive,
            }
            if self.num_slots:
                offsets = (4 * points.sigmoid() - 2).unflatten(1, (self.num_slots, 2))
                apart = offsets * a.anchor_size[:, None] - a.points
                distance = torch.linalg.vector_norm(apart, dim=2) * a.mask
                errors["part"] = distance.sum(dim=1) * visible
            if self.num_states:
                error = _entropy(states, a.states.clamp(max=1).to(states.dtype))
                errors["state"] = (error * (a.states < UNSURE) * known).sum(dim=1)
            # a sum over rows in random order would not be the same twice on a GPU
            own = a.image == torch.arange(len(raw), device=raw.device)[:, None]
            sums = torch.where(own, torch.stack(list(errors.values()))[:, None], 0.0).sum(dim=2)
            terms = dict(zip(errors, sums.unbind(), strict=True))
            terms["objectness"] = self._objectness(raw, flat, ciou.detach(), grid)
        return {name: terms[name] for name in self.weights}

    def _shares(self, images: int, a: Assignment) -> tuple[Tensor, Tensor, Tensor]:
        """Return what one positive, one point and each state of a row count for in an image.

        That is the number of images over that of positives and so on of the row's level: the mean
        over the images then is the mean over those.
        """
        levels, device = len(self.balance), a.level.device
        on_level = a.level == torch.arange(levels, device=device)[:, None]
        known = (on_level[..., None] & (a.states < UNSURE)).sum(dim=1)
        rows = torch.full((1,), images, device=device)
        numbers = [a.positives.sum(dim=0), a.visible.sum(dim=0), known.flatten(), rows]
        counts = torch.cat(numbers)
        if self.sync_normalizer:
            counts = all_reduce_sum(counts)
        shares = counts[-1] / counts[:-1].clamp(min=1).to(a.box.dtype)
        positive, visible, state = shares.split([levels, levels, known.numel()])
        return positive[a.level], visible[a.level], state.view_as(known)[a.level]

    def _objectness(self, raw: Tensor, flat: Tensor, ciou: Tensor, grid: AnchorGrid) -> Tensor:
        logits = at_least_float32(raw[..., OBJECTNESS])
        target = torch.zeros_like(logits).flatten()
        # the largest, as the last of several writes would be any of them on a GPU
        target = target.scatter_reduce(0, flat, ciou.clamp(min=0), "amax").view_as(logits)
        levels = _entropy(logits, target).split(grid.sizes, dim=1)
        means = [w * level.mean(dim=1) for w, level in zip(self.balance, levels, strict=True)]
        return torch.stack(means).sum(dim=0)

    def _check_assignment(self, raw: Tensor, a: Assignment) -> None:
        expected = (len(raw), len(self.balance)), self.num_slots, self.num_states
        found = tuple(a.positives.shape), a.mask.shape[1], a.states.shape[1]
        if found != expected:
            raise ValueError(
                f"The assignment has (images, levels), slots and states {found}, the loss expects "
                f"{expected}."
            )


def _weights(
    classes: int, slots: int, levels: int, image_size: int, states: int
) -> dict[str, float]:
    """Return the weights of the terms that there are."""
    share = 3 / levels
    weights = {
        "box": 0.05 * share,
        "objectness": 0.7 * (image_size / 640) ** 2 * share,
        "class": 0.3 * classes / 80 * share,
    }
    if slots:
        weights["part"] = 0.015 * share
    if states:
        weights["state"] = 0.01 * share
    return weights


def _in_type(a: Assignment, dtype: torch.dtype) -> Assignment:
    """Return an assignment with places and sizes of a type."""
    return replace(
        a, anchor_size=a.anchor_size.to(dtype), box=a.box.to(dtype), points=a.points.to(dtype)
    )


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _complete_iou(found: Tensor, true: Tensor) -> Tensor:
    """Return the complete IoU of boxes by center and size, (P,).

    torchvision's takes what overlaps by a mask, whose size a GPU would be waited for.

    Paper: Zheng et al., *Distance-IoU Loss: Faster and Better Learning for Bounding Box
    Regression*, AAAI 2020, arXiv:1911.08287.
    """
    boxes = torch.stack([found, true])
    centers, sizes = boxes[..., :2], boxes[..., 2:].clamp(min=TINY)
    low, high = centers - sizes / 2, centers + sizes / 2
    shared = (high.amin(dim=0) - low.amax(dim=0)).clamp(min=0).prod(dim=1)
    hull = high.amax(dim=0) - low.amin(dim=0)
    iou = shared / (sizes.prod(dim=2).sum(dim=0) - shared + TINY)
    apart = (centers[0] - centers[1]).square().sum(dim=1) / (hull.square().sum(dim=1) + TINY)
    angles = torch.atan(sizes[..., 0] / sizes[..., 1])
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    emphasis = (shape / (1 - iou + shape + TINY)).detach()
    return iou - apart - emphasis * shape
