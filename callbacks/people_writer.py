"""The bodies and parts that a detector found, as JSON and as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.result_writer import ResultWriter, names_of_images
from framework.command.report import relative
from framework.data.datasets import Batch
from framework.detection.body_parts.association import above_score
from framework.detection.body_parts.coco_results import coco_results
from framework.detection.body_parts.pictures import draw_people
from framework.detection.detections import names_of_classes, on_cpu
from framework.detection.gathering import gather_detections, gather_pictures
from framework.detection.pictures import read_picture, write_picture
from framework.distributed.collectives import gather
from framework.figures.style import may_fail
from framework.utilities.console import PlainConsole
from framework.utilities.files import file_name, make_folder, write_text
from framework.utilities.lightning_internals import datamodule_of

RESULTS = "detections.json"


@runtime_checkable
class PeopleDetector(Protocol):
    """Module whose predictions are bodies and parts with their bodies."""

    num_classes: int
    num_states: int
    slot_classes: Sequence[int]

    def associated(self, *args: Any) -> list[dict[str, Tensor]]:
        """Return the detections of every image with their association."""


class PeopleWriter(ResultWriter):
    """Writes the predicted bodies and parts in COCO's form of results, and pictures of them.

    ``detections.json`` is a list with an entry for each detection, see ``coco_results``. Pictures
    show boxes, and a line from each part to its body. Files are written from rank 0 into the folder
    ``detections`` of the run. Modules that find no people are left alone.

    Args:
        folder: Folder of the files; default ``detections`` in the run folder.
        pictures: Number of images that are drawn, the first ones by number; 0 for none.
        picture_score: Lowest score of a detection that is drawn.

    Raises:
        ValueError: ``pictures`` is negative, or ``picture_score`` not in [0, 1].

    Example:
        >>> PeopleWriter(pictures=5).pictures
        5
    """

    def __init__(
        self, folder: str | None = None, pictures: int = 20, picture_score: float = 0.45
    ) -> None:
        super().__init__(folder, pictures, picture_score)
        self._index: list[Tensor] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier prediction."""
        super().on_predict_start(trainer, pl_module)
        self._index = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was found on a batch, which may be none."""
        if not isinstance(pl_module, PeopleDetector):
            return
        index = batch["index"].cpu()
        self._index.append(index)
        self._found += on_cpu(outputs)
        self.keep_images(trainer, batch, index)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the detections of all ranks, and pictures of the first images."""
        if not isinstance(pl_module, PeopleDetector):
            return
        device = trainer.strategy.root_device
        own = torch.cat(self._index) if self._index else torch.zeros(0, dtype=torch.int64)
        index = gather(own.to(device)).tolist()
        nothing = _nothing(len(pl_module.slot_classes), pl_module.num_states > 0)
        found = gather_detections(self._found, nothing, device)
        pictures = gather_pictures(self._images, device)
        if not trainer.is_global_zero:
            return
        of_image = dict(sorted(zip(index, found, strict=True), key=itemgetter(0)))
        data: Any = datamodule_of(trainer)
        names = dict(zip(of_image, names_of_images(data, of_image), strict=True))
        classes = names_of_classes(pl_module, data)
        folder = self.folder_of(trainer)
        make_folder(folder)
        results = coco_results(of_image, names, classes)
        write_text(folder / RESULTS, json.dumps(results, indent=0) + "\n")
        self._draw(folder, of_image, names, pictures, data, classes)
        drawn = f", those of {self.picture_score} and more drawn" if self.pictures else ""
        PlainConsole().print(
            f"detections: {len(results):,} on {len(of_image):,} images in "
            f"{relative(folder)}{drawn}",
            soft_wrap=True,
        )

    def _draw(
        self,
        folder: Path,
        found: dict[int, dict[str, Tensor]],
        names: dict[int, str],
        pictures: dict[int, Tensor],
        data: Any,
        classes: Sequence[str],
    ) -> None:
        paths = getattr(data, "image_paths", None)
        numbers = [n for n in list(found)[: self.pictures] if paths is not None or n in pictures]
        files = _file_names([names[number] for number in numbers])
        for number, file in zip(numbers, files, strict=True):
            with may_fail(f"the detections on {names[number]}"):
                image = read_picture(paths[number]) if paths is not None else pictures[number]
                shown = above_score(found[number], self.picture_score)
                drawn = draw_people(image, shown, classes)
                write_picture(drawn, folder / f"{file_name(file, 'An image')}.png")


def _file_names(images: Sequence[str]) -> list[str]:
    """Return a file name for each image, without its ending where no other one has it then."""
    flat = [image.replace("/", "_") for image in images]
    names: list[str] = []
    for name in flat:
        stem = Path(name).stem
        candidates = chain((stem, name), (f"{name}_{turn}" for turn in count(2)))
        names.append(next(one for one in candidates if one not in names))
    return names


def _nothing(num_slots: int, has_states: bool) -> dict[str, Tensor]:
    """Return the detections of an image on which nothing was found."""
    whole = torch.zeros(0, dtype=torch.int64)
    fields = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": whole,
        "points": torch.zeros(0, num_slots, 2),
        "body": whole,
        "slot": whole,
    }
    return fields | ({"states": torch.zeros(0, 4)} if has_states else {})
