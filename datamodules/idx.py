"""Images in the IDX files of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import check_labels

_SETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")


def read_idx(path: str | Path, ndim: int) -> Tensor:
    """Read an IDX file of unsigned bytes, also gzipped (``.gz``), as a uint8 tensor.

    Args:
        path: IDX file, plain or gzipped.
        ndim: Number of dimensions: 3 for images (N, H, W), 1 for labels (N,).

    Raises:
        ValueError: a wrong magic number, or more or fewer bytes than the header announces; names
            the file and the byte.
    """
    content = _read_bytes(path)
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise ValueError(
            f"{path}: bytes 0..3 are {content[:4].hex(' ')} instead of the magic number "
            f"{magic.hex(' ')} of unsigned bytes in {ndim} dimension(s)."
        )
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"{path}: the file ends at byte {len(content)}, inside its header.")
    shape = np.frombuffer(content, ">i4", ndim, offset=4).tolist()
    if min(shape) < 1:
        raise ValueError(f"{path}: the header at byte 4 announces the impossible shape {shape}.")
    item = math.prod(shape[1:])
    end = start + shape[0] * item
    if len(content) < end:
        raise ValueError(
            f"{path}: the file ends at byte {len(content):,} of {end:,}, in item "
            f"{(len(content) - start) // item} of {shape[0]:,}."
        )
    if len(content) > end:
        raise ValueError(
            f"{path}: {len(content) - end:,} bytes follow byte {end:,}, where the {shape[0]:,} "
            "items of the header end."
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)


def _read_bytes(path: str | Path) -> bytearray:
    if Path(path).suffix != ".gz":
        return bytearray(Path(path).read_bytes())
    content = bytearray()
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                content += chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: the gzip stream breaks after {len(content):,} unpacked bytes: {error}"
        ) from None
    return content


class IDXImages(ClassificationData):
    """Images in the files of MNIST, Fashion-MNIST or KMNIST, as they are published.

    The four files ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, each plain or ``.gz``, also
    under Kaggle's names (``train-images.idx3-ubyte``), are looked for in ``root``, ``root/raw`` and
    torchvision's ``root/{MNIST,FashionMNIST,KMNIST,QMNIST}/raw``. The 60,000 training images are
    the full training set, from which ``val_size`` are held out. ``input_shape`` is (1, 28, 28)
    until ``setup`` has read another size from the files.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: Folder of the files.
        num_classes: Number of classes; labels lie in 0..num_classes - 1.
        class_names: Names of the classes; default their numbers.

    Raises:
        FileNotFoundError: a file is missing (at ``setup``).
        ValueError: files of two data sets below ``root``; a damaged file or a label outside the
            classes, by file and position.

    Example:
        >>> data = IDXImages("data/mnist", batch_size=256, mean=[0.1307], std=[0.3081])
        >>> data.num_classes, data.input_shape
        (10, (1, 28, 28))
    """

    input_shape = (1, 28, 28)

    def __init__(
        self,
        root: str,
        num_classes: int = 10,
        class_names: list[str] | None = None,
        val_size: int | float = 5000,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        self.root = Path(root)
        self.num_classes = num_classes
        self.class_names = class_names or [str(label) for label in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {num_classes} classes.")

    def read(self) -> Splits:
        """Return the training and the test files."""
        train, test = self._read_pair("train"), self._read_pair("t10k")
        train_shape, test_shape = (part.fields["image"].shape[2:] for part in (train, test))
        if train_shape != test_shape:
            raise ValueError(
                f"{self.root}: training images are {tuple(train_shape)}, test images "
                f"{tuple(test_shape)} pixels."
            )
        self.input_shape = (1, *train_shape)
        return Splits(train, None, test)

    def _read_pair(self, part: str) -> ImageSet:
        image_path = self._find(f"{part}-images", "idx3-ubyte")
        label_path = self._find(f"{part}-labels", "idx1-ubyte")
        image, label = read_idx(image_path, ndim=3), read_idx(label_path, ndim=1)
        if len(image) != len(label):
            raise ValueError(
                f"{label_path} has {len(label):,} labels for the {len(image):,} images of "
                f"{image_path}."
            )
        check_labels(label, self.num_classes, label_path)
        return ImageSet(image=image.unsqueeze(1), label=label.long())

    def _find(self, stem: str, kind: str) -> Path:
        sets = [self.root / name / "raw" for name in _SETS]
        for folder in (self.root, self.root / "raw"):
            if path := _file_in(folder, stem, kind):
                return path
        found = [path for folder in sets if (path := _file_in(folder, stem, kind))]
        if len(found) > 1:
            places = " and ".join(str(path.parent) for path in found)
            raise ValueError(f"{self.root} holds {places}: set root to one of them.")
        if not found:
            raise FileNotFoundError(
                f"{stem}-{kind} or {stem}-{kind}.gz is in none of {self.root}, {self.root / 'raw'} "
                f"and {self.root}/{{{','.join(_SETS)}}}/raw."
            )
        return found[0]


def _file_in(folder: Path, stem: str, kind: str) -> Path | None:
    """Return a file of a data set under one of its names, or None."""
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        # Kaggle puts each file into a folder of its name
        for path in (folder / name, folder / f"{name}.gz", folder / name / name):
            if path.is_file():
                return path
    return None
