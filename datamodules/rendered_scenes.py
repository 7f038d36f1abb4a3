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
from datamodules.scene_rendering import CLASS_NAMES, render_scene
from framework.detection.objects import ObjectTable
from framework.detection.pictures import write_picture
from framework.utilities.checks import check_at_least
from framework.utilities.files import make_folder
from framework.utilities.randomness import stable_seed


class RenderedScenes(OrientedData):
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
        check_at_least(1, num_train=num_train)
        check_at_least(0, num_val=num_val, num_test=num_test)
        check_at_least(64, image_size=image_size)
        if not 0 <= objects[0] <= objects[1]:
            raise ValueError(f"objects must be a least and a largest number, got {objects}.")
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.objects = (objects[0], objects[1])
        self.scene_seed = scene_seed
        self.label_numbers = list(range(len(CLASS_NAMES)))
        self.input_shape = (3, image_size, image_size)

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        self.label_numbers = self.number_classes(CLASS_NAMES)
        if stage in (None, "fit") and self.train_set is None:
            self.train_set = self.draw("train")
            check_objects(self.train_set.objects, "RenderedScenes")
            self.augment_from(self.train_set)
        if stage in (None, "fit", "validate") and self.val_set is None and self.sizes["val"]:
            self.val_set = self.draw("val")
        if stage in (None, "test", "predict") and self.test_set is None and self.sizes["test"]:
            self.test_set = self.predict_set = self.draw("test")

    def draw(self, part: str) -> ObjectImages:
        """Return the scenes of a part: ``'train'``, ``'val'`` or ``'test'``."""
        size = self.input_shape[1]
        scale = size / 160
        image = torch.empty(self.sizes[part], 3, size, size, dtype=torch.uint8)
        objects, numbers = [], torch.tensor(self.label_numbers)
        for number in range(self.sizes[part]):
            picture, found = render_scene(
                stable_seed(self.scene_seed, "scene", part, number),
                size,
                size,
                self.objects,
                (22 * scale, 70 * scale),
            )
            image[number] = torch.from_numpy(picture).permute(2, 0, 1)
            objects.append(replace(found, label=numbers[found.label]))
        return ObjectImages(image, ObjectTable(objects))

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
