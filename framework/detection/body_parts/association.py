"""Association of detected parts with detected bodies, by the points that a detector predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from framework.detection.body_parts.field_checks import check_fields, check_present
from framework.detection.body_parts.matching import Array, area_of, first_of_each, shared_area
from framework.utilities.checks import check_interval, check_one_of

AssociationMode = Literal["body_to_part", "part_to_body", "mutual", "overlap"]
Rows = NDArray[np.int64]


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
            ``scores`` (n,); ``labels`` (n,) int64, 0 for bodies; and, but for ``overlap``,
            ``points`` (n, K, 2), for a body the centers of its parts, for a part in the first place
            that of its body.
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
        ValueError: An argument is out of its range, a field is missing or has another shape or
            type, or there are other than K points.

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
    _check_found(found, slot_classes, needs_points=mode != "overlap")
    scene = _Scene(found, mode, round_bodies)
    if len(scene.bodies):
        for label in sorted({*slot_classes}):
            slots = [slot for slot, of_class in enumerate(slot_classes) if of_class == label]
            (_solve if hungarian else _take_nearest)(scene, label, slots, inside)
    device = found["labels"].device
    return {
        **found,
        "body": torch.from_numpy(scene.body).to(device),
        "slot": torch.from_numpy(scene.slot).to(device),
    }


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
        return (
            f"inside={self.inside}, mode={self.mode!r}, hungarian={self.hungarian}, "
            f"round_bodies={self.round_bodies}"
        )


class _Scene:
    """The bodies and parts of an image, in NumPy: an image has few of either.

    All is in float64, and what is computed is what a loop over bodies and parts does, ties too.
    """

    def __init__(self, found: dict[str, Tensor], mode: AssociationMode, round_bodies: bool) -> None:
        self.boxes, scores = (found[n].double().numpy(force=True) for n in ("boxes", "scores"))
        if mode != "overlap":
            self.points: Array = found["points"].double().numpy(force=True)
        self.labels: Rows = found["labels"].numpy(force=True)
        self.order: Rows = (-scores).argsort(kind="stable")
        self.mode = mode
        self.bodies: Rows = (self.labels == 0).nonzero()[0]
        self.body_boxes: Array = self.boxes[self.bodies]
        if round_bodies:
            self.body_boxes = self.body_boxes.round()
        self.body = np.full(len(self.labels), -1)
        self.slot = self.body.copy()

    def free_parts(self, label: int) -> Rows:
        """Return the rows of the parts of a class that have no body, best first."""
        free = (self.labels == label) & (self.body < 0)
        rows: Rows = self.order[free[self.order]]
        return rows

    def distances(self, parts: Rows, slot: int) -> Array:
        """Return how far each part is from each body, (p, m), for a slot of theirs.

        Only their order counts, so that where there is but one distance it is squared.
        """
        part_center = _center(self.boxes[parts])
        if self.mode == "overlap":
            x0, y0, x1, _ = self.body_boxes.T
            share = self.shares(parts)
            apart = _apart(part_center, np.stack([(x0 + x1) / 2, y0], axis=1))
            apart[share != share.max(axis=1, keepdims=True)] = np.inf
            return apart
        points = self.points[self.bodies, slot]
        if self.mode == "body_to_part":
            return _apart(part_center, points)
        pointed, body_center = self.points[parts, 0], _center(self.body_boxes)
        if self.mode == "part_to_body":
            return _apart(pointed, body_center)
        both: Array = np.sqrt(_apart(part_center, points)) + np.sqrt(_apart(pointed, body_center))
        return both

    def shares(self, parts: Rows) -> Array:
        """Return which share of each part's area lies in each body, (p, m)."""
        return _share_inside(self.boxes[parts, None], self.body_boxes)


def _take_nearest(scene: _Scene, label: int, slots: Sequence[int], inside: float) -> None:
    """Give the parts of a class their bodies: slot by slot, the best part first."""
    for slot in slots:
        parts = scene.free_parts(label)
        if not len(parts):
            return
        nearest = scene.distances(parts, slot).argmin(axis=1)
        fits = _share_inside(scene.boxes[parts], scene.body_boxes[nearest]) > inside
        taken = first_of_each(nearest, fits)
        scene.body[parts[taken]] = scene.bodies[nearest[taken]]
        scene.slot[parts[taken]] = slot


def _solve(scene: _Scene, label: int, slots: Sequence[int], inside: float) -> None:
    """Give the parts of a class their bodies: all at once."""
    from scipy.optimize import linear_sum_assignment

    parts = scene.free_parts(label)
    allowed = np.tile(scene.shares(parts) > inside, len(slots))
    costs = np.concatenate([scene.distances(parts, slot) for slot in slots], axis=1)
    # dearer than any number of allowed pairs
    refused = 1 + costs[allowed].sum()
    rows, columns = linear_sum_assignment(np.where(allowed, costs, refused))
    kept = allowed[rows, columns]
    slot, body = np.divmod(columns[kept], len(scene.bodies))
    scene.body[parts[rows[kept]]] = scene.bodies[body]
    scene.slot[parts[rows[kept]]] = np.array(slots)[slot]


def _center(boxes: Array) -> Array:
    """Return x and y of the centers, (n, 2)."""
    center: Array = (boxes[:, :2] + boxes[:, 2:]) / 2
    return center


def _apart(a: Array, b: Array) -> Array:
    """Return the squared distances (p, m) of points (p, 2) and (m, 2)."""
    x, y = (a[:, None, side] - b[:, side] for side in (0, 1))
    # one operation at a time rounds as the loop does on every processor; in place, for the cache
    x *= x
    y *= y
    x += y
    return x


def _share_inside(parts: Array, bodies: Array) -> Array:
    """Return which share of a part's area lies in a body, of boxes (..., 4)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Array = shared_area(parts, bodies) / area_of(parts)
    return share


def _check_found(found: dict[str, Tensor], slot_classes: Sequence[int], needs_points: bool) -> None:
    points = ("points",) if needs_points else ()
    check_present(found, ("boxes", "scores", "labels", *points))
    if needs_points and found["points"].shape[1:] != (len(slot_classes), 2):
        raise ValueError(
            f"points must be (n, {len(slot_classes)}, 2) for the slots of classes "
            f"{tuple(slot_classes)}, got {tuple(found['points'].shape)}."
        )
    number = len(found["boxes"])
    shapes = {"boxes": (number, 4), "scores": (number,), "labels": (number,)}
    shapes |= {name: (number, len(slot_classes), 2) for name in points}
    check_fields(found, shapes)


def _check(inside: float, mode: AssociationMode, hungarian: bool) -> None:
    check_interval("[0, 1]", inside=inside)
    check_one_of(get_args(AssociationMode), mode=mode)
    if hungarian and mode != "mutual":
        raise ValueError(f"hungarian is for mode mutual, got {mode!r}.")
