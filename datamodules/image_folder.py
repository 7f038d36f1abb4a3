"""Image files in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import ImageGeometry, Splits
from datamodules.image_datasets import ImageFiles
from framework.data.datasets import root_and_rows
from framework.data.facts import listed
from framework.data.folders import sorted_names
from framework.data.image_files import intact_images
from framework.data.image_folders import LabeledImages, find_images, find_parts, labeled_images
from framework.data.tar_files import Member


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
        parts = {
            part: self.labeled_in(places)
            for part, places in (self.parts() or {"train": self.all_places()}).items()
        }
        self.class_names = parts["train"].class_names
        self.num_classes = len(self.class_names)
        found = {part: self._images_of(images) for part, images in parts.items()}
        return Splits(found["train"], found.get("val"), found.get("test"))

    def parts(self, needs_train: bool = True) -> dict[str, tuple[Path, ...]]:
        """Return where the images of each part lie; nothing where there are no parts."""
        return {part: (path,) for part, path in find_parts(self.root, needs_train).items()}

    def all_places(self) -> tuple[Path, ...]:
        """Return where all images lie."""
        return (self.root,)

    def images_in(self, places: Sequence[Path]) -> Sequence[Path | Member]:
        """Return all images in some places."""
        return find_images(places[0])

    def labeled_in(self, places: Sequence[Path]) -> LabeledImages:
        """Return the images in some places with their classes."""
        return labeled_images(places[0])

    def _images_of(self, found: LabeledImages) -> ImageFiles:
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        unknown = [name for name in found.class_names if name not in numbers]
        if unknown:
            raise ValueError(f"{found.place / unknown[0]} is a class that the training set lacks.")
        of_class: dict[str, list[Path | Member]] = {name: [] for name in found.class_names}
        loose = 0
        for path in intact_images([*found.class_of], found.place, self.strict):
            name = found.class_of[path]
            if name is not None:
                of_class[name].append(path)
            else:
                loose += 1
        if loose:
            rank_zero_warn(
                f"{loose:,} images in {found.place} itself are in no class, and not read."
            )
        empty = next((name for name, paths in of_class.items() if not paths), None)
        if empty is not None:
            raise FileNotFoundError(f"{found.place / empty} holds no image, so its class is empty.")
        files = [path for paths in of_class.values() for path in paths]
        label = [numbers[name] for name, paths in of_class.items() for _ in paths]
        return self.images_of(files, torch.tensor(label))

    def _predicted(self) -> ImageFiles:
        parts = self.parts(needs_train=False)
        places = parts.get("test") or parts.get("val") or self.all_places()
        place = places[0] if len(places) == 1 else self.root
        paths = intact_images(self.images_in(places), place, self.strict)
        self._use_preparation()
        images = self.images_of(paths, None)
        self._prepared(Splits(images, None, None))
        return images

    def _find_evaluated(self) -> bool:
        """Find what another run's model is evaluated on; False where there is a training part."""
        parts = self.parts(needs_train=False)
        if "train" in parts:
            return False
        places = parts or dict.fromkeys(("val", "test"), self.all_places())
        labeled = {place: self.labeled_in(place) for place in dict.fromkeys(places.values())}
        self._use_preparation()
        self.class_names = sorted_names(
            name for images in labeled.values() for name in images.class_names
        )
        found = {place: self._images_of(images) for place, images in labeled.items()}
        sets = list(found.values())
        self._prepared(Splits(sets[0], None, sets[1] if len(sets) > 1 else None))
        self.val_set, self.test_set = (
            found[places[part]] if part in places else None for part in ("val", "test")
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
