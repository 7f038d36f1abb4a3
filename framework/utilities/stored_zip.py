"""Zip archives of uncompressed entries, of which every byte that is used is checked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from framework.utilities.limits import check_size
from framework.utilities.plain_pickle import shown

START = b"PK\x03\x04"
"""First bytes of an archive."""
CHUNK = 1 << 18
INFO_BYTES = 20
"""Memory that one byte of an archive's table of contents takes at most."""
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class Entry:
    """Bytes of an archive.

    Args:
        name: Name in the archive.
        offset: Position in the file.
        size: Number of bytes.
        checksum: CRC-32 of them; None in an archive that was written without checksums.
    """

    name: str
    offset: int
    size: int
    checksum: int | None


def fill(file: Any, part: memoryview) -> None:
    """Fill a buffer from a binary file, or raise a ``ValueError`` where that ends before."""
    filled = 0
    while filled < len(part):
        count = file.readinto(part[filled:])
        if not count:
            raise ValueError("it ends inside a tensor")
        filled += count


class StoredZip:
    """Entries of an archive by their names below its one top folder, as ``torch.save`` writes it.

    An archive in which all checksums are 0, as ``torch.serialization.set_crc32_options(False)``
    leaves them, is read without comparing them.

    Args:
        file: Seekable binary file.
        path: File in messages.

    Raises:
        ValueError: The table of contents is damaged or disagrees with the entries, which overlap,
            are compressed, encrypted, longer than the file, named twice or in different folders.

    Example:
        >>> import io, torch
        >>> file = io.BytesIO()
        >>> torch.save({"w": torch.ones(2)}, file)
        >>> archive = StoredZip(file, "a.pt")
        >>> archive.read("data/0").hex()
        '0000803f0000803f'
    """

    def __init__(self, file: IO[bytes], path: str | Path) -> None:
        self._file = file
        self.path = path
        self.size = file.seek(0, 2)
        self.entries = self._read_entries()

    def read(self, name: str) -> bytes:
        """Return the content of an entry, compared with its checksum."""
        content = bytearray(self.entries[name].size)
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill a buffer with the content of an entry, compared with its checksum.

        Raises:
            ValueError: The content has another checksum, or the file has become shorter.
        """
        entry, checksum = self.entries[name], 0
        self._file.seek(entry.offset)
        for start in range(0, entry.size, CHUNK):
            part = target[start : min(start + CHUNK, entry.size)]
            fill(self._file, part)
            checksum = zlib.crc32(part, checksum)
        self._compare(entry, checksum)

    def verify(self, name: str) -> None:
        """Compare the content of an entry with its checksum, without keeping it."""
        entry = self.entries[name]
        buffer = memoryview(bytearray(min(entry.size, CHUNK)))
        checksum = 0
        self._file.seek(entry.offset)
        for start in range(0, entry.size, CHUNK):
            part = buffer[: min(CHUNK, entry.size - start)]
            fill(self._file, part)
            checksum = zlib.crc32(part, checksum)
        self._compare(entry, checksum)

    def _compare(self, entry: Entry, checksum: int) -> None:
        if entry.checksum is not None and checksum != entry.checksum:
            raise ValueError(f"the checksum of its entry {shown(entry.name)} does not match")

    def _read_entries(self) -> dict[str, Entry]:
        # zipfile would make objects of a table of any length
        end = zipfile._EndRecData(self._file)  # type: ignore[attr-defined]
        if end is None:
            raise ValueError("it has no table of contents at its end")
        check_size(self.path, INFO_BYTES * end[5], "its table of contents")
        with zipfile.ZipFile(self._file) as archive:
            infos, end_of_entries = archive.infolist(), archive.start_dir
        infos.sort(key=lambda info: info.header_offset)
        checked = any(info.CRC for info in infos)
        ends = [info.header_offset for info in infos[1:]] + [end_of_entries]
        entries: dict[str, Entry] = {}
        folder = None
        for info, limit in zip(infos, ends, strict=True):
            name = info.orig_filename
            top, _, rest = name.partition("/")
            folder = top if folder is None else folder
            if top != folder or not all(part.strip(".") for part in rest.split("/")):
                # hidden files of torch begin with a dot
                raise ValueError(f"its entry {shown(name)} has no name below its one folder")
            if rest in entries:
                raise ValueError(f"its entry {shown(name)} is there twice")
            offset = self._offset(info)
            if offset + info.file_size > limit:
                raise ValueError(f"its entry {shown(name)} runs into what follows it")
            checksum = info.CRC if checked else None
            entries[rest] = Entry(name, offset, info.file_size, checksum)
        return entries

    def _offset(self, info: zipfile.ZipInfo) -> int:
        """Return where the content of an entry begins, if its own header agrees with the table."""
        name = info.orig_filename
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"its entry {shown(name)} is compressed")
        self._file.seek(max(info.header_offset, 0))
        header = self._file.read(_LOCAL.size)
        if info.header_offset < 0 or len(header) < _LOCAL.size:
            raise ValueError(f"its entry {shown(name)} lies outside of it")
        start, _, flags, method, _, _, crc, packed, size, length, extra = _LOCAL.unpack(header)
        stored_name = self._file.read(length)
        # the numbers follow the content, or are too long for their fields, where these are 0 or -1
        numbers = ((crc, info.CRC), (packed, info.file_size), (size, info.file_size))
        if (
            start != START
            or method != info.compress_type
            or flags != info.flag_bits
            or flags & 1
            or stored_name != name.encode("utf-8" if flags & 0x800 else "cp437")
            or any(here not in (0, 2**32 - 1, there) for here, there in numbers)
        ):
            raise ValueError(f"its entry {shown(name)} is another than its table of contents says")
        return info.header_offset + _LOCAL.size + length + extra
