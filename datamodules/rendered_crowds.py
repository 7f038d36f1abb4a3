"""Rendered crowds of overlapping persons with heads and hands: data without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from datamodules.crowd_files import write_coco, write_odgt
from datamodules.crowd_rendering import CLASS_NAMES, SLOT_CLASSES, render_crowd
from datamodules.people_data import PeopleData, PeopleImages, PeopleOptions, check_people
from datamodules.rendered_parts import RenderedParts
from framework.detection.body_parts.people import PeopleTable

HEIGHTS = (50 / 256, 180 / 256)
"""Range of the persons' height in heights of the picture."""


class RenderedCrowds(RenderedParts, PeopleData):
    """Drawn crowds of overlapping persons with a head and two hands.

    What a crowd shows is described at ``render_crowd``. A crowd depends on (``scene_seed``, part,
    number in the part) alone: more crowds leave the first ones as they are, and no crowd of one
    part is one of another. All are drawn at ``setup``, some milliseconds each, and kept as bytes.

    The remaining arguments and what batches hold are described at ``PeopleData``; crowds are
    tested and predicted on the test part.

    Args:
        num_train: Crowds to train on.
        num_val: Crowds to validate on.
        num_test: Crowds to test on and to predict.
        image_size: Width and height S of a picture in pixels; persons are taller on larger ones.
        people: Least and largest number of persons, the least at least 1.
        scene_seed: Seed of the crowds; not the seed of the run.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> data = RenderedCrowds(num_train=4, num_val=2, image_size=96, batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["parts"].shape[2:], data.part_names
        (torch.Size([4, 3, 96, 96]), torch.Size([3, 4]), ['head', 'hand', 'hand'])
    """

    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)
    slot_classes = SLOT_CLASSES

    def __init__(
        self,
        num_train: int = 600,
        num_val: int = 200,
        num_test: int = 200,
        image_size: int = 256,
        people: tuple[int, int] = (2, 8),
        scene_seed: int = 0,
        **options: Unpack[PeopleOptions],
    ) -> None:
        super().__init__(**options)
        self.set_parts(num_train, num_val, num_test, image_size, scene_seed)
        if not 1 <= people[0] <= people[1]:
            raise ValueError(f"people must be a least and a largest number, got {people}.")
        self.people = (people[0], people[1])
        self.places = list(range(len(SLOT_CLASSES)))

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        self.places = self.number_slots(CLASS_NAMES, SLOT_CLASSES)
        super().setup(stage)

    def draw(self, part: str) -> PeopleImages:
        """Return the crowds of a part: ``'train'``, ``'val'`` or ``'test'``."""
        size, slots = self.input_shape[1], len(self.slot_classes)
        heights = (HEIGHTS[0] * size, HEIGHTS[1] * size)
        image, people = self.pictures(
            part, "crowd", lambda seed: render_crowd(seed, size, self.people, heights)
        )
        return PeopleImages(
            image, PeopleTable([found.in_slots(self.places, slots) for found in people], slots)
        )

    def check_drawn(self, train_set: PeopleImages) -> None:
        """Refuse crowds without any person."""
        check_people(train_set.people, "RenderedCrowds")

    def write_odgt(self, root: str | Path) -> None:
        """Write all parts in the form of CrowdHuman, see ``crowd_files.write_odgt``.

        Args:
            root: Folder of ``annotation_<part>.odgt`` and ``Images``.
        """
        for part in self.sizes:
            crowds = self.draw(part)
            write_odgt(Path(root), part, crowds.image, crowds.people)

    def write_coco(self, root: str | Path) -> None:
        """Write all parts in the form of COCO Human Parts, see ``crowd_files.write_coco``.

        Args:
            root: Folder of ``annotations`` and ``<part>2017``.
        """
        for part in self.sizes:
            crowds = self.draw(part)
            write_coco(Path(root), part, crowds.image, crowds.people)
