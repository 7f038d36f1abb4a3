"""Rendered aerial-like scenes with oriented ships, planes and vehicles: data without a download."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from datamodules.dota.labels import write_labels
from datamodules.oriented_data import (
    ObjectImages,
    OrientedData,
    OrientedOptions,
    check_objects,
)
from datamodules.rendered_parts import RenderedParts
from datamodules.scene_rendering import CLASS_NAMES, render_scene
from framework.detection.objects import ObjectTable
from framework.detection.pictures import write_picture
from framework.utilities.files import make_folder


class RenderedScenes(RenderedParts, OrientedData):
    """Drawn scenes with ships (rectangles), planes (trapezoids) and vehicles (rectangles).

    What a scene shows is described at ``render_scene``. A scene
    depends on (``scene_seed``, part, number in the part) alone: more scenes leave the first ones as
    they are, and no scene of one part is one of another. All are drawn at ``setup``, some
    milliseconds each, and kept as bytes.

    The remaining arguments and what batches hold are described at
    ``OrientedData``; scenes are tested and predicted on the test part.

    Args:
        num_train: Scenes to train on.
        num_val: Scenes to validate on.
        num_test: Scenes to test on and to predict.
        image_size: Width and height S of a scene in pixels; objects are larger on larger scenes.
        objects: Least and largest number of objects, the least at least 0.
        scene_seed: Seed of the scenes; not the seed of the run.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> data = RenderedScenes(num_train=4, num_val=2, image_size=96, batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["quads"].shape[2:], data.class_names
        (torch.Size([4, 3, 96, 96]), torch.Size([4, 2]), ('ship', 'plane', 'vehicle'))
    """

    class_names = CLASS_NAMES
    num_classes = len(CLASS_NAMES)

    def __init__(
        self,
        num_train: int = 1600,
        num_val: int = 200,
        num_test: int = 200,
        image_size: int = 160,
        objects: tuple[int, int] = (2, 6),
        scene_seed: int = 0,
        **options: Unpack[OrientedOptions],
    ) -> None:
        super().__init__(**options)
        self.set_parts(num_train, num_val, num_test, image_size, scene_seed)
        if not 0 <= objects[0] <= objects[1]:
            raise ValueError(f"objects must be a least and a largest number, got {objects}.")
        self.objects = (objects[0], objects[1])
        self.label_numbers = list(range(len(CLASS_NAMES)))

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        self.label_numbers = self.number_classes(CLASS_NAMES)
        super().setup(stage)

    def draw(self, part: str) -> ObjectImages:
        """Return the scenes of a part: ``'train'``, ``'val'`` or ``'test'``."""
        size = self.input_shape[1]
        scale = size / 160
        sides = (22 * scale, 70 * scale)
        image, objects = self.pictures(
            part, "scene", lambda seed: render_scene(seed, size, size, self.objects, sides)
        )
        numbers = torch.tensor(self.label_numbers)
        return ObjectImages(
            image, ObjectTable([replace(found, label=numbers[found.label]) for found in objects])
        )

    def check_drawn(self, train_set: ObjectImages) -> None:
        """Refuse scenes without any object."""
        check_objects(train_set.objects, "RenderedScenes")

    def write_dota(self, root: str | Path) -> None:
        """Write all parts as a data set that ``DOTA`` reads.

        Args:
            root: Folder of the parts, each with ``images`` and ``labelTxt``.
        """
        for part in self.sizes:
            scenes = self.draw(part)
            images, labels = Path(root) / part / "images", Path(root) / part / "labelTxt"
            for folder in (images, labels):
                make_folder(folder)
            for number, image in enumerate(scenes.image):
                name = f"scene{number:05}"
                write_picture(image, images / f"{name}.png")
                write_labels(labels / f"{name}.txt", scenes.objects[number], self.class_names)
