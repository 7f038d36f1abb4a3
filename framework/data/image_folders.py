"""Folders of images: which files are images, and which folders are parts of a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from framework.data.folders import find_files, subfolders
from framework.data.tar_files import Member

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff"),
)
"""Endings of the files that count as images, in any case."""
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the folders of parts, in any case."""


class LabeledImages(NamedTuple):
    """Images of one part of a data set, and the names of their classes.

    Args:
        place: Folder that they lie in, for messages.
        class_names: Names of the classes.
        class_of: Class of each image, in the order of the samples; None for none.
    """

    place: Path
    class_names: list[str]
    class_of: dict[Path | Member, str | None]


def find_images(folder: str | Path) -> list[Path]:
    """Return all image files below a folder, in the order of their paths; see ``find_files``.

    Raises:
        FileNotFoundError: no such folder, or no image below it.
    """
    return find_files(folder, ENDINGS, "image")


def labeled_images(folder: Path) -> LabeledImages:
    """Return the images in the folders of classes, which are the first ones below ``folder``.

    The order is that of their folders and of their names in these.

    Raises:
        FileNotFoundError: no folder of a class, or no image.
    """
    names = [path.name for path in subfolders(folder)]
    if not names:
        raise FileNotFoundError(f"{folder} is not a folder with one folder of images per class.")
    class_of: dict[Path | Member, str | None] = {}
    # folders after the files beside them, as always: the split goes by the order
    for path in sorted(find_images(folder), key=os.path.split):
        name, *inside = path.relative_to(folder).parts
        class_of[path] = name if inside else None
    return LabeledImages(folder, names, class_of)


def find_parts(root: Path, needs_train: bool = True) -> dict[str, Path]:
    """Return the folders ``train``, ``val`` and ``test`` in a folder, by these names.

    They may be called as ``PARTS`` says. Beside other folders there are none without a training
    part, which holds folders itself: a folder called train may also be a class, of vehicles.

    Args:
        root: Folder that is looked into.
        needs_train: Whether parts without one to train on are refused.

    Raises:
        FileNotFoundError: there are parts and nothing else, but none to train on.
        ValueError: two folders are the same part.
    """
    found: dict[str, Path] = {}
    others = []
    for folder in subfolders(root):
        name = folder.name.lower()
        part = next((part for part, names in PARTS.items() if name in names), None)
        if part is None:
            others.append(folder.name)
        elif part in found:
            raise ValueError(
                f"{found[part]} and {folder} are both the {part} part: keep one, or name the "
                "other one otherwise."
            )
        else:
            found[part] = folder
    if found and not others and "train" not in found:
        if not needs_train:
            return {part: found[part] for part in PARTS if part in found}
        raise FileNotFoundError(
            f"{root} has {' and '.join(path.name for path in found.values())}, but no folder "
            "called train."
        )
    if "train" not in found or not subfolders(found["train"]):
        return {}
    if others:
        rank_zero_warn(f"{', '.join(others)} in {root} are no parts of the data, and not read.")
    return {part: found[part] for part in PARTS if part in found}
