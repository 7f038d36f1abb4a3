"""Files of a run: the only place where one is made whole, and where any is removed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_PART = re.compile(r"\..*\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.part", re.DOTALL)
LEFT_BEHIND = 3600.0
"""Seconds without a change after which a part is one that a killed process left."""


class WriteError(OSError):
    """A file that could not be written.

    Args:
        path: File that was to be written.
        cause: Error of the system.
    """

    def __init__(self, path: str | os.PathLike[str], cause: OSError) -> None:
        blocking = next((p for p in Path(path).parents if p.exists() and not p.is_dir()), None)
        reason = (cause.strerror or str(cause)).rstrip(".")
        reason = (
            f"{reason[:1].lower()}{reason[1:]}" if blocking is None else f"{blocking} is a file"
        )
        super().__init__(f"{path} could not be written: {reason}.")
        self.errno = cause.errno


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file it was that an ``OSError`` inside the block kept from being written.

    Raises:
        WriteError: In the place of such an error.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error


class _RecordingFile(io.FileIO):
    """Remembers why a write failed: torch answers with words of its own, NumPy without a reason."""

    failure: OSError | None = None

    def write(self, data: Any) -> Any:
        """Write and remember a failure."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Call ``write`` with a binary file and put it at ``path`` in one step.

    A kill at any moment leaves at ``path`` what was there before, or the new file, whole. Where
    ``path`` is a link, the link is replaced and not what it leads to.

    Raises:
        WriteError: The file could not be written; what was there before is there still.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        raw = _RecordingFile(part, "x+")
        try:
            # NumPy writes past a plain writer, to the file's number, and would lose the reason
            with io.BufferedRandom(raw) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except Exception as error:
            if (stop := error.__context__) is not None and not isinstance(stop, Exception):
                raise stop from None  # Ctrl-C, to which torch answers with words of its own
            if raw.failure is not None:
                raise WriteError(path, raw.failure) from error
            raise
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see ``write_atomically``."""
    write_atomically(path, lambda file: file.write(text.encode()))


def part_of(path: Path) -> Path:
    """Return a new name beside ``path`` for a file that is not whole yet.

    It differs between hosts, processes and calls, is hidden, and ends in ``.part``.
    """
    name = f".{path.name[:40]}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.part"
    return path.with_name(name)


def make_folder(folder: Path, exist_ok: bool = True) -> None:
    """Make a folder and those that it lies in.

    Args:
        folder: Folder.
        exist_ok: Whether it may be there; otherwise one process only can make it.

    Raises:
        FileExistsError: It is there and may not be.
        WriteError: It cannot be made.
    """
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=exist_ok)
    except WriteError as error:
        if not exist_ok and folder.is_dir():
            raise FileExistsError(f"{folder} is there already.") from error
        raise


def open_new(path: Path) -> TextIO:
    """Return a text file in UTF-8 that this process makes and writes line by line.

    Raises:
        WriteError: It cannot be made, or is there already.
    """
    make_folder(path.parent)
    with writing(path):
        return path.open("x", newline="", encoding="utf-8")


def open_new_binary(path: Path) -> BinaryIO:
    """Return a file that this process makes and writes part by part.

    Raises:
        WriteError: It cannot be made, or is there already.
    """
    make_folder(path.parent)
    with writing(path):
        return path.open("xb")


def open_in_place(path: Path) -> BinaryIO:
    """Return a file that is there, to be changed where it lies.

    Raises:
        WriteError: It is not there, or cannot be written.
    """
    with writing(path):
        return path.open("r+b")


def lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed here and in processes forked from this one, or those end.

    Returns:
        Whether it is locked now; False where another process has locked it.

    Raises:
        OSError: The disk knows no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def move(path: Path, target: Path) -> None:
    """Move a file or folder to another place on the same disk; of a link the link.

    Raises:
        WriteError: It cannot be moved.
    """
    make_folder(target.parent)
    with writing(target):
        path.rename(target)


def remove_parts(folder: Path, age: float = LEFT_BEHIND) -> None:
    """Remove the parts in a folder, files and folders, that killed processes left.

    Args:
        folder: Folder.
        age: Seconds without a change after which a part is nobody's; 0 where this process alone
            writes there.
    """
    oldest = time.time() - age
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                is_part = _PART.fullmatch(entry.name)
                if not is_part or entry.stat(follow_symlinks=False).st_mtime > oldest:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    remove_new_folder(Path(entry.path))
                else:
                    os.unlink(entry.path)


def remove_file(path: Path) -> None:
    """Remove one file, if it is there; of a link the link, and never a folder."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_flat_folder(folder: Path, names: re.Pattern[str]) -> None:
    """Remove a folder of files of these names; whatever else lies in it stays, and the folder too.

    Nothing happens where it is no folder, or a link to one.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        known = names.fullmatch(path.name) or _PART.fullmatch(path.name)
        if known and not path.is_dir():
            remove_file(path)
    with suppress(OSError):
        folder.rmdir()


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder in which nothing lies."""
    with suppress(OSError):
        folder.rmdir()


def remove_new_folder(folder: Path) -> None:
    """Remove a folder, with all that lies in it, that this process made and nobody else knows."""
    if not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then takes its place in one step, whole or not at all.

    Of several processes that make the same folder the first puts it in place.

    Raises:
        WriteError: It could not be made.
    """
    remove_parts(folder.parent)
    part = part_of(folder)
    make_folder(part)
    try:
        yield part
        with writing(folder):
            try:
                part.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    finally:
        remove_new_folder(part)


def file_name(name: str, what: str) -> str:
    """Return a name that a file can have, as it is.

    Args:
        name: Name, such as that of a class.
        what: What has that name, for the message.

    Raises:
        ValueError: It would lead to another folder, or is none.

    Example:
        >>> file_name("storage-tank", "A class")
        'storage-tank'
    """
    known = isinstance(name, str) and name.isprintable() and not {"/", "\\"} & set(name)
    if not known or name in ("", ".", ".."):
        raise ValueError(f"{what} is called {name!r}, which a file cannot be called: rename it.")
    return name


def path_below(folder: Path, name: str, source: str | Path) -> Path:
    """Return the path of what a file names in a folder.

    Args:
        folder: Folder of the data, or of the run.
        name: Relative path, as it was read.
        source: File in which it was read.

    Raises:
        ValueError: The path leads out of the folder.

    Example:
        >>> path_below(Path("root"), "train/a.png", "train.txt").as_posix()
        'root/train/a.png'
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(f"{source} names {name!r}, which does not lie in {folder}.")
    return folder / name
