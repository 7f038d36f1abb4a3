"""What datamodules of drawn pictures share: how many there are, and when they are drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.detection_data import DetectionData
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed

Labels = TypeVar("Labels")


class RenderedParts(DetectionData):
    """Base of the datamodules that draw pictures to train, to validate and to test on."""

    def set_parts(
        self, num_train: int, num_val: int, num_test: int, image_size: int, scene_seed: int
    ) -> None:
        """Set how many pictures each part has, their size, and their seed.

        Raises:
            ValueError: a number out of its range.
        """
        check_at_least(1, num_train=num_train)
        check_at_least(0, num_val=num_val, num_test=num_test)
        check_at_least(64, image_size=image_size)
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.scene_seed = scene_seed
        self.input_shape = (3, image_size, image_size)

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        if stage in (None, "fit") and self.train_set is None:
            train_set = self.draw("train")
            self.check_drawn(train_set)
            self.train_set = train_set
            self.augment_from(train_set)
        if stage in (None, "fit", "validate") and self.val_set is None and self.sizes["val"]:
            self.val_set = self.draw("val")
        if stage in (None, "test", "predict") and self.test_set is None and self.sizes["test"]:
            self.test_set = self.predict_set = self.draw("test")

    @abstractmethod
    def draw(self, part: str) -> Any:
        """Return the pictures of a part: ``'train'``, ``'val'`` or ``'test'``."""

    @abstractmethod
    def check_drawn(self, train_set: Any) -> None:
        """Refuse pictures of which nothing is learned."""

    def pictures(
        self, part: str, name: str, render: Callable[[int], tuple[np.ndarray, Labels]]
    ) -> tuple[Tensor, list[Labels]]:
        """Return the pictures (N, 3, S, S) uint8 of a part, and what is on each.

        Args:
            part: Part, see ``draw``.
            name: What a picture is called in its seed.
            render: Function from a seed to a picture (S, S, 3) and what is on it.
        """
        images = torch.empty(self.sizes[part], *self.input_shape, dtype=torch.uint8)
        labels = []
        for number, image in enumerate(images):
            picture, found = render(stable_seed(self.scene_seed, name, part, number))
            image.copy_(torch.from_numpy(picture).permute(2, 0, 1))
            labels.append(found)
        return images, labels
