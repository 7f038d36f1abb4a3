"""Images in the IDX files of MNIST."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import check_labels
from framework.utilities.limits import MAX_GZIP, check_size, memory_foreseen, open_file

_BLOCK = 1 << 20
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
    with memory_foreseen(path), open_file(path) as file:
        stored = os.fstat(file.fileno()).st_size
        if Path(path).suffix != ".gz":
            return _read(path, file, ndim, most=stored)
        unpacked = gzip.GzipFile(fileobj=file)
        try:
            return _read(path, unpacked, ndim, most=MAX_GZIP * stored, packed=True)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream breaks after {unpacked.tell():,} unpacked bytes: {error}"
            ) from None


def _read(path: str | Path, file: Any, ndim: int, most: int, packed: bool = False) -> Tensor:
    """Read the header, and then as much as it announces.

    Args:
        path: File, for messages.
        file: Its content, inflated as it is read.
        ndim: Number of dimensions.
        most: Bytes that the content has at most.
        packed: Whether the content is unpacked as it is read.
    """
    magic = bytes([0, 0, 8, ndim])
    start = 4 + 4 * ndim
    header = file.read(start)
    if header[:4] != magic:
        raise ValueError(
            f"{path}: bytes 0..3 are {header[:4].hex(' ')} instead of the magic number "
            f"{magic.hex(' ')} of unsigned bytes in {ndim} dimension(s)."
        )
    if len(header) < start:
        raise ValueError(f"{path}: the file ends at byte {len(header)}, inside its header.")
    shape = np.frombuffer(header, ">i4", ndim, offset=4).tolist()
    if min(shape) < 1:
        raise ValueError(f"{path}: the header at byte 4 announces the impossible shape {shape}.")
    size, item = math.prod(shape), math.prod(shape[1:])
    if packed:
        check_size(path, size, f"the shape {shape} that its header announces")
        if start + size > most:
            raise ValueError(
                f"{path}: the header announces {size:,} bytes, and no more than {most:,} can be "
                "packed in the file."
            )
    content = np.empty(min(size, most - start), dtype=np.uint8)
    view, there = content.data, 0
    while count := file.readinto(view[there : there + _BLOCK]):
        there += count
    if there < size:
        raise ValueError(
            f"{path}: the file ends at byte {start + there:,} of {start + size:,}, in item "
            f"{there // item} of {shape[0]:,}."
        )
    if file.read(1):
        raise ValueError(
            f"{path}: more bytes follow byte {start + size:,}, where the {shape[0]:,} items of "
            "the header end."
        )
    return torch.from_numpy(content).view(shape)


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
