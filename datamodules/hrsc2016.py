"""HRSC2016: ships in high-resolution satellite images."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch

from datamodules.dota.tile_set import Tile, TileSet, Tiling
from datamodules.oriented_data import OrientedData, OrientedOptions, check_objects
from framework.data.folders import existing_file
from framework.data.image_files import image_size
from framework.detection.objects import Objects
from framework.detection.rotated import cxcywhr_to_quad
from framework.utilities.files import path_below
from framework.utilities.limits import read_text
from framework.utilities.xml_files import read_xml

_BYTES_PER_CHARACTER = 64
"""Bytes that a character of a list becomes at most, as names of one."""
_FARTHEST = 1e9
"""Pixels that a box is away at most; a number of single precision may have 38 digits."""
_BOX = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


class HRSC2016(OrientedData):
    """1,070 satellite images with ships, each shown whole.

    The parts are those of ``root/ImageSets/<part>.txt``, one name per line; images lie in
    ``root/FullDataSet/AllImages`` and their labels in ``root/FullDataSet/Annotations``. An image is
    resized so that its longer side is S, and filled up with gray at the right or below. All kinds
    of ships are one class, as in the publications on oriented detection.

    Batches hold what ``OrientedData`` says, in pixels of the resized
    image, and outside training the fields of the whole image that
    ``TiledData`` describes: an image is one tile.

    Paper: Liu et al., A High Resolution Optical Satellite Image Dataset for Ship Recognition and
    Some New Baselines, ICPRAM 2017.

    Args:
        root: Folder of the data set.
        image_size: Width and height S of an image, in pixels.
        train: Part to train on.
        val: Part to validate on, or None.
        test: Part to test on and to predict, or None.

    Raises:
        FileNotFoundError: a file is not there, by name (at ``setup``).
        ValueError: an argument out of its range; a name that leads out of the folder; a label file
            that is no XML, or an object in it without a box of finite numbers and positive sides;
            or an image that cannot be decoded.
    """

    class_names = ("ship",)
    num_classes = 1

    def __init__(
        self,
        root: str,
        image_size: int = 800,
        train: str = "trainval",
        val: str | None = None,
        test: str | None = "test",
        **options: Unpack[OrientedOptions],
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.tiling = Tiling(image_size, gap=0)
        self.input_shape = (3, image_size, image_size)
        self.parts = {"train": train, "val": val, "test": test}

    def setup(self, stage: str | None = None) -> None:
        """Read the labels of the parts that the stage needs, once."""
        (ship,) = self.number_classes(type(self).class_names)
        train, val, test = self.parts["train"], self.parts["val"], self.parts["test"]
        if stage in (None, "fit") and train is not None and self.train_set is None:
            self.train_set = self._part(train, ship, training=True)
            check_objects(self.train_set.objects, f"{self.root}, part {train},")
            self.augment_from(self.train_set)
        if stage in (None, "fit", "validate") and val is not None and self.val_set is None:
            self.val_set = self._part(val, ship)
            check_objects(self.val_set.objects, f"{self.root}, part {val},")
        if stage in (None, "test", "predict") and test is not None and self.test_set is None:
            part = self._part(test, ship)
            if stage == "test":
                check_objects(part.objects, f"{self.root}, part {test},")
            self.test_set = self.predict_set = part
            self.image_paths = part.paths.tolist()
            self.image_names = [Path(path).stem for path in part.paths.tolist()]

    def _part(self, part: str, ship: int, training: bool = False) -> TileSet:
        listed = existing_file(self.root / "ImageSets" / f"{part}.txt")
        images, labels = (self.root / "FullDataSet" / f for f in ("AllImages", "Annotations"))
        names = read_text(listed, _BYTES_PER_CHARACTER, "its names").split()
        paths = [existing_file(path_below(images, f"{name}.bmp", listed)) for name in names]
        objects = [read_hrsc(path_below(labels, f"{name}.xml", listed)) for name in names]
        for of_image in objects:
            of_image.label.fill_(ship)
        tiles = [
            Tile(image, self.tiling.window / max(image_size(path)), 0, 0)
            for image, path in enumerate(paths)
        ]
        return TileSet(paths, self.tiling, objects, training=training, tiles=tiles)


def read_hrsc(path: Path) -> Objects:
    """Return the ships of a label file, difficult as it says.

    ``mbox_ang`` is in radians, from the x axis towards the y axis, which points down.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no XML, or an object without a box of finite numbers and positive sides.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "100000001.xml"
        >>> box = zip(_BOX, (50, 40, 20, 10, 0))
        >>> fields = "".join(f"<{name}>{value}</{name}>" for name, value in box)
        >>> _ = path.write_text(f"<HRSC_Image><HRSC_Object>{fields}</HRSC_Object></HRSC_Image>")
        >>> read_hrsc(path).quads.tolist()
        [[[40.0, 35.0], [60.0, 35.0], [60.0, 45.0], [40.0, 45.0]]]
    """
    items = list(read_xml(existing_file(path)).iter("HRSC_Object"))
    boxes = []
    for number, item in enumerate(items, start=1):
        try:
            box = [float(item.findtext(name, "")) for name in _BOX]
        except ValueError:
            box = []
        if not box or not all(abs(value) <= _FARTHEST for value in box) or min(box[2:4]) <= 0:
            raise ValueError(f"{path}, object {number}: no box of finite {', '.join(_BOX)}.")
        boxes.append(box)
    difficult = [item.findtext("difficult", "0").strip() == "1" for item in items]
    return Objects(
        cxcywhr_to_quad(torch.tensor(boxes, dtype=torch.float64).view(-1, 5)).float(),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.uint8),
    )
