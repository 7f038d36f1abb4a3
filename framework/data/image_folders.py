"""Folders of images: which files are images, and which folders are classes or parts."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

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
_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")


def find_images(folder: str | Path) -> list[Path]:
    """Return all image files below a folder, in the order of their paths.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice. What
    is left out is counted in one warning.

    Raises:
        FileNotFoundError: no such folder, or no image below it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    left_out: Counter[str] = Counter()
    paths = []
    for path in _files(str(folder), left_out):
        ending = os.path.splitext(path)[1]
        if ending.lower() in ENDINGS:
            paths.append(path)
        else:
            left_out[f"files ending in {ending}" if ending else "files without an ending"] += 1
    counts = sorted((-number, what) for what, number in left_out.items() if number)
    said = ", ".join(f"{what}: {-number:,}" for number, what in counts)
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no image, nor does a folder in it{f' ({said})' if said else ''}."
        )
    if said:
        rank_zero_warn(f"Not all that lies in {folder} is read as images ({said}).")
    return [Path(path) for path in sorted(paths)]


def _files(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the files below a folder; count what is left out."""
    # a link to a folder in which the first one lies leads round in a circle
    entered = {_identity(parent) for parent in Path(folder).resolve().parents}
    folders, links = deque([folder]), deque[str]()
    while folders or links:
        # links last, so that a file's path is the one without a link
        path = folders.popleft() if folders else links.popleft()
        identity = _identity(path)
        if identity in entered:
            left_out["links to a folder that is read anyway"] += 1
            continue
        entered.add(identity)
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if _is_hidden(entry.name):
                left_out["hidden files and folders"] += entry.name not in _SYSTEM_FILES
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif entry.name not in _SYSTEM_FILES:
                yield entry.path


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, in the order of ``sorted_names``."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name)]
    return [folder / name for name in sorted_names(names)]


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders ``train``, ``val`` and ``test`` in a folder, by these names.

    They may be called as ``PARTS`` says. There are none without a training part, which holds
    folders itself: a folder called train may also be a class, of vehicles.

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
        raise FileNotFoundError(
            f"{root} has {' and '.join(path.name for path in found.values())}, but no folder "
            "called train."
        )
    if "train" not in found or not subfolders(found["train"]):
        return {}
    if others:
        rank_zero_warn(f"{', '.join(others)} in {root} are no parts of the data, and not read.")
    return {part: found[part] for part in PARTS if part in found}


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return names of classes, each once, in the order that numbers the classes: 2 before 10.

    Example:
        >>> sorted_names(["10", "9", "b", "a10", "a9", "b"])
        ['9', '10', 'a9', 'a10', 'b']
    """
    return sorted(set(names), key=lambda name: (_natural(name), name))


def _natural(name: str) -> list[str | int]:
    """Return a sort key: text and numbers in turn."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]
