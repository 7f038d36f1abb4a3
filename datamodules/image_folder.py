"""Image files in one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

import torch

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageFiles
from framework.utilities.checks import check_one_of


class ImageFolder(ClassificationData):
    """Image files in one folder per class, decoded when they are needed.

    The layout is ``root/<class>/...`` or ``root/{train,val,test}/<class>/...``. Without a ``val``
    folder, ``val_size`` of the training images are held out; without a ``test`` folder there is no
    test set. Classes are numbered in the order of their names; files are found, but not opened, at
    ``setup``.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: Folder of the classes or of the parts.
        image_size: Width and height of an image; the shorter side is resized to it, then the center
            is cropped to a square.
        channels: Channels of an image: 3 for RGB, 1 for gray.
        resize: Length that the shorter side is resized to instead, at least ``image_size``.

    Raises:
        FileNotFoundError: no such folder, no class in it, or a class without an image.
        ValueError: a ``resize`` below ``image_size``; an evaluated class that is not trained, or an
            image that cannot be decoded (when it is read), by name.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / name).mkdir()
        ...     for number in range(4):
        ...         PIL.Image.new("RGB", (20, 30)).save(root / name / f"{number}.png")
        >>> data = ImageFolder(str(root), image_size=16, batch_size=4, val_size=2)
        >>> data.setup("fit")
        >>> data.class_names, next(iter(data.train_dataloader()))["image"].shape
        (['cat', 'dog'], torch.Size([4, 3, 16, 16]))
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        channels: Literal[1, 3] = 3,
        resize: int | None = None,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        check_one_of((1, 3), channels=channels)
        if resize is not None and resize < image_size:
            raise ValueError(f"resize must be at least image_size={image_size}, got {resize}.")
        self.root = Path(root)
        self.resize = resize
        self.input_shape = (channels, image_size, image_size)

    def read(self) -> Splits:
        """Find the classes and the files."""
        if (self.root / "train").is_dir():
            parts = [part for part in ("train", "val", "test") if (self.root / part).is_dir()]
            folders = {part: self.root / part for part in parts}
        else:
            folders = {"train": self.root}
        self.class_names = _class_folders(folders["train"])
        self.num_classes = len(self.class_names)
        found = {part: self._find(folder) for part, folder in folders.items()}
        return Splits(found["train"], found.get("val"), found.get("test"))

    def _find(self, folder: Path) -> ImageFiles:
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        classes = _class_folders(folder)
        unknown = sorted(set(classes) - set(numbers))
        if unknown:
            raise ValueError(f"{folder / unknown[0]} is a class that the training set lacks.")
        found = {name: numbers[name] for name in classes}
        files = make_dataset(folder, found, extensions=IMG_EXTENSIONS, allow_empty=True)
        filled = {label for _, label in files}
        empty = [name for name in classes if numbers[name] not in filled]
        if empty:
            raise FileNotFoundError(f"{folder / empty[0]} holds no image, so its class is empty.")
        channels, image_size, _ = self.input_shape
        paths, labels = zip(*files, strict=True)
        return ImageFiles(list(paths), torch.tensor(labels), image_size, channels, self.resize)


def _class_folders(folder: Path) -> list[str]:
    names = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if not names:
        raise FileNotFoundError(f"{folder} is not a folder with one folder of images per class.")
    return names
