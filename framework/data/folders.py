"""Folders of data, walked with care: which files are read, and in which order classes are."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Line breaks and other controls, and bytes that are no UTF-8."""


def find_files(folder: str | Path, endings: Sequence[str], what: str) -> list[Path]:
    """Return all files below a folder that have one of some endings, in the order of their paths.

    Hidden files and folders are left out, and pipes and devices, which would be waited for. Links
    are followed, but no folder is entered twice. What is left out is counted in one warning.

    Args:
        folder: Folder that is walked.
        endings: Endings in lower case, such as ``.png``; those of files may be in any case.
        what: What such a file is, for messages, such as ``image``.

    Raises:
        FileNotFoundError: no such folder, or no such file below it.
        ValueError: a folder that cannot be read, or a name that is not of one line of text.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    left_out: Counter[str] = Counter()
    paths = []
    for path in walk_files(str(folder), left_out):
        ending = os.path.splitext(path)[1]
        if ending.lower() in endings:
            _check_name(path)
            paths.append(path)
        else:
            left_out[f"files ending in {ending}" if ending else "files without an ending"] += 1
    counts = sorted((-number, kind) for kind, number in left_out.items() if number)
    said = ", ".join(f"{kind}: {-number:,}" for number, kind in counts)
    if not paths:
        found = f" (it has {said})" if said else ""
        raise FileNotFoundError(f"{folder} holds no {what}, nor does a folder in it{found}.")
    if said:
        from lightning.pytorch.utilities import rank_zero_warn  # not all readers need Lightning

        rank_zero_warn(f"Not all that lies in {folder} is read ({said}).")
    return [Path(path) for path in sorted(paths)]


def walk_files(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the files below a folder once, without hidden ones; count what is left out."""
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
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
        for entry in entries:
            if is_hidden(entry.name):
                left_out["hidden files and folders"] += entry.name not in _SYSTEM_FILES
            elif _leads_to(entry.is_dir):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif not _leads_to(entry.is_file):
                left_out["pipes, devices and links that lead nowhere"] += 1
            elif entry.name not in _SYSTEM_FILES:
                yield entry.path


def _leads_to(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself
        return False


def is_text(name: str) -> bool:
    """Return whether a name is one line of text that UTF-8 can say."""
    return not _NO_TEXT.search(name)


def _check_name(path: str) -> None:
    if not is_text(path):
        raise ValueError(f"{path!r} is no name of one line of text in UTF-8: rename it.")


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is none of a person's data."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, in the order of ``sorted_names``.

    Raises:
        ValueError: a name that is not of one line of text.
    """
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    for name in names:
        _check_name(str(folder / name))
    return [folder / name for name in sorted_names(names)]


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


def existing_file(path: Path) -> Path:
    """Return a path at which there is a file.

    Raises:
        FileNotFoundError: There is none.
    """
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name of too many characters, or of none that a file can have
        found = False
    if not found:
        raise FileNotFoundError(f"{str(path)[:300]} does not exist.")
    return path
