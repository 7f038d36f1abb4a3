"""Association of detected parts with detected bodies, by the points that a detector predicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from framework.utilities.checks import check_interval, check_one_of

AssociationMode = Literal["body_to_part", "part_to_body", "mutual", "overlap"]


def associate(
    found: dict[str, Tensor],
    slot_classes: Sequence[int],
    inside: float = 0.6,
    mode: AssociationMode = "body_to_part",
    hungarian: bool = False,
    round_bodies: bool = False,
) -> dict[str, Tensor]:
    """Return detections with the body and the slot of each part.

    A body has a slot for each part that it may have. In the order of their scores, parts go to the
    body that is nearest by ``mode``, if the slot is still free there and more than ``inside`` of
    the part's area lies in the body; a part that is refused is not offered to the second nearest.
    Where a class has several slots, what is not taken on the first is tried on the next.

    The distance of ``body_to_part`` is from the body's point for the slot to the part's center, of
    ``part_to_body`` from the part's first point to the body's center; of ``mutual`` the sum of
    both. ``overlap`` needs no points: the nearest body is the one in which most of the part lies,
    and of equal ones that whose top is nearer.

    Any detector serves whose predictions have such points.

    Paper: Zhou et al., *BPJDet: Extended Object Representation for Generic Body-Part Joint
    Detection*, TPAMI 2024, arXiv:2304.10765, is ``body_to_part`` with ``round_bodies``. The other
    modes are not in it.

    Args:
        found: Detections of one image: ``boxes`` (n, 4), left, top, right and bottom in pixels;
            ``scores`` (n,); ``labels`` (n,) int64, 0 for bodies; and ``points`` (n, K, 2), for a
            body the centers of its parts, for a part in the first place that of its body.
        slot_classes: Class of the parts in each of the K slots.
        inside: Share of a part's area that must be exceeded in its body.
        mode: Distance between bodies and parts: ``body_to_part``, ``part_to_body``, ``mutual`` or
            ``overlap``.
        hungarian: Whether the parts of a class share its slots such that most of them, and then
            those with the least sum of distances, have one; for ``mutual``.
        round_bodies: Whether the corners of bodies are rounded to whole pixels before.

    Returns:
        The detections with ``body`` (n,) int64, row of the part's body, and ``slot`` (n,) int64,
        its slot there; -1 for none and for bodies.

    Raises:
        ValueError: An argument is out of its range, or there are other than K points.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import associate
        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0, 100, 200], [80, 0, 180, 200], [40, 5, 60, 35]]),
        ...     "scores": torch.tensor([0.9, 0.8, 0.7]),
        ...     "labels": torch.tensor([0, 0, 1]),
        ...     "points": torch.tensor([[[50.0, 20]], [[130, 22]], [[60, 90]]]),
        ... }
        >>> associate(found, slot_classes=(1,))["body"]
        tensor([-1, -1,  0])
    """
    _check(inside, mode, hungarian)
    if found["points"].shape[1:] != (len(slot_classes), 2):
        raise ValueError(
            f"points must be (n, {len(slot_classes)}, 2) for the slots of classes "
            f"{tuple(slot_classes)}, got {tuple(found['points'].shape)}."
        )
    scene = _Scene(found, mode, round_bodies)
    body = torch.full_like(found["labels"], -1)
    slot = body.clone()
    if len(scene.bodies) and len(scene.parts) and slot_classes:
        pair = _solved if hungarian else _nearest
        place, taken = pair(scene, slot_classes, inside)
        body[scene.parts] = torch.where(place < 0, -1, scene.bodies[place])
        slot[scene.parts] = taken
    return {**found, "body": body, "slot": slot}


def above_score(found: dict[str, Tensor], least: float) -> dict[str, Tensor]:
    """Return the detections of at least a score; parts of a body that is left out have none.

    Args:
        found: Associated detections of one image.
        least: Lowest score that stays.

    Example:
        >>> import torch
        >>> scores, body = torch.tensor([0.9, 0.8, 0.2, 0.7]), torch.tensor([-1, 2, -1, 0])
        >>> above_score({"scores": scores, "body": body}, 0.5)["body"]
        tensor([-1, -1,  0])
    """
    kept = found["scores"] >= least
    chosen = {name: value[kept] for name, value in found.items()}
    if not len(kept):
        return chosen
    row = kept.cumsum(0) - 1
    body = chosen["body"]
    has_body = (body >= 0) & kept[body.clamp(min=0)]
    return {**chosen, "body": row[body.clamp(min=0)].where(has_body, body.new_tensor(-1))}


class BodyPartAssociator(nn.Module):
    """Gives detected parts to detected bodies, see ``associate``; has no parameters.

    Args:
        inside: Share of a part's area that must be exceeded in its body.
        mode: Distance between bodies and parts: ``body_to_part``, the paper's, ``part_to_body``,
            ``mutual`` or ``overlap``.
        hungarian: Whether the parts of a class share its slots such that most of them, and then
            those with the least sum of distances, have one; for ``mutual``.
        round_bodies: Whether the corners of bodies are rounded to whole pixels before, as in the
            paper's code.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import BodyPartAssociator
        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0, 100, 200], [40, 5, 60, 35]]),
        ...     "scores": torch.tensor([0.9, 0.7]),
        ...     "labels": torch.tensor([0, 1]),
        ...     "points": torch.tensor([[[50.0, 20]], [[50, 100]]]),
        ... }
        >>> BodyPartAssociator(mode="mutual")(found, slot_classes=(1,))["slot"]
        tensor([-1,  0])
    """

    def __init__(
        self,
        inside: float = 0.6,
        mode: AssociationMode = "body_to_part",
        hungarian: bool = False,
        round_bodies: bool = False,
    ) -> None:
        super().__init__()
        _check(inside, mode, hungarian)
        self.inside = inside
        self.mode: AssociationMode = mode
        self.hungarian = hungarian
        self.round_bodies = round_bodies

    def forward(self, found: dict[str, Tensor], slot_classes: Sequence[int]) -> dict[str, Tensor]:
        """Return the detections of one image with ``body`` and ``slot``."""
        return associate(
            found,
            slot_classes,
            inside=self.inside,
            mode=self.mode,
            hungarian=self.hungarian,
            round_bodies=self.round_bodies,
        )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"inside={self.inside}, mode={self.mode!r}, hungarian={self.hungarian}"


class _Scene:
    """The m bodies and the p parts of an image, parts best first."""

    def __init__(self, found: dict[str, Tensor], mode: AssociationMode, round_bodies: bool) -> None:
        order = found["scores"].argsort(descending=True, stable=True)
        labels = found["labels"]
        self.mode = mode
        self.bodies = (labels == 0).nonzero().squeeze(1)
        self.parts = order[(labels[order] > 0).nonzero().squeeze(1)]
        self.labels = labels[self.parts]
        # exactly what a loop over bodies and parts finds, ties too
        boxes, points = found["boxes"].double(), found["points"].double()
        self.body_boxes = boxes[self.bodies].round() if round_bodies else boxes[self.bodies]
        self.part_boxes, self.part_points = boxes[self.parts], points[self.parts]
        # x and y apart, (2, K, m): a last axis of two would be slow
        self.body_points = points[self.bodies].permute(2, 1, 0).contiguous()

    def distances(self, slot: Tensor) -> Tensor:
        """Return how far each part is from each body, (p, m), for the slots (p,) of the parts.

        Only their order counts, so that where there is but one distance it is squared.
        """
        part_center = _center(self.part_boxes)[:, :, None]
        if self.mode == "overlap":
            x0, y0, x1, _ = self.body_boxes.unbind(dim=1)
            share = self.shares()
            most = share == share.amax(dim=1, keepdim=True)
            return _squared(part_center, ((x0 + x1) / 2, y0)).masked_fill(~most, torch.inf)
        body_center, pointed = _center(self.body_boxes), self.part_points[:, 0].T[:, :, None]
        if self.mode == "part_to_body":
            return _squared(pointed, body_center)
        x, y = self.body_points
        to_part = _squared(part_center, (x[slot], y[slot]))
        if self.mode == "body_to_part":
            return to_part
        return to_part.sqrt_() + _squared(pointed, body_center).sqrt_()

    def shares(self) -> Tensor:
        """Return which share of each part's area lies in each body, (p, m)."""
        return _share_inside(self.part_boxes[:, None], self.body_boxes)


def _nearest(scene: _Scene, slot_classes: Sequence[int], inside: float) -> tuple[Tensor, Tensor]:
    """Return the body and the slot of each part, -1 for none: slot by slot, the best part first."""
    slots, count, device = len(slot_classes), len(scene.parts), scene.parts.device
    number = torch.arange(count, device=device)
    body = torch.full_like(number, -1)
    taken = body.clone()
    for of_class in _slots_of_classes(slot_classes):
        known = torch.tensor(of_class, device=device)
        tried = known[scene.labels.clamp(max=len(of_class) - 1)]
        slot = tried.clamp(min=0)
        nearest = scene.distances(slot).argmin(dim=1)
        fits = _share_inside(scene.part_boxes, scene.body_boxes[nearest]) > inside
        fits &= (tried >= 0) & (body < 0)
        key = nearest * slots + slot
        first = torch.full((len(scene.bodies) * slots,), count, device=device)
        first = first.scatter_reduce_(0, key, number.masked_fill(~fits, count), "amin")
        fits &= first[key] == number
        body, taken = torch.where(fits, nearest, body), torch.where(fits, slot, taken)
    return body, taken


def _solved(scene: _Scene, slot_classes: Sequence[int], inside: float) -> tuple[Tensor, Tensor]:
    """Return the body and the slot of each part, -1 for none: of a class, all at once."""
    from scipy.optimize import linear_sum_assignment

    body = torch.full_like(scene.parts, -1)
    taken = body.clone()
    free = scene.shares() > inside
    every = torch.stack(
        [scene.distances(torch.full_like(scene.parts, slot)) for slot in range(len(slot_classes))]
    )
    for label in sorted(set(slot_classes)):
        slots = torch.tensor([k for k, c in enumerate(slot_classes) if c == label]).to(body.device)
        mine = (scene.labels == label).nonzero().squeeze(1)
        allowed = free[mine].repeat(1, len(slots))
        costs = every[slots][:, mine].movedim(0, 1).flatten(1)
        # dearer than any number of allowed pairs
        refused = 1 + costs.masked_fill(~allowed, 0).sum()
        places, columns = linear_sum_assignment(torch.where(allowed, costs, refused).cpu())
        rows = torch.from_numpy(places).to(body.device)
        chosen = torch.from_numpy(columns).to(body.device)
        kept = allowed[rows, chosen].nonzero().squeeze(1)
        rows, chosen = mine[rows[kept]], chosen[kept]
        body[rows] = chosen % len(scene.bodies)
        taken[rows] = slots[chosen // len(scene.bodies)]
    return body, taken


def _slots_of_classes(slot_classes: Sequence[int]) -> list[list[int]]:
    """Return the first, second, ... slot of each class, -1 for none, and of any further class."""
    slots: dict[int, list[int]] = defaultdict(list)
    for slot, label in enumerate(slot_classes):
        slots[label].append(slot)
    rounds = max(map(len, slots.values()))
    labels = range(max(slots) + 2)
    return [[dict(enumerate(slots[c])).get(turn, -1) for c in labels] for turn in range(rounds)]


def _center(boxes: Tensor) -> Tensor:
    """Return x and y of the centers, (2, n)."""
    return ((boxes[:, :2] + boxes[:, 2:]) / 2).T


def _squared(a: Tensor | Sequence[Tensor], b: Tensor | Sequence[Tensor]) -> Tensor:
    """Return squared distances of points by x and y."""
    # cdist's matrix product would round
    x, y = a[0] - b[0], a[1] - b[1]
    return x.mul_(x).add_(y.mul_(y))


def _share_inside(parts: Tensor, bodies: Tensor) -> Tensor:
    """Return which share of a part's area lies in a body, of boxes (..., 4)."""
    x0, y0, x1, y1 = parts.unbind(dim=-1)
    left, top, right, bottom = bodies.unbind(dim=-1)
    width = (torch.minimum(x1, right) - torch.maximum(x0, left)).clamp(min=0)
    height = (torch.minimum(y1, bottom) - torch.maximum(y0, top)).clamp(min=0)
    return width * height / ((x1 - x0) * (y1 - y0))


def _check(inside: float, mode: AssociationMode, hungarian: bool) -> None:
    check_interval("[0, 1]", inside=inside)
    check_one_of(get_args(AssociationMode), mode=mode)
    if hungarian and mode != "mutual":
        raise ValueError(f"hungarian is for mode mutual, got {mode!r}.")
