"""Assignment of objects to cells: every object is an oriented Gaussian on its feature level."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from framework.detection.rotated import quad_to_orc
from framework.utilities.checks import (
    check_at_least,
    check_interval,
    check_one_of,
    check_positive,
)
from framework.utilities.packed_copy import copy_packed
from framework.utilities.precision import at_least_float32
from modules.gghl.cells import Cells
from modules.gghl.label_rules import CodeRule, IsotropicRule, PaperRule

Sigma = Literal["code", "paper", "isotropic"]
MIN_LENGTH = 4
"""Length in pixels up to which an object trains nothing."""
RULES: dict[str, type[CodeRule]] = {
    "code": CodeRule,
    "paper": PaperRule,
    "isotropic": IsotropicRule,
}


@dataclass(frozen=True)
class Assignment:
    """The positive cells of a batch, ordered by image and cell; a cell has one owner.

    Lightning moves it with its batch, by ``to``.

    Args:
        image: Images, (P,) int64.
        cell: Places in ``Cells``, (P,) int64.
        object: Places of the owners among the objects of their image, (P,) int64.
        level: Levels, (P,) int64.
        heat: Value g of the Gaussian in the channel of the owner's class, else 0, (P, C); with
            ``multi_class_cells`` other classes may have theirs.
        mask: Share to which a cell is positive, (P,): 1, or g with ``sigma="paper"``.
        area_weight: Weight w_A, (P,).
        object_weight: Weight λ of the owner, (P,).
        box: Left, top, right and bottom of the owner's horizontal box in pixels, (P, 4).
        s: Gliding ratios, (P, 4).
        r: Area of the object over that of its box, (P,).
        distances: Distances from the cell's center to top, right, bottom and left in pixels,
            (P, 4).
        positives: Number of cells of mask 1 per image and level, (B, K) int64.
        level_weight: Weight λ of the last object on the level, 0 where there is none, (B, K); the
            authors' code multiplies the whole level by it.
    """

    image: Tensor
    cell: Tensor
    object: Tensor
    level: Tensor
    heat: Tensor
    mask: Tensor
    area_weight: Tensor
    object_weight: Tensor
    box: Tensor
    s: Tensor
    r: Tensor
    distances: Tensor
    positives: Tensor
    level_weight: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        """Yield what has a row per image: Lightning tells the size of a batch by its parts."""
        yield self.positives

    def to(self, device: torch.device | str) -> Assignment:
        """Return it on a device, by one copy."""
        return Assignment(**copy_packed(vars(self), device))


class _Objects(NamedTuple):
    """Geometry of n objects, ordered by image and place in it."""

    image: Tensor
    object: Tensor
    label: Tensor
    weight: Tensor
    center: Tensor
    long: Tensor
    short: Tensor
    direction: Tensor
    box: Tensor
    s: Tensor
    r: Tensor

    @property
    def size(self) -> Tensor:
        """Width and height of the horizontal boxes, (n, 2)."""
        return self.box[:, 2:] - self.box[:, :2]


class _Candidates(NamedTuple):
    """Cells that may become positive; rows of one object and level stand together."""

    owner: Tensor
    image: Tensor
    label: Tensor
    level: Tensor
    cell: Tensor
    key: Tensor
    g: Tensor
    mask: Tensor
    area_weight: Tensor
    distances: Tensor

    def take(self, rows: Tensor) -> _Candidates:
        """Return these rows, of numbers or of a mask."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        return _Candidates(*(field[rows] for field in self))


def oriented_gaussian(offset: Tensor, direction: Tensor, sigma: Tensor) -> Tensor:
    """Return exp(-½ ((u / σ_w)² + (v / σ_h)²)), u and v being the offset along and across.

    The peak is 1.

    Args:
        offset: Offsets from the center, (..., 2).
        direction: Unit vectors (cos θ, sin θ) of the long sides, (..., 2); the sign does not
            matter.
        sigma: Standard deviations σ_w along the direction and σ_h across it, (..., 2), in the unit
            of ``offset``.

    Example:
        >>> import torch
        >>> from modules.gghl.assignment import oriented_gaussian
        >>> offset = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> oriented_gaussian(offset, torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
        tensor([1.0000, 0.6065, 0.1353])
    """
    cos, sin = direction.unbind(-1)
    x, y = offset.unbind(-1)
    along = (x * cos + y * sin) / sigma[..., 0]
    across = (y * cos - x * sin) / sigma[..., 1]
    return torch.exp(-0.5 * (along.square() + across.square()))


class OrientedGaussianAssigner(nn.Module):
    r"""Assigns objects to cells by oriented Gaussians (OLA); has no parameters.

    An object goes to the level, sometimes two, that fits the longer side of its horizontal box.
    There a Gaussian along its own sides gives each cell near its center a value g; cells above
    ``heat_thr`` whose center lies in the horizontal box are positive, and g is their prior weight.

    Paper: Huang et al., *A General Gaussian Heatmap Label Assignment for Arbitrary-Oriented Object
    Detection*, TIP 2022, arXiv:2109.12848. Its code has two label files. ``sigma="code"`` follows
    the one that the released trainer imports: σ = ½ (side / 2 stride)^(1-T), levels by object,
    a hard mask and a window of at most 11, 9 and 7 cells. ``sigma="paper"`` follows the other,
    which matches the text: σ = side / 4 stride, levels by the cell's largest distance (at most 8
    strides on all but the last), and the best 1-T of an object's cells on a level positive, the
    rest with mask g. ``sigma="isotropic"`` is ``code`` with both σ from the short side, for
    comparison. The authors leave two owners in a cell where classes differ; here the larger g owns
    it, then the smaller object.

    Args:
        strides: Strides of the levels, three or four. With four, levels change at S/10, S/5 and
            S/2.5 (the authors' variant for tiny objects, with ``iou_thr`` 0.25), S² being the
            image's area.
        iou_thr: Threshold T.
        heat_thr: Value g that a positive cell exceeds.
        level_scale: Factor of the lengths at which levels change; smaller sends objects to coarser
            levels.
        level_overlap: Factor by which a level reaches beyond that length, 1 for not at all.
        sigma: Rule of the labels: ``code``, ``paper`` or ``isotropic``.
        radius_cap: Half-width in cells of the window on the first level, one less on each further
            level; not for ``paper``, where there is no window.
        multi_class_cells: Whether a cell keeps the largest g of each class and goes to the last
            object that has one, as in the authors' code.
        horizontal: Area ratio r from which an object counts as horizontal, s = 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.gghl.assignment import OrientedGaussianAssigner
        >>> quads = torch.tensor([[[[20.0, 20], [60, 20], [60, 40], [20, 40]]]])
        >>> label, weight = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
        >>> found = OrientedGaussianAssigner()(quads, label, weight, (128, 128), num_classes=1)
        >>> found.cell.tolist(), [round(g, 2) for g in found.heat[:, 0].tolist()]
        ([265, 266, 267], [0.23, 1.0, 0.23])
    """

    def __init__(
        self,
        strides: tuple[int, ...] = (8, 16, 32),
        iou_thr: float = 0.3,
        heat_thr: float = 0.05,
        level_scale: float = 3.0,
        level_overlap: float = 1.2,
        sigma: Sigma = "code",
        radius_cap: int = 4,
        multi_class_cells: bool = False,
        horizontal: float = 0.9,
    ) -> None:
        super().__init__()
        if len(strides) not in (3, 4) or list(strides) != sorted(set(strides)) or strides[0] < 1:
            raise ValueError(f"strides must be 3 or 4 ascending numbers, got {strides}.")
        check_interval("[0, 1)", iou_thr=iou_thr)
        check_interval("(0, 1)", heat_thr=heat_thr)
        check_positive(level_scale=level_scale)
        check_at_least(1, level_overlap=level_overlap)
        check_one_of(RULES, sigma=sigma)
        # the window must not vanish on the last level
        check_at_least(len(strides), radius_cap=radius_cap)
        self.strides = tuple(strides)
        self.heat_thr = heat_thr
        self.sigma = sigma
        self.multi_class_cells = multi_class_cells
        self.horizontal = horizontal
        self.rule = RULES[sigma](
            strides=self.strides,
            iou_thr=iou_thr,
            level_scale=level_scale,
            level_overlap=level_overlap,
            radius_cap=radius_cap,
        )

    @torch.no_grad()
    def forward(
        self,
        quads: Tensor,
        label: Tensor,
        object_weight: Tensor,
        image_size: tuple[int, int],
        num_classes: int,
    ) -> Assignment:
        """Return the positive cells.

        Args:
            quads: Vertices in pixels, (B, M, 4, 2).
            label: Classes, (B, M) int64; -1 for padding.
            object_weight: Weight λ, the share of mixup that the object's image has, else 1, (B, M).
            image_size: Height and width in pixels.
            num_classes: Number C of classes.

        Raises:
            ValueError: Shapes do not fit, or a label is not below ``num_classes``.
        """
        if quads.shape != (*label.shape, 4, 2) or label.shape != object_weight.shape:
            raise ValueError(
                f"quads (B, M, 4, 2), label and object_weight (B, M) do not fit: got "
                f"{tuple(quads.shape)}, {tuple(label.shape)} and {tuple(object_weight.shape)}."
            )
        if label.numel() and int(label.max()) >= num_classes:
            raise ValueError(f"A label is {int(label.max())}, but there are {num_classes} classes.")
        objects = self._objects(at_least_float32(quads), label, object_weight)
        cells = Cells.of(image_size, self.strides, quads.device)
        candidates = self._candidates(objects, cells)
        return self._resolve(objects, candidates, label, object_weight, num_classes)

    def extra_repr(self) -> str:
        """Return the arguments that differ between variants."""
        return f"strides={self.strides}, iou_thr={self.rule.iou_thr}, sigma={self.sigma!r}"

    def _objects(self, quads: Tensor, label: Tensor, weight: Tensor) -> _Objects:
        extent = quads.amax(dim=2) - quads.amin(dim=2)
        image, place = ((label >= 0) & (extent.amax(dim=2) > MIN_LENGTH)).nonzero(as_tuple=True)
        chosen = quads[image, place]
        edges = chosen.roll(-1, dims=1) - chosen
        lengths = edges.norm(dim=2)
        # opposite edges run in opposite directions
        vectors = (edges[:, :2] - edges[:, 2:]) / 2
        sides = (lengths[:, :2] + lengths[:, 2:]) / 2
        first = (sides[:, :1] >= sides[:, 1:]).expand(-1, 2)
        vector = torch.where(first, vectors[:, 0], vectors[:, 1])
        box, s, r = quad_to_orc(chosen, self.horizontal)
        return _Objects(
            image=image,
            object=place,
            label=label[image, place],
            weight=weight[image, place].to(quads.dtype),
            center=chosen.mean(dim=1),
            long=sides.amax(dim=1),
            short=sides.amin(dim=1),
            direction=nn.functional.normalize(vector, dim=1),
            box=box,
            s=s,
            r=r,
        )

    def _candidates(self, objects: _Objects, cells: Cells) -> _Candidates:
        """Return the cells that each object would take if it were alone."""
        rule, length = self.rule, objects.size.amax(dim=1, keepdim=True)
        owner, level = rule.on_level(length, cells.image_size).nonzero(as_tuple=True)
        box, dtype = objects.box[owner], objects.box.dtype
        stride = box.new_tensor(self.strides)[level][:, None]
        grid = torch.tensor(cells.shapes, device=box.device).flip(1)
        center = (objects.center[owner] / stride).floor()
        sigma = rule.sigma(objects.long[owner], objects.short[owner], stride)
        direction = objects.direction[owner]
        radius = rule.radius(objects.size[owner], stride, level)
        if rule.windowed:
            lower = torch.maximum((box[:, :2] / stride).floor(), center - radius - 1)
            upper = torch.minimum((box[:, 2:] / stride).floor(), center + radius + 1)
        else:
            reach = _reach(direction, sigma, self.heat_thr).ceil()
            lower, upper = center - reach, center + reach
        upper = torch.minimum(upper, (grid[level] - 1).to(dtype))
        pair, place = _grid_points(lower.clamp(min=0).long(), upper.long())
        g = oriented_gaussian(place - center[pair], direction[pair], sigma[pair])
        above = g > self.heat_thr
        pair, place, g = pair[above], place[above], g[above]
        distances = _distances((place + 0.5) * stride[pair], box[pair])
        keep = distances.amin(dim=1) > 0
        keep &= rule.fits_level(distances.amax(dim=1), level[pair])
        mask = rule.mask(pair, g)[keep]
        area_weight = rule.area_weight(pair, keep, radius)
        pair, place, g, distances = pair[keep], place[keep].long(), g[keep], distances[keep]
        sizes = grid.prod(dim=1)
        cell = (sizes.cumsum(0) - sizes)[level[pair]]
        cell = cell + place[:, 1] * grid[level[pair], 0] + place[:, 0]
        found = owner[pair]
        return _Candidates(
            owner=found,
            image=objects.image[found],
            label=objects.label[found],
            level=level[pair],
            cell=cell,
            key=objects.image[found] * len(cells.level) + cell,
            g=g,
            mask=mask,
            area_weight=area_weight[pair],
            distances=distances,
        )

    def _resolve(
        self, objects: _Objects, found: _Candidates, label: Tensor, weight: Tensor, classes: int
    ) -> Assignment:
        """Give every cell to one object."""
        (images, places), levels = label.shape, len(self.strides)
        trains = label.new_zeros(images, places + 1, levels)
        place = objects.object[found.owner] + 1
        trains[found.image, place, found.level] = place
        last = trains.amax(dim=1)
        level_weight = nn.functional.pad(weight.to(found.g.dtype), (1, 0)).gather(1, last)
        if self.multi_class_cells:
            # a class takes the later object of equal g, and the last object gives the targets
            found = found.take(_sorted_by(-found.owner, -found.g, found.label, found.key))
            found = found.take(_starts(found.key * classes + found.label))
            found = found.take(_sorted_by(-found.owner, found.key))
        else:
            area = objects.r * objects.size.prod(dim=1)
            found = found.take(_sorted_by(area[found.owner], -found.g, found.key))
            found = found.take(_starts(found.key))
        starts = _starts(found.key)
        heat = found.g.new_zeros(int(starts.sum()), classes)
        heat[starts.cumsum(0) - 1, found.label] = found.g
        found = found.take(starts)
        whole = (found.image * levels + found.level)[found.mask == 1]
        return Assignment(
            image=found.image,
            cell=found.cell,
            object=objects.object[found.owner],
            level=found.level,
            heat=heat,
            mask=found.mask,
            area_weight=found.area_weight,
            object_weight=objects.weight[found.owner],
            box=objects.box[found.owner],
            s=objects.s[found.owner],
            r=objects.r[found.owner],
            distances=found.distances,
            positives=torch.bincount(whole, minlength=images * levels).view(images, levels),
            level_weight=level_weight,
        )


def _grid_points(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return all whole points of n windows, both ends included, row by row.

    Returns:
        Window of each point, (m,), and its x and y, (m, 2).
    """
    size = (upper - lower + 1).clamp(min=0)
    number = size.prod(dim=1)
    window = torch.arange(len(size), device=size.device).repeat_interleave(number)
    place = torch.arange(len(window), device=size.device) - (number.cumsum(0) - number)[window]
    width = size[window, 0]
    return window, lower[window] + torch.stack([place % width, place // width], dim=1)


def _reach(direction: Tensor, sigma: Tensor, value: float) -> Tensor:
    """Return how far Gaussians are above a value, to the side and upwards in cells, (n, 2)."""
    axes = sigma.square() * (-2 * math.log(value))
    squares = direction.square()
    return torch.stack([(squares * axes).sum(1), (squares.flip(1) * axes).sum(1)], dim=1).sqrt()


def _distances(points: Tensor, box: Tensor) -> Tensor:
    """Return how far the top, right, bottom and left sides are from each point, (n, 4)."""
    x, y = points.unbind(dim=1)
    left, top, right, bottom = box.unbind(dim=1)
    return torch.stack([y - top, right - x, bottom - y, x - left], dim=1)


def _sorted_by(*keys: Tensor) -> Tensor:
    """Return the order by the last key, ties by the one before it, and so on; stable."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def _starts(key: Tensor) -> Tensor:
    """Return whether a run of equal keys begins, (n,) bool."""
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = key[1:] != key[:-1]
    return new
