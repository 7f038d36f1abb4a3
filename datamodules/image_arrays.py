"""Images in NumPy's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from datamodules.array_files import read_arrays
from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import check_labels
from framework.data.folders import is_hidden
from framework.data.image_folders import PARTS

_IMAGES = ("images", "imgs", "x")
_LABELS = ("labels", "label", "targets", "y")
_CHANNELS = (1, 3)
MAX_CLASSES = 1 << 20
"""Classes of a set whose labels are not named: each takes a name, and a row of the model."""


class ImageArrays(ClassificationData):
    """Labeled images in ``.npz`` and ``.npy`` files, such as those of KMNIST, MedMNIST and Keras.

    Each part has an array of images, (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8,
    uint16 (divided by 65,535) or floats in [0, 1], and one of labels, (N,) or (N, 1) integers from
    0. Arrays are told by their names, in any case: ``train_images`` and ``train_labels``, or
    ``x_train`` and ``y_train``; parts may be called as in ``PARTS``, images ``images``, ``imgs`` or
    ``x``, labels ``labels``, ``label``, ``targets`` or ``y``. They lie in one ``.npz`` file, or
    each in a file of that name, which something else may stand before, as in
    ``kmnist-train-imgs.npz``. ``num_classes`` and ``input_shape`` are known after ``setup``.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: File with all arrays, or folder with a file for each.
        class_names: Names of the classes; default their numbers.

    Raises:
        FileNotFoundError: no such file or folder, or no training images or labels (at ``setup``).
        ValueError: (at ``setup``), by file and array, a damaged file, another shape or type, two
            arrays for the same, or a label outside the classes.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/digits.npz"
        >>> images = np.zeros((20, 8, 6), np.uint8)
        >>> np.savez(path, x_train=images, y_train=np.arange(20) % 4)
        >>> data = ImageArrays(path)
        >>> data.setup("fit")
        >>> data.num_classes, data.input_shape
        (4, (1, 8, 6))
    """

    def __init__(
        self,
        root: str,
        class_names: list[str] | None = None,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        self.root = Path(root)
        self.given_names = class_names

    def read(self) -> Splits:
        """Return the parts that there are."""
        arrays: dict[tuple[str, bool], tuple[str, np.ndarray]] = {}
        for name, source, array in _arrays(self.root):
            key = _meaning(name)
            if key is None:
                continue
            if key in arrays:
                raise ValueError(f"{source} and {arrays[key][0]} are the same part of the data.")
            arrays[key] = (source, array)
        sets = {part: self._part(part, arrays) for part in PARTS}
        train = sets["train"]
        if train is None:
            raise FileNotFoundError(
                f"{self.root} has no arrays of training images and labels, such as train_images "
                "and train_labels."
            )
        found = [images for images in sets.values() if images is not None]
        self.num_classes = 1 + max(int(images.fields["label"].max()) for images in found)
        if self.given_names is not None:
            self.num_classes = len(self.given_names)
        if self.num_classes > MAX_CLASSES:
            raise ValueError(
                f"{self.root}: the largest label is {self.num_classes - 1:,}, and there may be "
                f"{MAX_CLASSES:,} classes."
            )
        for images in found:
            check_labels(images.fields["label"], self.num_classes, self.root)
        self.class_names = self.given_names or [str(k) for k in range(self.num_classes)]
        shapes = {tuple(images.fields["image"].shape[1:]) for images in found}
        if len(shapes) > 1:
            raise ValueError(f"{self.root}: the parts have images of shapes {sorted(shapes)}.")
        channels, height, width = shapes.pop()
        self.input_shape = (channels, height, width)
        return Splits(train, sets["val"], sets["test"])

    def _part(
        self, part: str, arrays: dict[tuple[str, bool], tuple[str, np.ndarray]]
    ) -> ImageSet | None:
        if (part, True) not in arrays or (part, False) not in arrays:
            return None
        source, pixels = arrays[part, True]
        image = _images(pixels, source)
        labels_source, label = arrays[part, False]
        if label.dtype.kind not in "iu" or label.size != len(image) or len(label) != len(image):
            raise ValueError(
                f"{labels_source} must be {len(image)} integers, one for each image, not "
                f"{label.dtype} of shape {label.shape}."
            )
        return ImageSet(image=image, label=torch.from_numpy(label.reshape(-1).astype(np.int64)))


def _arrays(root: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the name, the source for messages and the content of every array."""
    if root.is_file():
        for name, array in read_arrays(root, lambda name: _meaning(name) is not None).items():
            yield name, f"{root}, {name}", array
        return
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is neither a file nor a folder.")
    for path in sorted(root.iterdir()):
        if is_hidden(path.name) or path.suffix not in (".npy", ".npz"):
            continue
        if _meaning(path.stem) is None:
            continue
        arrays = read_arrays(path)
        if len(arrays) > 1:
            raise ValueError(f"{path} has the arrays {', '.join(arrays)} in place of one.")
        yield from ((path.stem, str(path), array) for array in arrays.values())


def _meaning(name: str) -> tuple[str, bool] | None:
    """Return the part that an array belongs to, and whether it holds images; None for neither."""
    *_, first, second = ["", "", *re.split(r"[^a-z0-9]+", name.lower())]
    for part, what in ((first, second), (second, first)):
        known = next((key for key, names in PARTS.items() if part in names), None)
        if known is not None and what in _IMAGES + _LABELS:
            return known, what in _IMAGES
    return None


def _images(pixels: np.ndarray, source: str) -> torch.Tensor:
    """Return images (N, C, H, W), uint8 or float32 in [0, 1]."""
    shape = pixels.shape
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and shape[3] in _CHANNELS:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in _CHANNELS or not pixels.size:
        raise ValueError(
            f"{source} must be of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, not "
            f"{shape}."
        )
    if pixels.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(pixels))
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of either byte order
        return torch.from_numpy(np.divide(pixels, 65535, dtype=np.float32))
    if pixels.dtype.kind != "f":
        raise ValueError(f"{source} must be uint8, uint16 or floats in [0, 1], not {pixels.dtype}.")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{source}: floats must lie in [0, 1], and lie in [{low:g}, {high:g}].")
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
