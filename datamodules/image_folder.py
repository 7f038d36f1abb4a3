"""Image files in one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Unpack

import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import ImageGeometry, Splits
from datamodules.image_datasets import ImageFiles
from framework.data.datasets import root_and_rows
from framework.data.facts import listed
from framework.data.folders import sorted_names, subfolders
from framework.data.image_files import intact_images
from framework.data.image_folders import find_images, find_parts


class ImageFolder(ClassificationData):
    """Image files in one folder per class, decoded when they are needed.

    The layout is ``root/<class>/...`` or ``root/{train,val,test}/<class>/...``; the parts may be
    called as in ``PARTS``, such as ``Training`` and ``valid``. Without a ``val`` folder,
    ``val_size`` of the training images are held out; without a ``test`` folder there is no test
    set. Classes are numbered in the order of ``sorted_names``. See ``find_images`` for what counts
    as an image, and ``open_image`` for how it is decoded; files are found and checked, but not
    decoded, at ``setup``.

    Predicted are the images of ``test``, without that those of ``val``, and where there are no
    parts all images below ``root``, in folders of any name or none. A trained model is validated
    and tested on all images of another ``root`` that has folders of classes and no parts, and is no
    copy of the one of the training.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: Folder of the classes, or of the parts: train, and optionally val and test.
        image_size: Side of a square image, or its height and width (H, W); an image is resized, its
            sides in proportion, until it covers them, then the center is cropped. By default
            as in training, or the median of the shorter sides, at most 224.
        channels: Channels of an image: 3 for RGB, 1 for gray; by default as in training, or
            1 if all images are gray.
        resize: Length that the shorter side is resized to instead, at least ``image_size``.
        strict: Whether an image that cannot be decoded stops the run before it begins; otherwise it
            is left out and counted, and every image is decoded once before.

    Raises:
        FileNotFoundError: no such folder, no class in it, or a class without an image.
        ValueError: a ``resize`` below ``image_size``; two folders for one part; an evaluated class
            that is not trained; or, by name, all images that cannot be decoded (at ``setup``).

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     for number in range(4):
        ...         PIL.Image.new("RGB", (20, 30)).save(root / name / f"{number}.png")
        >>> data = ImageFolder(str(root), image_size=16, batch_size=4, val_size=0)
        >>> data.setup("fit")
        >>> data.class_names, next(iter(data.train_dataloader()))["image"].shape
        (['cat', 'dog'], torch.Size([4, 3, 16, 16]))
    """

    def __init__(
        self,
        root: str,
        image_size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        resize: int | None = None,
        val_size: int | float = 0.1,
        strict: bool = True,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        self.root = Path(root)
        self.strict = strict
        self.geometry = ImageGeometry(image_size, channels, resize)
        self.place = self.root
        self._use_preparation()

    def setup(self, stage: str | None = None) -> None:
        """Find what is to be predicted; or else all parts, once, for all other stages."""
        if stage == "predict":
            self.predict_set = self._predicted()
        elif stage in ("validate", "test") and self.is_new and self._find_evaluated():
            return
        elif self.train_set is None:
            super().setup(stage)
            self._warn_of_classes_without_validation()

    def read(self) -> Splits:
        """Find the classes and the files."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.root}: give the one of the images as data.root."
            )
        folders = find_parts(self.root) or {"train": self.root}
        self.class_names = [folder.name for folder in subfolders(folders["train"])]
        self.num_classes = len(self.class_names)
        found = {part: self._find(folder) for part, folder in folders.items()}
        return Splits(found["train"], found.get("val"), found.get("test"))

    def _find(self, folder: Path) -> ImageFiles:
        names = [path.name for path in subfolders(folder)]
        if not names:
            raise FileNotFoundError(
                f"{folder} is not a folder with one folder of images per class."
            )
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise ValueError(f"{folder / unknown[0]} is a class that the training set lacks.")
        of_class: dict[str, list[Path]] = {name: [] for name in names}
        loose = 0
        for path in intact_images(find_images(folder), folder, self.strict):
            name, *inside = path.relative_to(folder).parts
            if inside:
                of_class[name].append(path)
            else:
                loose += 1
        if loose:
            rank_zero_warn(f"{loose:,} images in {folder} itself are in no class, and not read.")
        empty = next((name for name in names if not of_class[name]), None)
        if empty is not None:
            raise FileNotFoundError(f"{folder / empty} holds no image, so its class is empty.")
        # folders after the files beside them, as always: the split goes by the order
        files = [path for name in names for path in sorted(of_class[name], key=os.path.split)]
        label = [numbers[path.relative_to(folder).parts[0]] for path in files]
        return self.images_of(files, torch.tensor(label))

    def _predicted(self) -> ImageFiles:
        parts = find_parts(self.root, needs_train=False)
        folder = parts.get("test") or parts.get("val") or self.root
        paths = intact_images(find_images(folder), folder, self.strict)
        self._use_preparation()
        images = self.images_of(paths, None)
        self._prepared(Splits(images, None, None))
        return images

    def _find_evaluated(self) -> bool:
        """Find what another run's model is evaluated on; False where there is a training part."""
        parts = find_parts(self.root, needs_train=False)
        if "train" in parts:
            return False
        folders = parts or {"val": self.root, "test": self.root}
        self._use_preparation()
        self.class_names = sorted_names(
            path.name for folder in folders.values() for path in subfolders(folder)
        )
        found = {folder: self._find(folder) for folder in dict.fromkeys(folders.values())}
        sets = list(found.values())
        self._prepared(Splits(sets[0], None, sets[1] if len(sets) > 1 else None))
        self.val_set, self.test_set = (
            found[folders[part]] if part in folders else None for part in ("val", "test")
        )
        return True

    def _warn_of_classes_without_validation(self) -> None:
        if self.val_set is None or self.class_names is None:
            return
        root, rows = root_and_rows(self.val_set, list(range(len(self.val_set))))  # type: ignore[arg-type]
        count = root.fields["label"][rows].bincount(minlength=self.num_classes).tolist()
        absent = [name for name, number in zip(self.class_names, count, strict=True) if not number]
        if absent:
            rank_zero_warn(
                f"{len(absent)} of the {self.num_classes} classes have no image for validation: "
                f"{listed(absent)}. Set stratify: true or a larger val_size, or add a val folder."
            )
