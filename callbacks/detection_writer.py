"""What a detector found, as result files and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.result_writer import ResultWriter, names_of_images
from framework.command.report import relative
from framework.data.datasets import Batch
from framework.detection.detections import Detections, names_of_classes, on_cpu
from framework.detection.gathering import gather_detections, gather_pictures
from framework.detection.pictures import draw_detections, read_picture, write_picture
from framework.detection.result_files import write_results
from framework.detection.tiles import merge_tiles
from framework.distributed.collectives import gather
from framework.figures.style import may_fail
from framework.utilities.console import PlainConsole
from framework.utilities.files import file_name
from framework.utilities.lightning_internals import datamodule_of
from framework.utilities.packed_copy import copy_packed

NOTHING = {
    "boxes": torch.zeros(0, 4, 2),
    "scores": torch.zeros(0),
    "labels": torch.zeros(0, dtype=torch.int64),
}
"""Detections of an image on which nothing was found."""


@runtime_checkable
class Detector(Protocol):
    """Module whose predictions are detections."""

    num_classes: int
    merge_iou: float
    score_threshold: float

    def detect(self, *args: Any) -> list[Detections]:
        """Return the detections of every image."""


class DetectionWriter(ResultWriter):
    """Writes the predictions of a detector as ``Task1_<class>.txt`` and as pictures with boxes.

    Detections of tiles are merged on whole images: of those of one class that overlap by more than
    the module's ``merge_iou`` only the most certain one stays. Classes have the names that they had
    in training. Files are written from rank 0 into the folder ``detections`` of the run. Other
    modules are left alone.

    Args:
        folder: Folder of the files; default ``detections`` in the run folder.
        pictures: Number of images that are drawn, the first ones by number; 0 for none.
        picture_score: Lowest score of a detection that is drawn; files hold all those above the
            module's ``score_threshold``.

    Raises:
        ValueError: ``pictures`` is negative, or ``picture_score`` not in [0, 1].

    Example:
        >>> DetectionWriter(pictures=5).pictures
        5
    """

    def __init__(
        self, folder: str | None = None, pictures: int = 20, picture_score: float = 0.3
    ) -> None:
        super().__init__(folder, pictures, picture_score)
        self._places: list[Tensor] = []
        self._tiled = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier prediction, and refuse names of classes that no file can have.

        Raises:
            ValueError: There is such a name, in the checkpoint or the data.
        """
        super().on_predict_start(trainer, pl_module)
        self._places, self._tiled = [], False
        if isinstance(pl_module, Detector):
            for name in names_of_classes(pl_module, datamodule_of(trainer)):
                file_name(name, "A class")

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
        if not isinstance(pl_module, Detector):
            return
        names = ("index", "image_id", "tile_offset", "tile_scale")
        known = copy_packed({name: batch[name] for name in names if name in batch}, "cpu")
        index = known["index"]
        image_id = known.get("image_id", index)
        offset, scale = torch.zeros(len(index), 2), torch.ones(len(index))
        if "tile_offset" in known:
            self._tiled = True
            offset, scale = known["tile_offset"], known["tile_scale"]
        else:
            self.keep_images(trainer, batch, index)
        numbers = [index, image_id, *offset.T, scale]
        self._places.append(torch.stack([number.double() for number in numbers], 1))
        self._found += on_cpu(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the detections of tiles, and write files and pictures."""
        if not isinstance(pl_module, Detector):
            return
        device = trainer.strategy.root_device
        places, found = self._of_all_ranks(device)
        pictures = gather_pictures(self._images, device)
        if not trainer.is_global_zero:
            return
        image_id = places[:, 1].long()
        if self._tiled:
            merged = merge_tiles(
                found, image_id, places[:, 2:4].float(), places[:, 4].float(), pl_module.merge_iou
            )
        else:
            merged = dict(zip(image_id.tolist(), found, strict=True))
        data: Any = datamodule_of(trainer)
        numbers = sorted(merged)
        names = names_of_images(data, numbers)
        classes = names_of_classes(pl_module, data)
        folder = self.folder_of(trainer)
        write_results(folder, [merged[n] for n in numbers], names, classes)
        self._draw(folder, names, [merged[n] for n in numbers], numbers, pictures, data, classes)
        count = sum(len(one["scores"]) for one in merged.values())
        console = PlainConsole()
        drawn = f", of {self.picture_score} and more drawn" if self.pictures else ""
        note = f", tiles merged at an overlap of {pl_module.merge_iou}" if self._tiled else ""
        console.print(
            f"detections: {count:,} on {len(names):,} images in {relative(folder)}, scores above "
            f"{pl_module.score_threshold} written{drawn}{note}",
            soft_wrap=True,
        )

    def _of_all_ranks(self, device: torch.device) -> tuple[Tensor, list[Detections]]:
        """Return places (T, 5) and detections of every tile, each once, in the order of ``index``.

        A place is index, image, left, top and scale.
        """
        places = torch.cat(self._places) if self._places else torch.zeros(0, 5).double()
        places = gather(places.to(device)).cpu()
        found = gather_detections(self._found, NOTHING, device)
        order = np.unique(places[:, 0].numpy(), return_index=True)[1].tolist()
        return places[order], [found[k] for k in order]

    def _draw(
        self,
        folder: Path,
        names: Sequence[str],
        found: Sequence[Detections],
        numbers: Sequence[int],
        pictures: dict[int, Tensor],
        data: Any,
        classes: Sequence[str],
    ) -> None:
        paths = getattr(data, "image_paths", None)
        for name, one, number in list(zip(names, found, numbers, strict=True))[: self.pictures]:
            if paths is not None:
                image = read_picture(paths[number])
            elif number in pictures:
                image = pictures[number]
            else:
                continue
            shown = one["scores"] >= self.picture_score
            chosen = {field: value[shown] for field, value in one.items()}
            with may_fail(f"the detections on {name}"):
                write_picture(draw_detections(image, chosen, classes), folder / f"{name}.png")
