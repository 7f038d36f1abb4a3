"""Which cells learn which object: every object is an oriented Gaussian on its feature level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from framework.detection.rotated import quad_to_orc
from framework.utilities.precision import at_least_float32
from modules.gghl.cells import Cells

Sigma = Literal["code", "paper", "isotropic"]
MIN_LENGTH = 4
"""Pixels; an object whose box is no longer than this trains nothing."""


@dataclass(frozen=True)
class Assignment:
    """The positive cells of a batch, ordered by image and cell; a cell has one owner.

    Args:
        image: (P,) int64.
        cell: (P,) int64, place in ``Cells``.
        object: (P,) int64, place of the owner among the objects of its image.
        level: (P,) int64.
        heat: (P, C) value g of the Gaussian in the channel of the owner's class, else 0; with
            ``multi_class_cells`` other classes may have theirs.
        mask: (P,) 1, or g where a cell is positive in part only (``sigma="paper"``).
        area_weight: (P,) w_A.
        object_weight: (P,) λ of the owner.
        box: (P, 4) left, top, right, bottom of the owner's horizontal box in pixels.
        s: (P, 4) gliding ratios.
        r: (P,) area of the object over that of its box.
        distances: (P, 4) from the cell's center to top, right, bottom and left in pixels.
        positives: (B, K) int64, cells of mask 1 per image and level.
        level_weight: (B, K) λ of the last object on the level, 0 where there is none; what the
            authors' code multiplies the whole level with.
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


class _Objects(NamedTuple):
    """What the assigner needs to know of n objects, ordered by image and place in it."""

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
        """Return these rows."""
        return _Candidates(*(field[rows] for field in self))


def oriented_gaussian(offset: Tensor, direction: Tensor, sigma: Tensor) -> Tensor:
    """Return exp(-½ ((u / σ_w)² + (v / σ_h)²)), u and v being the offset along and across.

    The peak is 1.

    Args:
        offset: (..., 2) from the center.
        direction: (..., 2) unit vector (cos θ, sin θ) of the long side; its sign does not matter.
        sigma: (..., 2) σ_w along the direction and σ_h across it, in the unit of ``offset``.

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
        strides: of the levels, three or four. With four, levels change at S/10, S/5 and S/2.5 (the
            authors' variant for tiny objects, with ``iou_thr`` 0.25), S² being the image's area.
        iou_thr: T.
        heat_thr: the g that a positive cell exceeds.
        level_scale: factor of the lengths at which levels change; smaller sends objects to coarser
            levels.
        level_overlap: how far a level reaches beyond that length, 1 for not at all.
        sigma: ``code``, ``paper`` or ``isotropic``.
        radius_cap: half-width in cells of the window on the first level, one less on each further
            level; not for ``paper``, where there is no window.
        multi_class_cells: keep the largest g per class, and give the cell to the last object that
            has one, as the authors do.
        horizontal: r from which an object counts as horizontal, s = 0.

    Raises:
        ValueError: an argument is out of its range.

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
        name = type(self).__name__
        if len(strides) not in (3, 4) or list(strides) != sorted(set(strides)) or strides[0] < 1:
            raise ValueError(f"{name}: strides must be 3 or 4 ascending numbers, got {strides}.")
        if not 0 <= iou_thr < 1:
            raise ValueError(f"{name}: iou_thr must be in [0, 1), got {iou_thr}.")
        if not 0 < heat_thr < 1:
            raise ValueError(f"{name}: heat_thr must be in (0, 1), got {heat_thr}.")
        if not 0 < level_scale < math.inf:
            raise ValueError(f"{name}: level_scale must be above 0, got {level_scale}.")
        if not 1 <= level_overlap < math.inf:
            raise ValueError(f"{name}: level_overlap must be at least 1, got {level_overlap}.")
        if sigma not in get_args(Sigma):
            raise ValueError(f"{name}: sigma must be one of {get_args(Sigma)}, got {sigma!r}.")
        if radius_cap < len(strides):
            raise ValueError(
                f"{name}: radius_cap must be at least {len(strides)}, the number of levels, got "
                f"{radius_cap}."
            )
        self.strides = tuple(strides)
        self.iou_thr = iou_thr
        self.heat_thr = heat_thr
        self.level_scale = level_scale
        self.level_overlap = level_overlap
        self.sigma = sigma
        self.radius_cap = radius_cap
        self.multi_class_cells = multi_class_cells
        self.horizontal = horizontal

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
            quads: (B, M, 4, 2) vertices in pixels.
            label: (B, M) int64, -1 for padding.
            object_weight: (B, M) λ, the share of mixup that the object's image has, else 1.
            image_size: height and width in pixels.
            num_classes: C.

        Raises:
            ValueError: shapes do not fit, or a label is not below ``num_classes``.
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
        return f"strides={self.strides}, iou_thr={self.iou_thr}, sigma={self.sigma!r}"

    def level_lengths(self, image_size: tuple[int, int]) -> list[float]:
        """Return the lengths in pixels at which one level ends and the next begins, (K-1)."""
        size = math.sqrt(image_size[0] * image_size[1])
        if len(self.strides) == 4:
            return [self.level_scale / 3 * size / part for part in (10, 5, 2.5)]
        per_stride = self.level_scale * 2 / (1 - self.iou_thr) * size / 800
        return [per_stride * self.strides[0], per_stride * self.strides[2]]

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
        return _Objects(
            image,
            place,
            label[image, place],
            weight[image, place].to(quads.dtype),
            chosen.mean(dim=1),
            sides.amax(dim=1),
            sides.amin(dim=1),
            nn.functional.normalize(vector, dim=1),
            *quad_to_orc(chosen, self.horizontal),
        )

    def _on_level(self, objects: _Objects, image_size: tuple[int, int]) -> Tensor:
        """Return which objects train which levels, (n, K) bool."""
        length = objects.size.amax(dim=1, keepdim=True)
        if self.sigma == "paper":
            # every cell decides for itself
            return torch.ones_like(length, dtype=torch.bool).expand(-1, len(self.strides))
        ends = length.new_tensor(self.level_lengths(image_size))
        below = length <= self.level_overlap * ends
        above = length > ends
        everyone = torch.ones_like(below[:, :1])
        return torch.cat([below, everyone], dim=1) & torch.cat([everyone, above], dim=1)

    def _candidates(self, objects: _Objects, cells: Cells) -> _Candidates:
        """Return the cells that each object would take if it were alone."""
        owner, level = self._on_level(objects, cells.image_size).nonzero(as_tuple=True)
        box, dtype = objects.box[owner], objects.box.dtype
        stride = box.new_tensor(self.strides)[level][:, None]
        grid = torch.tensor(cells.shapes, device=box.device).flip(1)
        center = (objects.center[owner] / stride).floor()
        lower = (box[:, :2] / stride).floor().clamp(min=0)
        upper = torch.minimum((box[:, 2:] / stride).floor(), (grid[level] - 1).to(dtype))
        caps = self.radius_cap - torch.arange(len(self.strides), device=box.device)
        radius = (objects.size[owner] / (2 * stride)).clamp(min=1)
        radius = torch.minimum(radius, caps[level][:, None].to(dtype)).floor()
        if self.sigma != "paper":
            lower = torch.maximum(lower, center - radius - 1)
            upper = torch.minimum(upper, center + radius + 1)
        pair, place = _grid_points(lower.long(), upper.long())
        offset = place - center[pair]
        sigma = self._sigma(objects, owner, stride)
        g = oriented_gaussian(offset, objects.direction[owner][pair], sigma[pair])
        distances = _distances((place + 0.5) * stride[pair], box[pair])
        keep = (g > self.heat_thr) & (distances.amin(dim=1) > 0)
        if self.sigma == "paper":
            keep &= self._fits_level(distances.amax(dim=1), level[pair])
        pair, place, g, distances = pair[keep], place[keep].long(), g[keep], distances[keep]
        mask = self._mask(pair, g)
        if self.sigma == "paper" or len(self.strides) == 4:
            number = torch.bincount(pair[mask == 1], minlength=len(owner)).clamp(min=1)
            area_weight = 2 * math.log(2) / torch.log(number.to(dtype).sqrt() + 1)
        else:
            area_weight = math.log(2) / torch.log(radius.prod(dim=1).sqrt() + 1)
        sizes = grid.prod(dim=1)
        cell = (sizes.cumsum(0) - sizes)[level[pair]]
        cell = cell + place[:, 1] * grid[level[pair], 0] + place[:, 0]
        found = owner[pair]
        return _Candidates(
            found,
            objects.image[found],
            objects.label[found],
            level[pair],
            cell,
            objects.image[found] * len(cells.level) + cell,
            g,
            mask,
            area_weight[pair],
            distances,
        )

    def _sigma(self, objects: _Objects, owner: Tensor, stride: Tensor) -> Tensor:
        """Return σ along and across in cells, (n, 2)."""
        long = objects.short if self.sigma == "isotropic" else objects.long
        half = torch.stack([long, objects.short], dim=1)[owner] / (2 * stride)
        power = 1.0 if self.sigma == "paper" else 1 - self.iou_thr
        return 0.5 * half**power

    def _fits_level(self, farthest: Tensor, level: Tensor) -> Tensor:
        ends = [8.0 * s for s in self.strides[:-1]]
        bounds = farthest.new_tensor([0.0, *ends, math.inf])
        return (farthest > bounds[level]) & (farthest <= bounds[level + 1])

    def _mask(self, pair: Tensor, g: Tensor) -> Tensor:
        """Return 1 for the best cells of each object and level, g for the others."""
        if self.sigma != "paper":
            return torch.ones_like(g)
        order = g.argsort(descending=True, stable=True)
        order = order[pair[order].argsort(stable=True)]
        number = torch.bincount(pair)
        rank = torch.arange(len(pair), device=pair.device) - (number.cumsum(0) - number)[pair]
        best = ((1 - self.iou_thr) * number.double()).ceil()[pair]
        # `pair` ascends, so that sorting moved rows within their group only
        mask = torch.empty_like(g)
        mask[order] = torch.where(rank < best, 1.0, g[order])
        return mask

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
        The window of each point, (m,), and its x and y, (m, 2).
    """
    size = (upper - lower + 1).clamp(min=0)
    number = size.prod(dim=1)
    window = torch.arange(len(size), device=size.device).repeat_interleave(number)
    place = torch.arange(len(window), device=size.device) - (number.cumsum(0) - number)[window]
    width = size[window, 0]
    return window, lower[window] + torch.stack([place % width, place // width], dim=1)


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
