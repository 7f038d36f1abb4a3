"""What the writers of detectors' predictions share: the folder, and the images that are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.data.datasets import Batch
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.lightning_internals import datamodule_of
from framework.utilities.packed_copy import copy_packed


class ResultWriter(Callback):
    """Base of the callbacks that write what a detector predicted, and pictures of it.

    Args:
        folder: Folder of the files; None for ``detections`` in the run folder.
        pictures: Number of images that are drawn, the first ones by number; 0 for none.
        picture_score: Lowest score of a detection that is drawn.

    Raises:
        ValueError: ``pictures`` is negative, or ``picture_score`` not in [0, 1].
    """

    def __init__(self, folder: str | None, pictures: int, picture_score: float) -> None:
        check_at_least(0, pictures=pictures)
        check_interval("[0, 1]", picture_score=picture_score)
        self.folder = folder
        self.pictures = pictures
        self.picture_score = picture_score
        self._found: list[dict[str, Tensor]] = []
        self._images: dict[int, Tensor] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier prediction."""
        self._found, self._images = [], {}

    def keep_images(self, trainer: Trainer, batch: Batch, index: Tensor) -> None:
        """Keep the images of a batch that are drawn, unless they can be read from their files.

        Args:
            trainer: Trainer, whose data may have ``image_paths``.
            batch: Batch with ``image`` (B, 3, H, W).
            index: Numbers (B,) of the images, on the CPU.
        """
        if getattr(datamodule_of(trainer), "image_paths", None) is None:
            shown = (index < self.pictures).nonzero().flatten().tolist()
            images = copy_packed({str(row): batch["image"][row] for row in shown}, "cpu")
            self._images |= {int(index[int(row)]): image for row, image in images.items()}

    def folder_of(self, trainer: Trainer) -> Path:
        """Return the folder of the files of a run."""
        return Path(self.folder or Path(trainer.default_root_dir) / "detections")


def names_of_images(data: Any, numbers: Iterable[int]) -> list[str]:
    """Return the names of images: those that the data has, or their numbers.

    Args:
        data: Data, which may have ``image_names``.
        numbers: Numbers of the images.
    """
    known = getattr(data, "image_names", None)
    return [known[n] if known is not None else f"{n:06d}" for n in numbers]
