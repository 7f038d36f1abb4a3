"""Identities in a RecordIO file, as InsightFace packs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.faces.identities import Identities
from datamodules.image_datasets import ImageFiles
from framework.data.encoded_image import EncodedImage
from framework.data.record_io import MAX_LABEL, RecordFile, whole_label
from framework.utilities.limits import read_text, whole_number

RECORDS = "train.rec"
PROPERTY = "property"
HEADER_KEY = 0
MAX_CLASSES = 1 << 20
"""Identities that a file may have whose images are fewer: each takes a row of the model."""


class RecordImages(ImageFiles):
    """Encoded images in the records of a file, decoded when they are read.

    Args:
        records: Records.
        keys: Keys of the N images (N,).
        label: Labels (N,) int64, which the records must have, too, before any is numbered anew.
        shape: Shape (C, H, W), see ``ImageFiles``.
        resize: Length that the shorter side is resized to, see ``ImageFiles``.
    """

    def __init__(
        self,
        records: RecordFile,
        keys: np.ndarray,
        label: Tensor,
        shape: tuple[int, int, int],
        resize: int | None = None,
    ) -> None:
        super().__init__((), label, records.path.parent, shape, resize)
        self.records = records
        self.paths = keys
        self.stored = keys, label.numpy()

    @property
    def names(self) -> list[str]:
        """Name of each record, without the folder."""
        return [f"{self.records.path.name}, record {key}" for key in self.paths.tolist()]

    def path(self, row: int) -> EncodedImage:
        """Return the image of a row.

        Raises:
            ValueError: its record is damaged, or has another label than its identity.
        """
        key = int(self.paths[row])
        name = self.records.name_of(key)
        found = self.records.read(key)
        keys, label = self.stored
        if found.labels[0] != (expected := label[np.searchsorted(keys, key)]):
            raise ValueError(
                f"{name} has the label {found.labels[0]:g}, and its identity has {expected}."
            )
        return EncodedImage(name, found.content)


def read_identity_records(
    root: Path, shape: tuple[int, int, int], resize: int | None = None
) -> Identities:
    """Return the images in ``train.rec`` by the labels in it.

    Of a file with a header (record 0 has the first key that is no image and the last one that is
    an identity, plus 1) the label of an identity is read at its first image; of any other file the
    labels of all records are read. ``property`` (``classes,height,width``) says how many classes
    there are, of which some may have no image; without it they are counted.

    Args:
        root: Folder of ``train.rec`` and, where there are, ``train.idx`` and ``property``.
        shape: Shape (C, H, W) that images are brought to, see ``ImageFiles``.
        resize: Length that the shorter side is resized to before.

    Raises:
        FileNotFoundError: no such file.
        ValueError: by file and record, a damaged file, or a label that is none.
    """
    records = RecordFile(root / RECORDS)
    keys, label, identities = _labeled(records)
    if not len(keys):
        raise ValueError(f"{records.path} has no image.")
    largest = int(label.argmax())
    count = _count(root / PROPERTY) or max(int(label[largest]) + 1, identities)
    if label[largest] >= count:
        raise ValueError(
            f"{records.name_of(int(keys[largest]))} has the label {label[largest]}, and "
            f"{root / PROPERTY} says that there are {count:,} classes."
        )
    if count > max(MAX_CLASSES, len(keys)):
        raise ValueError(
            f"{records.path} has {count:,} classes for {len(keys):,} images, and there may be "
            f"{max(MAX_CLASSES, len(keys)):,}."
        )
    images = RecordImages(records, keys, torch.from_numpy(label), shape, resize)
    return Identities(images, count, names=None)


def _labeled(records: RecordFile) -> tuple[np.ndarray, np.ndarray, int]:
    """Return keys and labels of all images, and the number of identities in the header."""
    header = records.read(HEADER_KEY) if HEADER_KEY in records else None
    if header is None or len(header.labels) < 2 or header.content:
        found = [_label(records, key) for key in records.keys.tolist()]
        return records.keys, np.array(found, dtype=np.int64), 0
    first, end = header.labels[:2]
    images = records.keys[(records.keys > HEADER_KEY) & (records.keys < first)]
    people = records.keys[(records.keys >= first) & (records.keys < end)]
    label = np.full(len(images), -1)
    done = 0
    # above that, floats do not name every key
    for key in people.tolist() if end <= MAX_LABEL else ():
        name = records.name_of(key)
        span = [whole_label(bound, name) for bound in records.labels(key)]
        if len(span) != 2:
            raise ValueError(f"{name} is an identity, and does not have the range of its images.")
        begin, stop = np.searchsorted(images, span)
        if done <= begin < stop:
            label[begin:stop] = _label(records, int(images[begin]))
            done = stop
    for row in np.flatnonzero(label < 0).tolist():
        label[row] = _label(records, int(images[row]))
    return images, label, len(people)


def _label(records: RecordFile, key: int) -> int:
    return whole_label(records.labels(key)[0], records.name_of(key))


def _count(path: Path) -> int | None:
    """Return the number of classes that a property file states; None where there is none."""
    if not path.is_file():
        return None
    word = read_text(path, 4).partition(",")[0].strip()
    count = whole_number(word)
    if count is None or not 0 < count < MAX_LABEL:
        raise ValueError(f"{path}: classes,height,width are expected, not {word[:40]!r}.")
    return count
