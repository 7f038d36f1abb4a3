"""Tar files, of which nothing is unpacked: where each file in one lies, and a window on it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from framework.data.folders import is_text
from framework.utilities.limits import RegularFile, memory_foreseen, open_file

_BLOCK = 512
_LONGEST = 1 << 20
"""Bytes of the longest header of a member, in which its name and attributes are."""
_NOT_FILES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""How a compressed file begins."""


class TarChangedError(ValueError):
    """A tar file that is another one than when its headers were read."""


class Member(NamedTuple):
    """A file in a tar file, which is read where it lies.

    As a path it is that of the tar file and its own name in one.

    Args:
        tar: Path of the tar file.
        name: Name in the tar file, without leading dots, such as ``cat/1.png``.
        offset: Position of its first byte in the tar file.
        size: Number of its bytes.
        state: Size of the tar file and time of its last change in ns, when the member was found.

    Example:
        >>> str(Member("train.tar", "cat/1.png", offset=512, size=9, state=(10240, 0)))
        'train.tar/cat/1.png'
    """

    tar: str
    name: str
    offset: int
    size: int
    state: tuple[int, int]

    def __fspath__(self) -> str:
        return f"{self.tar}/{self.name}"

    def __str__(self) -> str:
        return self.__fspath__()

    def open(self) -> RegularFile:
        """Open the member for reading.

        Raises:
            FileNotFoundError: There is no such tar file.
            TarChangedError: The tar file has changed since the member was found.
        """
        file = open_file(self.tar)
        if _state_of(file) != self.state:
            file.close()
            raise TarChangedError(
                f"{self}: {os.path.basename(self.tar)} has changed since it was first read; "
                "start the run again."
            )
        return _MemberFile(_Window(file, self.offset, self.size))


class _Window(io.RawIOBase):
    """A part of a file as a file, without a number of its own: a library would read past it."""

    def __init__(self, file: RegularFile, first: int, size: int) -> None:
        self.file = file
        self.first = first
        self.size = size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("A position is before the beginning of the file.")
        self.position = base + offset
        return self.position

    def readinto(self, buffer: Any, /) -> int:
        left = max(self.size - self.position, 0)
        self.file.seek(self.first + self.position)
        count = self.file.readinto1(memoryview(buffer)[:left])
        self.position += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


class _MemberFile(RegularFile):
    def __init__(self, window: _Window) -> None:
        super().__init__(window)
        self._size = window.size

    @property
    def size(self) -> int:
        return self._size


def _state_of(file: RegularFile) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def members_of(tar: str | Path) -> list[Member]:
    """Return the files in a tar file in their order, by its headers alone.

    The formats are those of POSIX (ustar and pax) and GNU, not compressed. ``tarfile`` would take a
    damaged header for the end, and as much memory as one asks for.

    Raises:
        FileNotFoundError: There is no such tar file.
        ValueError: It is cut or damaged, holds what is neither a file nor a folder, or two members
            of one name; or a name leads out of it, or is not of one line of text.
    """
    with open_file(tar) as file, memory_foreseen(tar):
        state = _state_of(file)
        found: dict[str, Member] = {}
        try:
            for name, offset, size in _files(file):
                if name in found:
                    raise ValueError(f"it holds {name} twice")
                found[name] = Member(str(tar), name, offset, size, state)
        except ValueError as error:
            file.seek(0)
            head = file.read(_BLOCK)
            how = next((how for mark, how in _COMPRESSED.items() if head.startswith(mark)), None)
            reason = error if how is None else f"it is compressed by {how}; unpack it before"
            raise ValueError(f"{tar} cannot be read as a tar file: {reason}.") from None
    return list(found.values())


def _files(file: RegularFile) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of every file in a tar file."""
    at = 0
    further: dict[str, bytes] = {}  # what the headers before a member say of it
    while block := _block(file, at):
        kind, name, size = block[156:157], _name(block), _number(block[124:136])
        at += _BLOCK
        if kind in (b"x", b"L"):
            if size > _LONGEST:
                raise ValueError(f"a header takes {size:,} bytes")
            content = _content(file, at, size)
            further |= _records(content) if kind == b"x" else {"path": content.split(b"\0")[0]}
        elif kind not in (b"g", b"K"):  # of all members, and of where a link leads
            path = _plain(further.get("path", name))
            size = _decimal(further.get("size"), size)
            if any(key.startswith("GNU.sparse.") for key in further):
                kind = b"S"
            further.clear()
            if kind == b"5" or (kind == b"\0" and name.endswith(b"/")):
                continue  # a folder
            if kind not in (b"0", b"\0", b"7"):
                what = _NOT_FILES.get(kind, f"of the unknown type {kind!r}")
                raise ValueError(f"{path} in it is {what}; only files and folders are read")
            if at + size > file.size:
                raise ValueError(f"it is cut within {path}")
            yield path, at, size
        at += -(-size // _BLOCK) * _BLOCK


def _block(file: RegularFile, at: int) -> bytes:
    """Return the header at a position, or nothing where the members end."""
    block = _content(file, at, _BLOCK)
    if any(block):
        # the sum of all bytes, those of the sum itself taken as blanks
        if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _number(block[148:156]):
            raise ValueError(f"the header at byte {at:,} is damaged")
        return block
    while rest := file.read(_LONGEST):
        if any(rest):
            raise ValueError(f"something follows its end at byte {at:,}")
    return b""


def _content(file: RegularFile, at: int, size: int) -> bytes:
    file.seek(at)
    content = file.read(size)
    if len(content) < size:
        raise ValueError(f"it is cut: it has no end, and {file.size:,} bytes")
    return content


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # as GNU writes what octal digits cannot
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    digits = field.partition(b"\0")[0].strip()
    if not all(digit in b"01234567" for digit in digits):
        raise ValueError(f"{field!r} in a header is no number")
    return int(digits or b"0", 8)


def _decimal(text: bytes | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} in a header is no size")
    return int(text)


def _records(content: bytes) -> dict[str, bytes]:
    """Return the records of a pax header, each ``length key=value`` and a line break."""
    found: dict[str, bytes] = {}
    while content:
        length, blank, _ = content[:20].partition(b" ")
        size = _decimal(length, 0)
        key, equals, value = content[len(length) + 1 : size - 1].partition(b"=")
        if not (blank and equals and content[size - 1 : size] == b"\n"):
            raise ValueError("a header of names and attributes is damaged")
        found[key.decode(errors="replace")] = value
        content = content[size:]
    return found


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _plain(name: bytes) -> str:
    text = name.decode(errors="surrogateescape")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not is_text(text):
        raise ValueError(f"{text!r} in it is no name of one line of text in UTF-8")
    if text.startswith("/") or ".." in parts:
        raise ValueError(f"{text} in it leads out of it")
    return "/".join(parts)
