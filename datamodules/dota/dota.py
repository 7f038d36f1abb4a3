"""DOTA and data sets in its form: large aerial images with oriented objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.labeled_tiles import LabeledTiles, PartOptions
from datamodules.dota.labels import read_labels
from datamodules.dota.tiled import check_class_names
from framework.detection.objects import Objects
from framework.utilities.checks import check_one_of


class DOTA(LabeledTiles):
    r"""Aerial images in the layout of DOTA, served as overlapping tiles with their objects.

    The layout of parts and the remaining arguments are described at ``LabeledTiles``, what batches
    hold at ``TiledData``. Of DOTA's own test part, which has no labels, only predictions can be
    made.

    Tiles, and what they show of objects that their border cuts, follow the development kit (see
    ``tile_objects``). Difficult objects are trained on, those of
    which a tile shows 0.7 or less are not.

    Paper: Xia et al., DOTA: A Large-scale Dataset for Object Detection in Aerial Images, CVPR 2018,
    arXiv:1711.10398.

    Args:
        root: Folder of the data set.
        version: Version whose classes are used, in quotes in YAML: 15 of ``'1.0'``, with
            container-crane 16 of ``'1.5'``, with airport and helipad 18 of ``'2.0'``.
        classes: Names of the classes of another data set in this form; default those of the
            model's training, else of ``version``.
        labels: Name of the folders of labels.

    Raises:
        FileNotFoundError: a part is not there (at ``setup``).
        ValueError: an argument out of its range, or nothing to train on; or, by file and line
            unless ``strict`` is off, an unknown class, corners that are not those of a convex area,
            not finite or wholly outside the image, an image that cannot be decoded, an image
            without labels or labels without an image.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for folder in ("images", "labelTxt"):
        ...     (root / "train" / folder).mkdir(parents=True)
        >>> PIL.Image.new("RGB", (90, 60)).save(root / "train" / "images" / "P0001.png")
        >>> labels = root / "train" / "labelTxt" / "P0001.txt"
        >>> _ = labels.write_text("gsd:0.1\n70 10 80 10 80 30 70 30 ship 0")
        >>> data = DOTA(str(root), image_size=64, gap=16, val=None)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["label"].sort(0).values.tolist()
        (torch.Size([2, 3, 64, 64]), [[-1], [6]])
    """

    def __init__(
        self,
        root: str,
        version: Literal["1.0", "1.5", "2.0"] = "1.0",
        classes: list[str] | None = None,
        labels: str = "labelTxt",
        **options: Unpack[PartOptions],
    ) -> None:
        super().__init__(root, labels, **options)
        if classes is None:
            check_one_of(CLASS_NAMES, version=version)
        self.class_names = CLASS_NAMES[version] if classes is None else tuple(classes)
        check_class_names(self.class_names)
        self.num_classes = len(self.class_names)
        self.own_names = self.class_names
        self.names_given = classes is not None

    def number_classes(self, found: Sequence[str]) -> list[int]:
        """Take over the classes of training, which need not be those of a version of DOTA."""
        by_version = not self.names_given and "class_names" in self.trained
        return super().number_classes(() if by_version else found)

    def read_labels(self, path: Path, faults: LabelErrors, size: tuple[int, int]) -> Objects:
        """Return the objects of a label file in DOTA's form."""
        return read_labels(path, self.class_names, faults, size)
