"""Base of the datamodules of large labeled images that lie in folders of parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.tiled import TiledData, TiledOptions
from datamodules.oriented_data import check_objects
from framework.data.folders import is_hidden
from framework.data.image_files import image_size
from framework.detection.objects import Objects

NO_LABELS = ("classes.txt",)
"""Files beside labels that tools write and that label no image."""


class PartOptions(TiledOptions, total=False):
    """Arguments of ``LabeledTiles`` whose defaults are the same for all data."""

    train: str
    val: str | None
    test: str | None
    strict: bool
    empty_tiles: bool


class LabeledTiles(TiledData):
    """Base of the datamodules of large labeled images that lie in folders of parts.

    A part lies in ``root/<part>/images`` and ``root/<part>/<labels>``, or in ``root/images/<part>``
    and ``root/<labels>/<part>``; part ``'.'`` means ``root/images`` itself. An image and its labels
    have one name. Without a test part the validation part is tested and predicted; a test part
    without labels is only predicted.

    The remaining arguments are those of ``TiledData``.

    Args:
        root: Folder of the data set.
        labels: Name of the folders of labels.
        train: Part to train on.
        val: Part to validate on, or None.
        test: Part to test on or to predict.
        strict: Whether a fault in the files stops the run; otherwise it is left out and counted,
            and every image is decoded once before.
        empty_tiles: Whether training tiles without objects are served.

    Raises:
        FileNotFoundError: A part is not there (at ``setup``).
        ValueError: An argument out of its range; no object to train on or to be scored on; or, by
            file and line unless ``strict`` is off, what is wrong in the files.
    """

    own_names: Sequence[str] = ()
    """Names of the classes of the labels, by their number; none for those of training."""
    label_numbers: Sequence[int]
    """Label of each of ``own_names``, by the classes of training."""
    needs_label_files = True
    """Whether an image without a label file is a fault; otherwise it has no object."""

    def __init__(
        self,
        root: str,
        labels: str,
        train: str = "train",
        val: str | None = "val",
        test: str | None = None,
        strict: bool = True,
        empty_tiles: bool = True,
        **options: Unpack[TiledOptions],
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.parts = {"train": train, "val": val, "test": test}
        self.labels = labels
        self.strict = strict
        self.empty_tiles = empty_tiles
        self._read: dict[str, tuple[list[Path], list[Objects] | None]] = {}

    @abstractmethod
    def read_labels(self, path: Path, faults: LabelErrors, size: tuple[int, int]) -> Objects:
        """Return the objects of a label file of an image of this width and height."""

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
            paths, objects = self._labeled(train)
            train_set = self.tile_set(train, paths, objects, True, self.empty_tiles)
            check_objects(train_set.objects, self._folders(train)[1])
            self.train_set = train_set
            self.augment_from(train_set)
        validates = stage in (None, "fit", "validate") or test is None
        if val is not None and validates and self.val_set is None:
            val_set = self.tile_set(val, *self._labeled(val))
            check_objects(val_set.whole, self._folders(val)[1])
            self.val_set = val_set
        if stage in (None, "test", "predict") and self.predict_set is None:
            if test is None:
                self.test_set = self.predict_set = self.val_set
            else:
                images, known = self.read(test)
                tested = self.tile_set(test, images, known)
                self.predict_set = tested
                self.test_set = None if known is None else tested
                if known is not None and stage == "test":
                    check_objects(tested.whole, self._folders(test)[1])
            if self.predict_set is not None:
                self.predict_from(self.read(test or val or "")[0])

    def _labeled(self, part: str) -> tuple[list[Path], list[Objects]]:
        paths, objects = self.read(part)
        labels = self._folders(part)[1]
        if objects is None:
            raise FileNotFoundError(f"{labels} is not a folder of labels.")
        return paths, objects

    def forget(self) -> None:
        """Forget what ``setup`` read, labels by other numbers included."""
        super().forget()
        self._read = {}

    def read(self, part: str) -> tuple[list[Path], list[Objects] | None]:
        """Return the images of a part and their objects, or None where it has no labels."""
        if part not in self._read:
            self.label_numbers = self.number_classes(self.own_names)
            faults = LabelErrors(self.strict)
            images, labels = self._folders(part)
            paths = self.pictures(images, faults)
            self._read[part] = (paths, None)
            if labels.is_dir():
                self._read[part] = self._with_labels(paths, labels, faults)
            faults.warn(images)
        return self._read[part]

    def _folders(self, part: str) -> tuple[Path, Path]:
        inside = self.root / part
        if (inside / "images").is_dir():
            return inside / "images", inside / self.labels
        return self.root / "images" / part, self.root / self.labels / part

    def _with_labels(
        self, paths: Sequence[Path], folder: Path, faults: LabelErrors
    ) -> tuple[list[Path], list[Objects]]:
        files = {p.stem: p for p in sorted(folder.glob("*.txt")) if not is_hidden(p.name)}
        kept = [path for path in paths if path.stem in files or not self.needs_label_files]
        for path in paths:
            if self.needs_label_files and path.stem not in files:
                faults.add("image without labels", f"{path} has no labels in {folder}.")
        images = {path.stem for path in paths}
        for name, file in files.items():
            if name not in images and file.name not in NO_LABELS:
                faults.add("labels without an image", f"{file} has no image.")
        return kept, [
            self.read_labels(files[path.stem], faults, image_size(path))
            if path.stem in files
            else Objects.none()
            for path in kept
        ]
