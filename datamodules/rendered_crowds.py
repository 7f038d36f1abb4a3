"""Rendered crowds of overlapping persons with heads and hands: data without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch

from datamodules.crowd_files import write_coco, write_odgt
from datamodules.crowd_rendering import CLASS_NAMES, SLOT_CLASSES, render_crowd
from datamodules.people_data import PeopleData, PeopleImages, PeopleOptions, check_people
from framework.detection.body_parts.people import PeopleTable
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed

HEIGHTS = (50 / 256, 180 / 256)
"""Range of the persons' height in heights of the picture."""


class RenderedCrowds(PeopleData):
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
        check_at_least(1, num_train=num_train)
        check_at_least(0, num_val=num_val, num_test=num_test)
        check_at_least(64, image_size=image_size)
        if not 1 <= people[0] <= people[1]:
            raise ValueError(f"people must be a least and a largest number, got {people}.")
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.people = (people[0], people[1])
        self.scene_seed = scene_seed
        self.places = list(range(len(SLOT_CLASSES)))
        self.input_shape = (3, image_size, image_size)

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        self.places = self.number_slots(CLASS_NAMES, SLOT_CLASSES)
        if stage in (None, "fit") and self.train_set is None:
            train_set = self.draw("train")
            check_people(train_set.people, "RenderedCrowds")
            self.train_set = train_set
            self.augment_from(train_set)
        if stage in (None, "fit", "validate") and self.val_set is None and self.sizes["val"]:
            self.val_set = self.draw("val")
        if stage in (None, "test", "predict") and self.test_set is None and self.sizes["test"]:
            self.test_set = self.predict_set = self.draw("test")

    def draw(self, part: str) -> PeopleImages:
        """Return the crowds of a part: ``'train'``, ``'val'`` or ``'test'``."""
        size, slots = self.input_shape[1], len(self.slot_classes)
        image = torch.empty(self.sizes[part], 3, size, size, dtype=torch.uint8)
        people = []
        for number in range(self.sizes[part]):
            picture, found = render_crowd(
                stable_seed(self.scene_seed, "crowd", part, number),
                size,
                self.people,
                (HEIGHTS[0] * size, HEIGHTS[1] * size),
            )
            image[number] = torch.from_numpy(picture).permute(2, 0, 1)
            people.append(found.in_slots(self.places, slots))
        return PeopleImages(image, PeopleTable(people, slots))

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
