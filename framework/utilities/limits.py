"""What reading one file may cost: memory within a limit, and no wait for what is no file."""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

VARIABLE = "TRIMTAB_MAX_GIB"
"""Environment variable of the limit, in GiB."""
DEFAULT_GIB = 2.0
_BLOCK = 1 << 20
MAX_GZIP = 1032
"""Bytes that one byte of a deflate stream (gzip, zlib, zip) becomes at most."""


def max_bytes() -> int:
    """Return how many bytes one file may decode or inflate to.

    It is 2 GiB, or what the environment variable ``TRIMTAB_MAX_GIB`` says. What a file stores
    uncompressed may be read whatever the limit is.

    Raises:
        ValueError: The variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        gib = float(text) if text else DEFAULT_GIB
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise ValueError(f"{VARIABLE} must be a positive number of GiB, got {text!r}.")
    return int(gib * 2**30)


class FileTooLargeError(ValueError):
    """A file that would take more memory than the limit."""


def check_size(path: str | Path, size: float, what: str = "its content", stored: float = 0) -> None:
    """Raise ``FileTooLargeError`` if what a file decodes or inflates to is above the limit.

    Args:
        path: File, or its name, for the message.
        size: Bytes that would be taken.
        what: Part of the file that takes them, for the message.
        stored: Bytes that the file stores uncompressed, which may be taken whatever the limit is.

    Raises:
        FileTooLargeError: It would; this is a ``ValueError``.

    Example:
        >>> check_size("digits.gz", 47_040_016)
        >>> try:
        ...     check_size("digits.gz", 6 * 2**30, "the shape that its header announces")
        ... except FileTooLargeError as error:
        ...     print(str(error)[:73])
        digits.gz: the shape that its header announces would take 6 GiB of memory
    """
    limit = max_bytes()
    if not size <= max(limit, stored):
        raise FileTooLargeError(
            f"{path}: {what} would take {_gib(size)} of memory, above the limit of {_gib(limit)}: "
            f"set {VARIABLE} to allow more."
        )


@contextmanager
def memory_foreseen(path: str | Path) -> Iterator[None]:
    """Raise a ``ValueError`` that names a file where reading it runs out of memory."""
    try:
        yield
    except MemoryError:
        raise ValueError(f"{path}: the machine has too little memory to read it.") from None
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # as torch says it
            raise
        raise ValueError(f"{path}: the machine has too little memory to read it.") from None


def open_file(path: str | Path) -> RegularFile:
    """Open a file for reading; what is no file, such as a pipe, is refused and not waited for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, a pipe, a socket or a device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is no regular file.")
    return RegularFile(io.FileIO(path))


class RegularFile(io.BufferedReader):
    """A file of which no more is asked than there is, as memory is taken for what is asked."""

    @property
    def size(self) -> int:
        """Bytes that the file stores."""
        return os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, at most those that are left."""
        if size is not None and size > _BLOCK:
            size = min(size, max(self.size - self.tell(), 0))
        return super().read(size)


def read_text(path: str | Path, factor: int, what: str = "its lines") -> str:
    """Return a text in UTF-8, with or without a byte-order mark.

    Args:
        path: File.
        factor: Bytes of memory that each byte will take at most.
        what: What the text becomes, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        FileTooLargeError: It would take more than the limit.
        ValueError: It is no regular file, or not in UTF-8.
    """
    with open_file(path) as file, memory_foreseen(path):
        check_size(path, factor * os.fstat(file.fileno()).st_size, what)
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from None


def whole_number(text: str) -> int | None:
    """Return the number that one to nine digits say; None where a text is anything else.

    Example:
        >>> whole_number("007"), whole_number("-1"), whole_number("1" * 10)
        (7, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


class Unpacked(io.BufferedReader):
    """Reader of what a stream unpacks to, which raises where that is above the limit.

    Args:
        path: File, for the message.
        stream: Reader of ``gzip``, ``bz2`` or ``lzma``.
        factor: Bytes of memory that each byte will take.

    Raises:
        FileTooLargeError: More than the limit was read.
    """

    def __init__(self, path: str | Path, stream: IO[bytes], factor: int = 1) -> None:
        super().__init__(_Counted(path, stream, factor), buffer_size=_BLOCK)


class _Counted(io.RawIOBase):
    def __init__(self, path: str | Path, stream: IO[bytes], factor: int) -> None:
        self.path = path
        self.stream = stream
        self.factor = factor
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self.stream.read(len(buffer))
        buffer[: len(block)] = block
        self.taken += len(block) * self.factor
        check_size(self.path, self.taken)
        return len(block)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.3g} GiB"
