"""The people of an image with the parts of their bodies, and many images' people as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from framework.data.datasets import Batch, Sample
from framework.detection.ragged import RowTable, pad_rows


@dataclass(frozen=True)
class People:
    """The n persons of one image, each with a place for K parts.

    Boxes are left, top, right and bottom in pixels, x to the right and y down, and may leave the
    image.

    Args:
        bodies: (n, 4) float32 boxes.
        parts: (n, K, 4) float32 boxes, zeros where a part is absent.
        visible: (n, K) bool: a part is annotated, to be learned and found.
        part_ignored: (n, K) bool: a part is annotated, but neither learned nor scored.
        visible_ratio: (n,) float32 share of the body that is seen, 1 where it is not known.
        ignored: (n,) bool: the box is a region without labels, such as a crowd or a poster; none of
            its parts is learned.

    Example:
        >>> people = People.none(num_slots=2)
        >>> len(people), people.parts.shape
        (0, torch.Size([0, 2, 4]))
    """

    bodies: Tensor
    parts: Tensor
    visible: Tensor
    part_ignored: Tensor
    visible_ratio: Tensor
    ignored: Tensor

    def __len__(self) -> int:
        return len(self.bodies)

    def __getitem__(self, rows: slice | Tensor) -> People:
        return People(*(getattr(self, name)[rows] for name in NAMES))

    @classmethod
    def none(cls, num_slots: int) -> People:
        """Return the people of an image that has none.

        Args:
            num_slots: Parts that a person has a place for.
        """
        return cls(
            bodies=torch.zeros(0, 4),
            parts=torch.zeros(0, num_slots, 4),
            visible=torch.zeros(0, num_slots, dtype=torch.bool),
            part_ignored=torch.zeros(0, num_slots, dtype=torch.bool),
            visible_ratio=torch.zeros(0),
            ignored=torch.zeros(0, dtype=torch.bool),
        )

    @classmethod
    def of(cls, sample: Sample) -> People:
        """Return the people whose fields a sample has."""
        return cls(*(sample[name] for name in NAMES))

    def in_slots(self, places: Sequence[int], num_slots: int) -> People:
        """Return the people with the parts of their slots in others.

        Args:
            places: New slot of each slot.
            num_slots: Number of new slots; those that are not named are empty.

        Example:
            >>> people = People.none(2).in_slots([3, 0], num_slots=4)
            >>> people.visible.shape
            torch.Size([0, 4])
        """
        moved = {}
        for name in ("parts", "visible", "part_ignored"):
            value = getattr(self, name)
            moved[name] = value.new_zeros(len(self), num_slots, *value.shape[2:])
            moved[name][:, list(places)] = value
        return replace(self, **moved)

    def sorted_slots(self, slot_classes: Sequence[int]) -> People:
        """Return the people with the parts of each class in the order of their slots.

        Visible parts come before ignored ones and these before absent ones, then from left to
        right: with two hands the one whose left edge is smaller has the first slot, and a single
        hand has the first.

        Args:
            slot_classes: Label of each slot.
        """
        # stable sorts, the first criterion last
        order = self.parts[..., 0].argsort(dim=1, stable=True)
        state = torch.where(self.visible, 0, torch.where(self.part_ignored, 1, 2))
        labels = torch.tensor(slot_classes)
        for key in (state, labels.expand_as(state)):
            order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
        # the parts of a class go to its slots in their order
        order = order[:, labels.argsort(stable=True).argsort(stable=True)]
        return replace(
            self,
            parts=self.parts.gather(1, order[..., None].expand(-1, -1, 4)),
            visible=self.visible.gather(1, order),
            part_ignored=self.part_ignored.gather(1, order),
        )

    def fields(self) -> Sample:
        """Return the people as fields of a sample, under these names."""
        return {name: getattr(self, name).clone() for name in NAMES}


NAMES = tuple(field.name for field in fields(People))
"""Fields of people in a sample."""


class PeopleTable(RowTable[People]):
    """The people of many images in one tensor per field, which loading processes share.

    Args:
        images: People of each image.
        num_slots: Parts that a person has a place for.

    Example:
        >>> table = PeopleTable([People.none(2), People.none(2)], num_slots=2)
        >>> len(table), len(table[1])
        (2, 0)
    """

    def __init__(self, images: Sequence[People], num_slots: int) -> None:
        super().__init__(images, People.none(num_slots))


def pad_people(samples: Sequence[Sample]) -> Batch:
    """Join samples with unequal numbers of people to one batch.

    Fields of ``People`` become (B, M, ...), M being the largest number of people, at least 1;
    places that an image does not need hold 0 and False. ``num_people`` (B,) int64 is added. Other
    fields are stacked.

    Raises:
        RuntimeError: fields to be stacked, such as the images, differ in size.

    Example:
        >>> batch = pad_people([People.none(2).fields()])
        >>> batch["parts"].shape, batch["num_people"]
        (torch.Size([1, 1, 2, 4]), tensor([0]))
    """
    batch = pad_rows(samples, dict.fromkeys(NAMES, 0))
    if "bodies" in batch:
        batch["num_people"] = torch.tensor([len(sample["bodies"]) for sample in samples])
    return batch


def people_of(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the people of each image of a padded batch, without the padding.

    The numbers of people are read one by one, so the batch should lie on the CPU.

    Args:
        batch: Batch of ``pad_people``; of the fields of ``People`` it may have some.

    Returns:
        Per image its people under the same names.

    Example:
        >>> batch = {"bodies": torch.zeros(2, 3, 4), "num_people": torch.tensor([3, 1])}
        >>> [people["bodies"].shape for people in people_of(batch)]
        [torch.Size([3, 4]), torch.Size([1, 4])]
    """
    names = [name for name in NAMES if name in batch]
    return [
        {name: batch[name][image, :number] for name in names}
        for image, number in enumerate(batch["num_people"].tolist())
    ]
