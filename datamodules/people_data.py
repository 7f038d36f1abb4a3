"""Base of the datamodules of people and the parts of their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datamodules.detection_data import DetectionData
from datamodules.letterbox import letterbox
from datamodules.object_augmentation import PeopleTransform
from framework.data.datamodule import BatchOptions, LoaderOptions
from framework.data.datasets import Batch, Sample
from framework.data.facts import match_classes
from framework.data.image_files import decode_image
from framework.data.raw_inputs import as_images, as_pictures
from framework.detection.body_parts.people import PeopleTable, pad_people
from framework.objectives.errors import IncompatibleError


class PeopleImages(Dataset[Sample]):
    """Images of one size in memory, with their people.

    Args:
        image: Images (N, 3, H, W) uint8.
        people: People of the N images.

    Raises:
        ValueError: the numbers of images differ.
    """

    def __init__(self, image: Tensor, people: PeopleTable) -> None:
        if len(image) != len(people):
            raise ValueError(f"{len(image)} images cannot have {len(people)} lists of people.")
        self.image = image
        self.people = people

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, row: int) -> Sample:
        return {"image": self.image[row].float().div_(255), **self.people[row].fields()}


class PeopleOptions(BatchOptions, total=False):
    """Arguments of ``PeopleData``."""

    augment: list[PeopleTransform] | None


class PeopleData(DetectionData):
    """Base of the datamodules of people and the parts of their bodies.

    Label 0 is the body, every other label a class of parts; a person has a slot for each part, and
    ``slot_classes`` says what label it has: (1, 2, 2) for a head and two hands. Among slots of one
    class, those that are visible come first, from left to right.

    Batches hold ``image`` (B, 3, H, W) float32 in [0, 1], ``index`` (B,) int64, the fields of
    ``People`` as (B, M, ...), M being the largest number of people in the batch, and ``num_people``
    (B,) int64. Where images were resized and filled up, there are ``letterbox_offset`` (B, 2) and
    ``letterbox_scale`` (B,) as well, by which ``to_whole_image`` returns to the original's pixels,
    and ``image_size`` (B, 2), its width and height.

    The remaining arguments are those of ``DataModule``.

    Args:
        batch_size: Rows of a global batch, over all ranks.
        augment: Transforms of a training image and its people, in this order.
    """

    transforms: Sequence[PeopleTransform]
    slot_classes: Sequence[int]
    """Label of the part in each slot of a person."""
    is_letterboxed = False
    """Whether images were resized and filled up, so that batches have the letterbox's fields."""

    def __init__(
        self,
        batch_size: int = 16,
        augment: list[PeopleTransform] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, augment=augment, **options)

    def as_batch(self, inputs: Any) -> Batch:
        """Return images as a batch; pictures and paths as squares, with the letterbox's fields.

        Args:
            inputs: Tensor or array (N, 3, H, W), which stays as it is, or one picture or path, or a
                sequence of them.

        Raises:
            ValueError: No image, or see ``as_images``.
        """
        if isinstance(inputs, (Tensor, np.ndarray)):
            return {"image": as_images(inputs, channels=3)}
        pictures = as_pictures(inputs)
        if not pictures:
            raise ValueError("There is no image to predict: give at least one.")
        size = self.input_shape[1]
        batch: Batch = default_collate([letterbox(decode_image(one), size) for one in pictures])
        return batch

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples to a batch, their people padded."""
        return pad_people(samples)

    @property
    def part_names(self) -> list[str]:
        """Name of the part in each slot of a person."""
        return [self.class_names[label] for label in self.slot_classes]

    def number_slots(self, class_names: Sequence[str], slot_classes: Sequence[int]) -> list[int]:
        """Take over the classes and slots of training, where there was one.

        Args:
            class_names: Names of the data's own classes, by label.
            slot_classes: Label of each of the data's own slots.

        Returns:
            Slot in training of each own slot, for ``People.in_slots``; without a training its own.

        Raises:
            IncompatibleError: A class that was not trained, or more slots of one than were.
        """
        trained, slots = self.trained.get("class_names"), self.trained.get("slot_classes")
        if trained is None or slots is None:
            self.class_names, self.slot_classes = class_names, slot_classes
            self.num_classes = len(class_names)
            return list(range(len(slot_classes)))
        source = type(self).__name__
        labels = match_classes(class_names, trained, source)
        free = list(enumerate(slots))
        places = []
        for label in slot_classes:
            place = next((place for place in free if place[1] == labels[label]), None)
            if place is None:
                raise IncompatibleError(
                    f"A person of {source} has more slots of class {class_names[label]} than the "
                    f"{list(slots).count(labels[label])} that the model was trained on: leave "
                    "slots out, or train anew."
                )
            free.remove(place)
            places.append(place[0])
        self.class_names, self.slot_classes, self.num_classes = trained, slots, len(trained)
        return places

    @property
    def object_counts(self) -> dict[str, int]:
        """Bodies and visible parts of each class in the training set, without what is ignored.

        Raises:
            RuntimeError: there is no training set.
        """
        people = self.trained_images().people.rows
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        counts[0] = (~people.ignored).sum()
        counts.index_add_(0, torch.tensor(self.slot_classes), people.visible.sum(0))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def object_sizes(self) -> Tensor:
        """Return width and height of all bodies and parts that are learned, (n, 2), for anchors.

        They are in pixels of the images as a network sees them, before augmentation.

        Raises:
            RuntimeError: there is no training set.
        """
        table: PeopleTable = self.trained_images().people
        people = table.rows
        boxes = torch.cat([people.bodies[:, None], people.parts], 1)
        scale = self.train_scales().repeat_interleave(table.ends.diff())
        learned = torch.cat([torch.ones(len(people), 1, dtype=torch.bool), people.visible], 1)
        learned &= ~people.ignored[:, None]
        return ((boxes[..., 2:] - boxes[..., :2]) * scale[:, None, None])[learned]

    def train_scales(self) -> Tensor:
        """Return the factor by which each training image is resized, (N,)."""
        return torch.ones(len(self.trained_images()))

    def augment_from(self, train_set: Dataset[Sample]) -> None:
        """Let training samples be augmented, with partners from ``train_set``."""
        for transform in self.transforms:
            transform.use_slots(self.part_names)
        super().augment_from(train_set)


def check_people(people: PeopleTable, source: object) -> None:
    """Refuse images without any person, of which nothing is learned or scored.

    Args:
        people: People of the images.
        source: What they were read from, for the message.

    Raises:
        ValueError: There is none, or all are to be ignored.
    """
    if bool(people.rows.ignored.all()):  # which also holds for none
        raise ValueError(
            f"{source} has no person on any of its images, so that there is nothing to learn or to "
            "be scored on: check its labels, or leave this part out."
        )
