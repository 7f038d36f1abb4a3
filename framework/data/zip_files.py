"""Small files in zip archives, of which nothing is unpacked to the disk."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from framework.data.folders import is_hidden, is_text
from framework.utilities.error_reason import reason_of
from framework.utilities.limits import (
    MAX_GZIP,
    FileTooLargeError,
    check_size,
    memory_foreseen,
    open_file,
)

_INFO_BYTES = 20
"""Memory that one byte of an archive's table of contents takes at most."""


def read_zip(
    path: str | Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, bytes]:
    """Return the content of the files in a zip archive by their names, in the order of these.

    Folders, and what a person has not put there (hidden files, ``__MACOSX``), are left out.

    Args:
        path: The archive.
        wanted: Whether the file of a name is read.

    Raises:
        FileNotFoundError: There is no such archive.
        FileTooLargeError: Its files would take more memory than the limit.
        ValueError: It is damaged or encrypted, two files have one name, or a name leads out of it
            or is not of one line of text.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.zip"
        >>> with zipfile.ZipFile(path, "w") as archive:
        ...     archive.writestr("b/c.txt", "hello")
        >>> read_zip(path)["b/c.txt"]
        b'hello'
    """
    try:
        with open_file(path) as file, memory_foreseen(path):
            check_size(path, _INFO_BYTES * file.size, "its table of contents", file.size)
            with zipfile.ZipFile(file) as archive:
                entries = _entries(archive, wanted)
                sizes = [entry.file_size for entry in entries.values()]
                check_size(path, sum(sizes), "its files")
                if sum(entry.compress_size for entry in entries.values()) > file.size:
                    raise ValueError("its files lie in the same bytes")
                return {name: _content(archive, entries[name]) for name in sorted(entries)}
    except (FileNotFoundError, FileTooLargeError):
        raise
    except Exception as error:  # of many kinds, by which byte is damaged
        raise ValueError(f"{path} cannot be read as a zip archive: {reason_of(error)}.") from None


def _entries(archive: zipfile.ZipFile, wanted: Callable[[str], bool]) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        parts = name.split("/")
        if not is_text(name):
            raise ValueError(f"{name!r} in it is no name of one line of text in UTF-8")
        if name.startswith("/") or ".." in parts:
            raise ValueError(f"{name} in it leads out of it")
        if entry.is_dir() or any(is_hidden(part) for part in parts) or not wanted(name):
            continue
        if name in found:
            raise ValueError(f"it holds {name} twice")
        if entry.file_size > MAX_GZIP * entry.compress_size:
            raise ValueError(f"{name} cannot unpack to {entry.file_size:,} bytes")
        found[name] = entry
    return found


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is neither stored nor deflated")
    with archive.open(entry) as member:
        content = member.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise ValueError(f"{entry.filename} has {len(content):,} of {entry.file_size:,} bytes")
    return content
