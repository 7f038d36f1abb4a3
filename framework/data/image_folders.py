"""Folders of images: which files are images, and which folders are parts of a data set."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from framework.data.folders import find_files, subfolders

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


def find_images(folder: str | Path) -> list[Path]:
    """Return all image files below a folder, in the order of their paths; see ``find_files``.

    Raises:
        FileNotFoundError: no such folder, or no image below it.
    """
    return find_files(folder, ENDINGS, "image")


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
