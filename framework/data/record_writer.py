"""Writes RecordIO files, as MXNet would."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from framework.data.record_io import (
    FIRST,
    HEAD,
    LABEL,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MIDDLE,
    WHOLE,
    Record,
)
from framework.utilities.files import write_atomically, write_text


def write_records(path: Path, records: Iterable[tuple[int, Record]]) -> None:
    """Write records to a ``.rec`` file, and their places to the ``.idx`` file beside it.

    Args:
        path: File ending in ``.rec``.
        records: Keys and records, in the order in which they are written.

    Raises:
        ValueError: a record of 512 MiB or more.

    Example:
        >>> import tempfile
        >>> from framework.data.record_io import RecordFile
        >>> path = Path(tempfile.mkdtemp(), "a.rec")
        >>> write_records(path, [(3, Record((1.0, 2.0), 3, b"abc"))])
        >>> RecordFile(path).read(3)
        Record(labels=(1.0, 2.0), number=3, content=b'abc')
    """
    lines: list[str] = []

    def write(file: Any) -> None:
        for key, record in records:
            lines.append(f"{key}\t{file.tell()}\n")
            file.write(packed(record))

    write_atomically(path, write)
    write_text(path.with_suffix(".idx"), "".join(lines))


def packed(record: Record) -> bytes:
    r"""Return a record as the bytes that a file holds.

    Raises:
        ValueError: it has 512 MiB or more.

    Example:
        >>> packed(Record((7.0,), 5, b"\xff\xd8AB\xff\xd9")).hex(" ", 8)[:53]
        '0a23d7ce1e000000 000000000000e040 0500000000000000 00'
    """
    labels = record.labels
    count = len(labels) if len(labels) > 1 else 0
    several = struct.pack(f"<{count}f", *labels) if count else b""
    head = LABEL.pack(count, 0.0 if count else labels[0], record.number, 0)
    payload = head + several + record.content
    if len(payload) >> LENGTH_BITS:
        raise ValueError(f"Record {record.number} has {len(payload):,} bytes: at most 512 MiB.")
    return b"".join(_pieces(payload))


def _pieces(payload: bytes) -> Iterator[bytes]:
    """Yield the pieces of a payload, cut where the magic stands at a multiple of 4 bytes."""
    begin = 0
    place = payload.find(MAGIC)
    while place >= 0:
        if place % 4 == 0:
            yield _piece(MIDDLE if begin else FIRST, payload[begin:place])
            begin = place + len(MAGIC)
        place = payload.find(MAGIC, place + (len(MAGIC) if place % 4 == 0 else 1))
    yield _piece(LAST if begin else WHOLE, payload[begin:])


def _piece(kind: int, content: bytes) -> bytes:
    head = HEAD.pack(MAGIC, kind << LENGTH_BITS | len(content))
    return head + content + bytes(-len(content) % 4)
