"""RecordIO files of MXNet, of which each record is read where it lies, without MXNet."""

from __future__ import annotations

import os
import struct
import warnings
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.utilities.limits import RegularFile, memory_foreseen, open_file, read_text

MAGIC = struct.pack("<I", 0xCED7230A)
"""Bytes that every piece of a record begins with."""
HEAD = struct.Struct("<4sI")
"""Magic, and the length (29 bits) below the kind (3 bits) of a piece."""
LABEL = struct.Struct("<IfQQ")
"""Number of the labels that follow (0: the next one is the only label), label, and two ids."""
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
"""Kinds of pieces: a record in which the magic stood at a multiple of 4 bytes was cut there."""
MAX_LABEL = 1 << 24
"""Labels are floats of 32 bits, which name whole numbers below this one only."""
_PREFIX = 64
"""Bytes of a record that are read for its labels."""
_INDEX_BYTES = 8
"""Bytes of memory that a byte of an index takes at most, with the text itself."""


class Record(NamedTuple):
    """A record with labels, as ``mx.recordio.pack`` writes it.

    Args:
        labels: One label or more.
        number: First id.
        content: What follows the labels: an encoded image, or nothing.
    """

    labels: tuple[float, ...]
    number: int
    content: bytes


class _Piece(NamedTuple):
    content: bytes
    end: int


class RecordFile:
    r"""The records of a ``.rec`` file by their keys.

    Places of the records are in the ``.idx`` file beside it (lines ``key`` tab ``byte``). Without
    that one the heads of all records are read once, and keys are the ids in them, or the positions
    where ids repeat. The file is opened when it is first read, in each process anew, and read by
    position: processes may share it.

    Args:
        path: File ending in ``.rec``.

    Attributes:
        keys: Keys of the records (N,) int64, ascending.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an index that is none of this file, or a damaged file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.rec")
        >>> content = LABEL.pack(0, 7.0, 5, 0) + b"abcdef"
        >>> _ = path.write_bytes(HEAD.pack(MAGIC, len(content)) + content + b"\0\0")
        >>> records = RecordFile(path)
        >>> records.keys.tolist(), records.read(5)
        ([5], Record(labels=(7.0,), number=5, content=b'abcdef'))
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: RegularFile | None = None
        index = path.with_suffix(".idx")
        with memory_foreseen(path):
            keys, offsets = self._indexed(index) if index.is_file() else self._scanned()
            order = keys.argsort(kind="stable")
        self.keys, self._offsets = keys[order], offsets[order]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __contains__(self, key: int) -> bool:
        return self._position(key) is not None

    def read(self, key: int) -> Record:
        """Return a record.

        Raises:
            KeyError: there is none of this key.
            ValueError: by file and key, the record is damaged, or the file is cut within it.
        """
        try:
            return _parsed(self._payload(self._offset(key)))
        except ValueError as error:
            raise ValueError(f"{self.name_of(key)}: {error}.") from None

    def labels(self, key: int) -> tuple[float, ...]:
        """Return the labels of a record, for which its content is not read.

        Raises:
            KeyError: there is none of this key.
            ValueError: see ``read``.
        """
        start = self._at(self._offset(key), _PREFIX)
        if len(start) >= HEAD.size + LABEL.size:
            magic, length = HEAD.unpack_from(start)
            payload = start[HEAD.size :]
            count, label, _, _ = LABEL.unpack_from(payload)
            is_whole = magic == MAGIC and length >> LENGTH_BITS == WHOLE
            if is_whole and LABEL.size + 4 * count <= min(length, len(payload)):
                return _labels(payload, count, label)
        return self.read(key).labels

    def name_of(self, key: int) -> str:
        """Return what a record is called in messages."""
        return f"{self.path}, record {key}"

    # ---- where the records lie -------------------------------------------------------------------

    def _position(self, key: int) -> int | None:
        position = int(np.searchsorted(self.keys, key))
        found = position < len(self.keys) and self.keys[position] == key
        return position if found else None

    def _offset(self, key: int) -> int:
        position = self._position(key)
        if position is None:
            raise KeyError(f"{self.path} has no record {key}.")
        return int(self._offsets[position])

    def _indexed(self, index: Path) -> tuple[np.ndarray, np.ndarray]:
        text = read_text(index, _INDEX_BYTES)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # NumPy would return what stands before a wrong word
                values = np.fromstring(text, dtype=np.int64, sep=" ").reshape(-1, 2)
        except (ValueError, DeprecationWarning):
            raise ValueError(f"{index}: lines of a key, a tab and a byte are expected.") from None
        keys, offsets = values.T.copy()
        size = self._file.size
        outside = (offsets < 0) | (offsets > size - HEAD.size) | (offsets % 4 != 0)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"{index}: record {keys[row]} would begin at byte {offsets[row]} of {self.path}, "
                f"which has {size:,} bytes."
            )
        if _repeats(keys):
            raise ValueError(f"{index} has a key twice.")
        return keys, offsets

    def _scanned(self) -> tuple[np.ndarray, np.ndarray]:
        keys, offsets = array("Q"), array("q")
        offset, size = 0, self._file.size
        while offset < size:
            try:
                pieces = [*self._pieces(offset, _PREFIX)]
                is_whole = len(pieces) == 1
                start = pieces[0].content if is_whole else self._payload(offset)
                keys.append(_unpacked(start)[2])
            except ValueError as error:
                raise ValueError(f"{self.path}, record at byte {offset:,}: {error}.") from None
            offsets.append(offset)
            offset = pieces[-1].end
        found = np.array(keys, dtype=np.uint64)
        is_id = not _repeats(found) and (found < 1 << 62).all()
        return (found.astype(np.int64) if is_id else np.arange(len(found))), np.array(offsets)

    # ---- pieces ----------------------------------------------------------------------------------

    @property
    def _file(self) -> RegularFile:
        if self._opened is None:
            self._opened = open_file(self.path)
            weakref.finalize(self, self._opened.close)
        return self._opened

    def _at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def _pieces(self, offset: int, most: int | None = None) -> Iterator[_Piece]:
        """Yield the pieces of a record; of long ones the first bytes."""
        is_first = True
        while True:
            head = self._at(offset, HEAD.size)
            if len(head) < HEAD.size:
                raise ValueError(f"the file is cut at byte {self._file.size:,}")
            magic, packed = HEAD.unpack(head)
            kind, length = packed >> LENGTH_BITS, packed & ((1 << LENGTH_BITS) - 1)
            if magic != MAGIC:
                raise ValueError(f"it does not begin as a record at byte {offset:,}")
            if kind not in ((WHOLE, FIRST) if is_first else (MIDDLE, LAST)):
                raise ValueError(f"a piece of another record begins at byte {offset:,}")
            offset += HEAD.size
            if offset + length > self._file.size:
                raise ValueError(f"the file is cut at byte {self._file.size:,}")
            content = self._at(offset, length if most is None else min(length, most))
            offset += -(-length // 4) * 4
            yield _Piece(content, offset)
            if kind in (WHOLE, LAST):
                return
            is_first = False

    def _payload(self, offset: int) -> bytes:
        return MAGIC.join(piece.content for piece in self._pieces(offset))


def _repeats(keys: np.ndarray) -> bool:
    return bool((np.diff(np.sort(keys)) == 0).any())  # `np.unique` takes a hundred times longer


def _unpacked(payload: bytes) -> tuple[int, float, int, int]:
    if len(payload) < LABEL.size:
        raise ValueError(f"it has {len(payload)} bytes, and its labels need {LABEL.size}")
    found: tuple[int, float, int, int] = LABEL.unpack_from(payload)
    return found


def _labels(payload: bytes, count: int, label: float) -> tuple[float, ...]:
    return struct.unpack_from(f"<{count}f", payload, LABEL.size) if count else (label,)


def _parsed(payload: bytes) -> Record:
    count, label, number, _ = _unpacked(payload)
    end = LABEL.size + 4 * count
    if end > len(payload):
        raise ValueError(f"it has {len(payload)} bytes, and its {count:,} labels need {end:,}")
    return Record(_labels(payload, count, label), number, payload[end:])


def whole_label(label: float, name: str) -> int:
    """Return a label as a whole number.

    Args:
        label: Label.
        name: Record, for the message.

    Raises:
        ValueError: it is none from 0 to 2^24 - 1, or of those that floats of 32 bits merge.
    """
    if not 0 <= label < MAX_LABEL or label != int(label):
        raise ValueError(
            f"{name} has the label {label:.9g}, and whole numbers from 0 to {MAX_LABEL - 1:,} are "
            "expected, which floats of 32 bits can name."
        )
    return int(label)
