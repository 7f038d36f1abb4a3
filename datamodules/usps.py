"""The USPS digits in an HDF5 file or in those of LIBSVM."""

from __future__ import annotations

import bz2
import io
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from datamodules.classification import ClassificationData, ClassificationOptions
from datamodules.hdf5_arrays import find_dataset, open_hdf5
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from datamodules.labels import check_labels
from framework.utilities.limits import (
    FileTooLargeError,
    Unpacked,
    check_size,
    memory_foreseen,
    open_file,
)


class USPS(ClassificationData):
    """9,298 handwritten digits of 16x16 pixels from US envelopes (Hull 1994), in [0, 1].

    Reads ``root/usps.h5``, whose groups ``train`` and ``test`` hold ``data`` (N, 256), floats, and
    ``target`` (N,), integers; it needs ``h5py``, the extra ``trimtab[hdf5]``. Without that file it
    reads LIBSVM's and torchvision's ``root/usps.bz2`` and ``root/usps.t.bz2``, with labels 1..10
    and values in [-1, 1]. The 7,291 training images are the full training set, from which
    ``val_size`` are held out; 2,007 are for testing.

    The remaining arguments are those of ``ClassificationData``.

    Args:
        root: Folder of the files.

    Raises:
        FileNotFoundError: there are no such files (at ``setup``).
        ImportError: ``h5py`` is needed and not installed (at ``setup``).
        ValueError: a damaged file, or values of another shape, type or range; the message names
            the file and the data set in it.

    Example:
        >>> data = USPS("data/usps", batch_size=100, mean=[0.5], std=[0.5])
        >>> data.num_classes, data.input_shape
        (10, (1, 16, 16))
    """

    num_classes = 10
    class_names = tuple("0123456789")
    input_shape = (1, 16, 16)

    def __init__(
        self,
        root: str,
        val_size: int | float = 0.1,
        **options: Unpack[ClassificationOptions],
    ) -> None:
        super().__init__(val_size=val_size, **options)
        self.path = Path(root) / "usps.h5"

    def read(self) -> Splits:
        """Return the training and the test images."""
        if self.path.is_file():
            return self._read_hdf5()
        train, test = (self.path.with_name(name) for name in ("usps.bz2", "usps.t.bz2"))
        for path in (train, test):
            if not path.is_file():
                raise FileNotFoundError(f"There is neither {self.path} nor {path}.")
        return Splits(_read_libsvm(train), None, _read_libsvm(test))

    def _read_hdf5(self) -> Splits:
        """Return the groups ``train`` and ``test``."""
        with open_hdf5(self.path) as file:
            return Splits(self._part(file, "train"), None, self._part(file, "test"))

    def _part(self, file: Any, part: str) -> ImageSet:
        image = self._column(file, f"{part}/data", "float32", (256,))
        label = self._column(file, f"{part}/target", "int64", ())
        if len(label) != len(image):
            raise ValueError(
                f"{self.path}, {part}/target has {len(label):,} labels for {len(image):,} images."
            )
        return _image_set(image, label, f"{self.path}, {part}")

    def _column(self, file: Any, name: str, dtype: str, item: tuple[int, ...]) -> Tensor:
        """Return a data set of the file as ``dtype``; each of its rows has the shape ``item``."""
        found = find_dataset(file, name)
        if found is None:
            raise ValueError(f"{self.path} has no data set {name}.")
        shape = found.shape
        kinds, what = ("f", "floats") if dtype == "float32" else ("iu", "integers")
        if found.dtype.kind not in kinds or not shape or not shape[0] or shape[1:] != item:
            wanted = ", ".join(["N", *map(str, item)])
            raise ValueError(
                f"{self.path}, {name} must be {what} of shape ({wanted}), not {found.dtype} of "
                f"shape {shape}."
            )
        return torch.from_numpy(found.astype(dtype)[()])


def _read_libsvm(path: Path) -> ImageSet:
    from sklearn.datasets import load_svmlight_file

    try:
        with memory_foreseen(path), open_file(path) as file:
            # a number and its place, 16 bytes, have four characters at least
            text = Unpacked(path, bz2.BZ2File(file), factor=8).read()
            rows = 1 + text.count(b"\n")
            check_size(path, 3 * 8 * 256 * rows, f"{rows:,} images of 256 numbers")
            pixels, label = load_svmlight_file(io.BytesIO(text), n_features=256, zero_based=False)
    except FileTooLargeError:
        raise
    except (OSError, EOFError, ValueError, OverflowError) as error:  # by which byte is damaged
        raise ValueError(f"{path} is no complete bz2 file of LIBSVM's form: {error}") from None
    image = torch.from_numpy(pixels.toarray()).add(1).div(2)
    return _image_set(image.float(), torch.from_numpy(label).long() - 1, str(path))


def _image_set(image: Tensor, label: Tensor, source: str) -> ImageSet:
    outside = torch.nonzero(~((image >= 0) & (image <= 1)).all(1))
    if len(outside):
        raise ValueError(f"{source}/data: row {int(outside[0])} has a value outside 0..1.")
    check_labels(label, USPS.num_classes, f"{source}/target")
    return ImageSet(image=image.view(-1, *USPS.input_shape), label=label)
