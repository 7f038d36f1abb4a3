"""Assignment of bodies and parts to predictions: by shape to anchors, by center to cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from framework.utilities.checks import check_interval
from framework.utilities.packed_copy import copy_packed
from modules.bpjdet.anchor_grid import check_anchors, level_shapes

STATES_PER_SLOT = 4
"""Contact states of a hand."""
UNSURE = 2
"""State that is neither learned nor scored, beside 0 and 1."""
NEIGHBORS = ((0.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0))
"""Steps x and y to the cell of the center, and to the cells left, above, right and below."""


@dataclass(frozen=True)
class Assignment:
    """The P positive predictions of a batch, ordered by image; a prediction may have several rows.

    Lengths are in cells of the row's level, and places relative to the upper left corner of the
    row's cell. Lightning moves it with its batch, by ``to``.

    Args:
        image: Images, (P,) int64.
        prediction: Places in ``AnchorGrid``, (P,) int64.
        level: Levels, (P,) int64.
        anchor_size: Widths and heights of the anchors, (P, 2).
        label: Classes, (P,) int64.
        box: Center x and y, width and height, (P, 4).
        points: For a body the centers of its parts, for a part that of its body first, (P, K, 2);
            0 where there is none.
        mask: Whether there is such a point, (P, K) bool.
        states: Contact states 0, 1 or 2 (unsure), (P, S) int64, S = 0 without them.
        positives: Number of rows of each image and level, (B, L) int64.
        visible: Number of their points that there are, (B, L) int64.
    """

    image: Tensor
    prediction: Tensor
    level: Tensor
    anchor_size: Tensor
    label: Tensor
    box: Tensor
    points: Tensor
    mask: Tensor
    states: Tensor
    positives: Tensor
    visible: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        """Yield what has a row per image: Lightning tells the size of a batch by its parts."""
        yield self.positives

    def to(self, device: torch.device | str) -> Assignment:
        """Return it on a device, by one copy."""
        return Assignment(**copy_packed(vars(self), device))


class _Objects(NamedTuple):
    """The n bodies and parts that are learned, in pixels."""

    image: Tensor
    label: Tensor
    center: Tensor
    size: Tensor
    points: Tensor
    mask: Tensor
    states: Tensor


class AnchorAssigner:
    """Assigns bodies and parts to predictions as YOLOv5 does, and gives each body's part centers.

    An object is positive for each anchor, of any level, from whose sides its own differ by less
    than the factor ``ratio``; there in the cell of its center, and in the neighbor at each side
    that is nearer than ``offset`` cells. Bodies that are ignored, their parts, parts that are
    ignored, and boxes without area train nothing; cells outside the image do not exist.

    Paper: Zhou et al., *BPJDet: Extended Object Representation for Generic Body-Part Joint
    Detection*, TPAMI 2024, arXiv:2304.10765. Where a center lies on the border of two cells, its
    code also takes the neighbor beyond the cell to the right or below, from which a predicted
    center cannot reach it; here it does not count.

    Args:
        anchors: Widths and heights of the anchors in pixels, (L, A, 2).
        strides: Strides of the L levels.
        ratio: Factor by which both sides differ by less.
        offset: Distance in cells from a side below which the neighbor there is positive too.

    Raises:
        ValueError: An argument is out of its range, or anchors and strides do not fit.

    Example:
        >>> import torch
        >>> from modules.bpjdet.assignment import AnchorAssigner
        >>> people = {
        ...     "bodies": torch.tensor([[[255.0, 200, 345, 360]]]),
        ...     "parts": torch.tensor([[[[290.0, 197, 320, 233]]]]),
        ...     "visible": torch.tensor([[[True]]]),
        ...     "part_ignored": torch.tensor([[[False]]]),
        ...     "ignored": torch.tensor([[False]]),
        ...     "num_people": torch.tensor([1]),
        ... }
        >>> anchors = torch.tensor([[[96.0, 68], [86, 152], [180, 137]]])
        >>> found = AnchorAssigner(anchors, strides=(16,))(people, (1,), (640, 640))
        >>> found.label.tolist(), found.points[0, 0].tolist()
        ([0, 0, 0, 0, 0, 0, 1, 1, 1], [1.0625, -3.5625])
    """

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int] = (8, 16, 32, 64),
        ratio: float = 4.0,
        offset: float = 0.5,
    ) -> None:
        check_anchors(anchors, strides)
        check_interval("(1, inf)", ratio=ratio)
        check_interval("[0, 0.5]", offset=offset)
        self.anchors = anchors.detach().cpu().clone()
        self.strides = tuple(strides)
        self.ratio = ratio
        self.offset = offset

    @torch.no_grad()
    def __call__(
        self,
        people: Mapping[str, Tensor],
        slot_classes: Sequence[int],
        image_size: tuple[int, int],
    ) -> Assignment:
        """Return the positive predictions; a GPU would be waited for.

        Args:
            people: Padded fields of ``People``: ``bodies`` (B, M, 4), ``parts`` (B, M, K, 4),
                ``visible`` and ``part_ignored`` (B, M, K), ``ignored`` (B, M) and ``num_people``
                (B,), and with contact states ``states`` (B, M, K, 4) int64: 0, 1 or 2 for unsure.
            slot_classes: Class of the parts in each of the K slots.
            image_size: Height and width in pixels.

        Raises:
            ValueError: ``slot_classes`` does not fit the parts.
        """
        if people["parts"].shape[2] != len(slot_classes):
            raise ValueError(
                f"slot_classes has {len(slot_classes)} classes, but people have "
                f"{people['parts'].shape[2]} slots."
            )
        objects = _objects_of(people, slot_classes)
        shapes = level_shapes(image_size, self.strides)
        images, levels = len(people["bodies"]), len(self.strides)
        anchors = self.anchors.to(objects.size)
        number = anchors.shape[1]

        quotient = objects.size[:, None, None] / anchors
        matched = torch.maximum(quotient, 1 / quotient).amax(dim=-1) < self.ratio
        row, level, anchor = matched.nonzero(as_tuple=True)
        stride = anchors.new_tensor(self.strides)[level][:, None]
        grid = torch.tensor(shapes).flip(1)
        center = objects.center[row] / stride
        pair, step = self._near(center, grid[level]).nonzero(as_tuple=True)
        cell = center[pair].floor() + center.new_tensor(NEIGHBORS)[step]
        exists = ((cell >= 0) & (cell < grid[level[pair]])).all(dim=1).nonzero().squeeze(1)
        pair, cell = pair[exists], cell[exists]

        row, level, anchor, stride = row[pair], level[pair], anchor[pair], stride[pair]
        image, mask = objects.image[row], objects.mask[row]
        sizes = number * grid.prod(dim=1)
        column, line = cell.long().unbind(dim=1)
        width, height = grid[level].unbind(dim=1)
        place = (sizes.cumsum(0) - sizes)[level] + (anchor * height + line) * width + column
        points = objects.points[row] / stride[:, None] - cell[:, None]
        key = image * levels + level
        visible = torch.zeros(images * levels, dtype=torch.int64)
        visible.index_add_(0, key, mask.sum(dim=1))
        return Assignment(
            image=image,
            prediction=place,
            level=level,
            anchor_size=anchors[level, anchor] / stride,
            label=objects.label[row],
            box=torch.cat([center[pair] - cell, objects.size[row] / stride], dim=1),
            points=points * mask[..., None],
            mask=mask,
            states=objects.states[row],
            positives=torch.bincount(key, minlength=images * levels).view(images, levels),
            visible=visible.view(images, levels),
        )

    def _near(self, center: Tensor, grid: Tensor) -> Tensor:
        """Return in which of ``NEIGHBORS`` each center is positive, (n, 5)."""
        opposite = grid - center
        before = (center - center.floor() < self.offset) & (center > 1)
        beyond = opposite - opposite.floor()
        after = (beyond > 0) & (beyond < self.offset) & (opposite > 1)
        own = torch.ones(len(center), 1, dtype=torch.bool)
        return torch.cat([own, before, after], dim=1)


def unreachable_points(assignment: Assignment) -> Tensor:
    """Return the number of points that lie beyond their anchor's reach, a scalar.

    A predicted point is less than 2 anchors away from its cell's corner, so that of a large body on
    a small anchor the far parts saturate the sigmoid and teach nothing.

    Example:
        >>> import torch
        >>> from modules.bpjdet.assignment import AnchorAssigner, unreachable_points
        >>> people = {
        ...     "bodies": torch.tensor([[[4.0, 2, 28, 62]]]),
        ...     "parts": torch.tensor([[[[10.0, 2, 22, 12]]]]),
        ...     "visible": torch.ones(1, 1, 1, dtype=torch.bool),
        ...     "part_ignored": torch.zeros(1, 1, 1, dtype=torch.bool),
        ...     "ignored": torch.zeros(1, 1, dtype=torch.bool),
        ...     "num_people": torch.tensor([1]),
        ... }
        >>> assigner = AnchorAssigner(torch.tensor([[[8.0, 16]]]), strides=(8,))
        >>> unreachable_points(assigner(people, (1,), (64, 64)))
        tensor(2)
    """
    reach = 2 * assignment.anchor_size[:, None]
    beyond = (assignment.points.abs() >= reach).any(dim=2) & assignment.mask
    return beyond.sum()


def _objects_of(people: Mapping[str, Tensor], slot_classes: Sequence[int]) -> _Objects:
    """Return bodies and parts in one list, image by image and person by person."""
    bodies, parts = people["bodies"], people["parts"]
    most, slots = parts.shape[1:3]
    present = torch.arange(most) < people["num_people"][:, None]
    present = present & ~people["ignored"]
    # a row for the body, then one for each slot
    boxes = torch.cat([bodies[:, :, None], parts], dim=2)
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    sizes = boxes[..., 2:] - boxes[..., :2]
    shown = people["visible"] & ~people["part_ignored"] & present[..., None]
    learned = torch.cat([present[..., None], shown], dim=2) & (sizes > 0).all(dim=-1)
    image, person, row = learned.nonzero(as_tuple=True)
    is_part = (row > 0)[:, None]
    points, mask = centers[image, person, 1:], shown[image, person]
    if slots:
        back = torch.zeros_like(points)
        back[:, 0] = centers[image, person, 0]
        first = torch.arange(slots) == 0
        points = torch.where(is_part[..., None], back, points)
        mask = torch.where(is_part, first, mask)
    states = _states_of(people.get("states"), image, person, row)
    return _Objects(
        image=image,
        label=torch.tensor([0, *slot_classes])[row],
        center=centers[image, person, row],
        size=sizes[image, person, row],
        points=points,
        mask=mask,
        states=states,
    )


def _states_of(states: Tensor | None, image: Tensor, person: Tensor, row: Tensor) -> Tensor:
    """Return a body's states slot by slot, and a part's own first, (n, S)."""
    if states is None:
        return row.new_zeros(len(row), 0)
    of_body = states[image, person].flatten(1).long()
    own = torch.full_like(of_body, UNSURE)
    own[:, :STATES_PER_SLOT] = states[image, person, (row - 1).clamp(min=0)]
    return torch.where((row > 0)[:, None], own, of_body)
