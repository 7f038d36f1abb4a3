"""DOTA and data sets in its form: large aerial images with oriented objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from datamodules.dota.classes import CLASS_NAMES
from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.labels import read_labels
from datamodules.dota.tiled import TiledData, TiledOptions, check_class_names
from framework.data.image_files import image_size
from framework.detection.objects import Objects
from framework.utilities.checks import check_one_of


class DOTA(TiledData):
    r"""Aerial images in the layout of DOTA, served as overlapping tiles with their objects.

    A part lies in ``root/<part>/images`` and ``root/<part>/labelTxt``, or in ``root/images/<part>``
    and ``root/labelTxt/<part>``; part ``'.'`` means ``root/images`` itself. An image and its labels
    have one name. Without a test part the validation part is tested and predicted; a test part
    without labels, as DOTA's own, is only predicted.

    Tiles, and what they show of objects that their border cuts, follow the development kit (see
    ``tile_objects``). Difficult objects are trained on, those of
    which a tile shows 0.7 or less are not.

    The remaining arguments and what batches hold are described at
    ``TiledData``.

    Paper: Xia et al., DOTA: A Large-scale Dataset for Object Detection in Aerial Images, CVPR 2018,
    arXiv:1711.10398.

    Args:
        root: Folder of the data set.
        version: Version whose classes are used, in quotes in YAML: 15 of ``'1.0'``, with
            container-crane 16 of ``'1.5'``, with airport and helipad 18 of ``'2.0'``.
        classes: Names of the classes of another data set in this form; default those of
            ``version``.
        train: Part to train on.
        val: Part to validate on, or None.
        test: Part to test on or to predict.
        labels: Name of the folders of labels.
        strict: Whether a fault in the files stops the run; otherwise it is left out and counted,
            and every image is decoded once before.
        empty_tiles: Whether training tiles without objects are served.

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
        train: str = "train",
        val: str | None = "val",
        test: str | None = None,
        labels: str = "labelTxt",
        strict: bool = True,
        empty_tiles: bool = True,
        **options: Unpack[TiledOptions],
    ) -> None:
        super().__init__(**options)
        if classes is None:
            check_one_of(CLASS_NAMES, version=version)
        self.root = Path(root)
        self.class_names = CLASS_NAMES[version] if classes is None else tuple(classes)
        check_class_names(self.class_names)
        self.num_classes = len(self.class_names)
        self.parts = {"train": train, "val": val, "test": test}
        self.labels = labels
        self.strict = strict
        self.empty_tiles = empty_tiles
        self._read: dict[str, tuple[list[Path], list[Objects] | None]] = {}

    def prepare_data(self) -> None:
        """Cut the tiles that the cache lacks."""
        if self.cache_dir is not None:
            for part in {part: None for part in self.parts.values() if part is not None}:
                self.cut_tiles(part, self.read(part)[0])

    def setup(self, stage: str | None = None) -> None:
        """Find the images and read the labels of what the stage needs, once."""
        if self.trainer is None:  # nobody has called it before
            self.prepare_data()
        train, val, test = self.parts["train"], self.parts["val"], self.parts["test"]
        if stage in (None, "fit") and train is not None and self.train_set is None:
            paths, objects = self.read(train)
            if objects is None:
                raise FileNotFoundError(f"{self._folders(train)[1]} is not a folder of labels.")
            self.train_set = self.tile_set(train, paths, objects, True, self.empty_tiles)
            if not len(self.train_set):
                raise ValueError(f"{self._folders(train)[0]} leaves no tile to train on.")
            self.augment_from(self.train_set)
        validates = stage in (None, "fit", "validate") or test is None
        if val is not None and validates and self.val_set is None:
            paths, objects = self.read(val)
            if objects is None:
                raise FileNotFoundError(f"{self._folders(val)[1]} is not a folder of labels.")
            self.val_set = self.tile_set(val, paths, objects)
        if stage in (None, "test", "predict") and self.predict_set is None:
            if test is None:
                self.test_set = self.predict_set = self.val_set
            else:
                paths, objects = self.read(test)
                self.predict_set = self.tile_set(test, paths, objects)
                self.test_set = None if objects is None else self.predict_set
            if self.predict_set is not None:
                self.predict_from(self.read(test or val or "")[0])

    def read(self, part: str) -> tuple[list[Path], list[Objects] | None]:
        """Return the images of a part and their objects, or None where it has no labels."""
        if part not in self._read:
            faults = LabelErrors(self.strict)
            images, labels = self._folders(part)
            paths = self.pictures(images, faults)
            self._read[part] = (paths, None)
            if labels.is_dir():
                self._read[part] = _with_labels(paths, labels, self.class_names, faults)
            faults.warn(images)
        return self._read[part]

    def _folders(self, part: str) -> tuple[Path, Path]:
        inside = self.root / part
        if (inside / "images").is_dir():
            return inside / "images", inside / self.labels
        return self.root / "images" / part, self.root / self.labels / part


def _with_labels(
    paths: list[Path], folder: Path, class_names: Sequence[str], faults: LabelErrors
) -> tuple[list[Path], list[Objects]]:
    files = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    for path in paths:
        if path.stem not in files:
            faults.add("image without labels", f"{path} has no labels in {folder}.")
    images = {path.stem for path in paths}
    for name, file in files.items():
        if name not in images:
            faults.add("labels without an image", f"{file} has no image.")
    paths = [path for path in paths if path.stem in files]
    return paths, [
        read_labels(files[path.stem], class_names, faults, image_size(path)) for path in paths
    ]
