"""The loss of GGHL: object, class and place as one likelihood."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.precision import at_least_float32
from modules.gghl.assignment import Assignment
from modules.gghl.cells import Cells
from modules.gghl.decoding import BOX_CHANNELS, OBJECTNESS, check_raw, decode_boxes

EmptyLevel = Literal["skip", "global", "local"]
WEIGHTS = {
    "foreground": 2.0,
    "background": 2.0,
    "class_positive": 1.0,
    "class_negative": 1.0,
    "box": 1.0,
    "vertices": 1.0,
    "area": 16.0,
    "distance": 0.2,
}
"""The terms of the loss, and the weights of the authors' code."""
TINY = 1e-7
"""Added to areas that divide, as torchvision does."""


class JointOptimizationLoss(nn.Module):
    r"""Joint-optimization loss (JOL): a positive cell is a joint event of object, class and place.

    With E = E_iou + E_s + E_r, the errors of the horizontal box (β (1 - GIoU), β being 2 minus the
    share of the image that it covers, at least 0), of the gliding ratios and of the area ratio,
    class c has the joint probability q_c = σ(z_c) exp(-E). The terms
    of an image, each a sum over cells, divided by its positives on their level, are

    - ``foreground`` and ``background``: focal cross-entropy of the objectness, the former times
      (g + exp(-E)) / 2;
    - ``class_positive``: cross-entropy of q_c for the classes that own the cell, times the area
      weight w_A; ``class_negative``: that of σ(z_c) for the others;
    - ``box``, ``vertices``, ``area``, ``distance``: E_iou, E_s, E_r and the smooth L1 error of the
      distances in strides, times ω = w_A (σ(z_c) + g) / 2.

    Their sum, weighted by ``weights``, is the loss of the image.

    Paper: Huang et al., *A General Gaussian Heatmap Label Assignment for Arbitrary-Oriented Object
    Detection*, TIP 2022, arXiv:2109.12848. Weights are those of the code. There ω is not detached,
    which lowers the class score where the place is wrong; ``detach_weight=False`` follows it. There
    a level without objects has no loss, and mixup weighs a whole level like its last object:
    ``empty_level="skip"``. Otherwise λ of mixup belongs to the object's cells.

    Args:
        num_classes: Number C of classes.
        weights: Weights of terms, in place of the code's.
        smoothing: Label smoothing δ; the label of a class is 1 - δ + δ / C where present, else
            δ / C.
        gamma: Exponent of the focal term, 0 or at least 1.
        detach_weight: Whether no gradient goes through ω.
        empty_level: Background of a level: ``skip`` as above; ``global`` has one everywhere,
            divided by the image's positives on all levels; ``local`` divides by those on the level,
            which needs a bias of about -4 on the objectness, as a level without objects is divided
            by 1.
        extra_class_weight: Weight of ``extra_class``, the plain cross-entropy of all classes, which
            the authors compute and leave out.
        oriented: Whether boxes are oriented; otherwise E_s = E_r = 0.
        horizontal: Area ratio above which a predicted box is horizontal.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.gghl.assignment import OrientedGaussianAssigner
        >>> from modules.gghl.cells import Cells
        >>> from modules.gghl.loss import JointOptimizationLoss
        >>> quads = torch.tensor([[[[20.0, 20], [60, 20], [60, 40], [20, 40]]]])
        >>> label, weight = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
        >>> found = OrientedGaussianAssigner()(quads, label, weight, (128, 128), num_classes=2)
        >>> cells, loss = Cells.of((128, 128)), JointOptimizationLoss(num_classes=2)
        >>> terms = loss(torch.zeros(1, len(cells.level), 12), cells, found)
        >>> [name for name, value in terms.items() if value > 1]
        ['background', 'class_positive']
        >>> total = sum(loss.weights[name] * value for name, value in terms.items())
        >>> total.shape
        torch.Size([1])
    """

    def __init__(
        self,
        num_classes: int,
        weights: dict[str, float] | None = None,
        smoothing: float = 0.01,
        gamma: float = 2.0,
        detach_weight: bool = True,
        empty_level: EmptyLevel = "skip",
        extra_class_weight: float = 0.0,
        oriented: bool = True,
        horizontal: float = 0.9,
    ) -> None:
        super().__init__()
        check_at_least(1, num_classes=num_classes)
        for term in weights or ():
            check_one_of(WEIGHTS, weights=term)
        check_interval("[0, 1)", smoothing=smoothing)
        if gamma != 0 and not gamma >= 1:
            raise ValueError(f"gamma must be 0 or at least 1, got {gamma}.")
        check_one_of(get_args(EmptyLevel), empty_level=empty_level)
        self.weights = {**WEIGHTS, **(weights or {})}
        if extra_class_weight:
            self.weights["extra_class"] = extra_class_weight
        check_at_least(0, **{f"weights.{term}": value for term, value in self.weights.items()})
        self.num_classes = num_classes
        self.smoothing = smoothing
        self.gamma = gamma
        self.detach_weight = detach_weight
        self.empty_level = empty_level
        self.oriented = oriented
        self.horizontal = horizontal

    def forward(self, raw: Tensor, cells: Cells, assignment: Assignment) -> dict[str, Tensor]:
        """Return the terms before they are weighted, each (B,); 0 for an image without objects.

        Args:
            raw: Output of the head, (B, N, 10 + C): distances, gliding ratios, area ratio,
                objectness, classes.
            cells: The N cells.
            assignment: Positive cells of the B images.

        Raises:
            ValueError: Shapes do not fit.
        """
        check_raw(raw, cells)
        if raw.shape[2] != BOX_CHANNELS + self.num_classes or len(raw) != len(assignment.positives):
            raise ValueError(
                f"The head's output {tuple(raw.shape)} does not fit {len(assignment.positives)} "
                f"images and {self.num_classes} classes."
            )
        with torch.autocast(raw.device.type, enabled=False):
            raw = at_least_float32(raw)
            mask = raw.new_zeros(raw.shape[:2])
            mask[assignment.image, assignment.cell] = assignment.mask.to(raw.dtype)
            focal = self._focal(raw[..., OBJECTNESS], mask)
            terms = self._positive(raw, focal, cells, assignment)
            terms["background"] = self._background(focal, mask, cells, assignment)
        return {name: terms[name] for name in self.weights}

    def _positive(
        self, raw: Tensor, focal: Tensor, cells: Cells, a: Assignment
    ) -> dict[str, Tensor]:
        place = (a.image, a.cell)
        rows, heat = raw[place], a.heat.to(raw.dtype)
        stride = cells.stride[a.cell].to(raw.dtype)
        found = decode_boxes(rows, cells.center[a.cell], stride, self.oriented, self.horizontal)
        box, s, r = a.box.to(raw.dtype), a.s.to(raw.dtype), a.r.to(raw.dtype)
        distances = a.distances.to(raw.dtype)
        if not self.oriented:
            s, r = torch.zeros_like(s), torch.ones_like(r)
        height, width = cells.image_size
        # an object that a crop or an affine map enlarged may be larger than the image
        covered = (box[:, 2:] - box[:, :2]).prod(dim=1) / (height * width)
        emphasis = (2 - covered).clamp(min=0)
        in_strides = F.smooth_l1_loss(
            found.distances / stride[:, None], distances / stride[:, None], reduction="none"
        )
        box_errors = torch.stack([_giou_loss(found.distances, distances), in_strides.sum(dim=1)])
        box_error, distance = (emphasis * box_errors).unbind()
        errors = torch.stack(
            [
                box_error,
                F.mse_loss(found.s, s, reduction="none").sum(dim=1),
                F.mse_loss(found.r, r, reduction="none"),
                distance,
            ]
        )
        error = errors[:3].sum(dim=0)

        logits, own, prior = rows[:, BOX_CHANNELS:], heat > 0, heat.amax(dim=1)
        area_weight, mask = a.area_weight.to(raw.dtype), a.mask.to(raw.dtype)
        label = own.to(raw.dtype) * (1 - self.smoothing) + self.smoothing / self.num_classes
        # the joint probability rounds to 1 before its logarithm does
        log_q = (F.logsigmoid(logits) - error[:, None]).clamp(max=-1e-6)
        joint = -label * log_q - (1 - label) * torch.log(-torch.expm1(log_q))
        plain = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
        trust = (logits.sigmoid() * own).sum(dim=1)
        if self.detach_weight:
            trust = trust.detach()
        classes = [joint.masked_fill(~own, 0.0), plain.masked_fill(own, 0.0)]
        names = ["class_positive", "class_negative"]
        if "extra_class" in self.weights:
            classes.append(plain)
            names.append("extra_class")
        names += ["box", "vertices", "area", "distance", "foreground"]
        cellwise = torch.cat(
            [
                area_weight * torch.stack(classes).sum(dim=2),
                area_weight * (trust + prior) / 2 * errors,
                (focal[place] * (prior + (-error).exp().detach()) / 2)[None],
            ]
        )
        number = a.positives.clamp(min=1)
        share = a.level_weight[a.image, a.level] if self.empty_level == "skip" else a.object_weight
        share = mask * share.to(raw.dtype) / number[a.image, a.level]
        # a sum over rows in random order would not be the same twice on a GPU
        everywhere = raw.new_zeros(len(names), *raw.shape[:2])
        everywhere[:, a.image, a.cell] = share * cellwise
        return dict(zip(names, everywhere.sum(dim=2).unbind(), strict=True))

    def _background(self, focal: Tensor, mask: Tensor, cells: Cells, a: Assignment) -> Tensor:
        number = a.positives
        if self.empty_level == "global":
            number = number.sum(dim=1, keepdim=True).expand_as(number)
        share = 1 / number.clamp(min=1).to(mask.dtype)
        if self.empty_level == "skip":
            share = share * a.level_weight
        value = (1 - mask) * focal * share.to(mask.dtype)[:, cells.level]
        return value.sum(dim=1)

    def _focal(self, logits: Tensor, mask: Tensor) -> Tensor:
        target = 0.99 * mask + 0.005
        modulator = (target - logits.sigmoid()).abs() ** self.gamma
        return modulator * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _giou_loss(found: Tensor, true: Tensor) -> Tensor:
    """Return 1 - GIoU of boxes that share a point, (P,).

    torchvision's compares corners by masks, whose size a GPU would be waited for.

    Args:
        found: Distances from the point to top, right, bottom and left, (P, 4), positive.
        true: The same of the other boxes.
    """
    boxes = torch.stack([torch.minimum(found, true), torch.maximum(found, true), found, true])
    height, width = (boxes[..., :2] + boxes[..., 2:]).unbind(dim=-1)
    shared, hull, area_found, area_true = (height * width).unbind()
    union = area_found + area_true - shared
    # the IoU, and what of the hull they cover
    shares = torch.stack([shared, union]) / (torch.stack([union, hull]) + TINY)
    return 2 - shares.sum(dim=0)
