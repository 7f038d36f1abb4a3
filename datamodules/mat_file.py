"""Arrays of real numbers in MATLAB's files of version 5 to 7.2.

SciPy's reader believes what a file announces, and a damaged file can crash it.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from framework.utilities.limits import MAX_GZIP, check_size, memory_foreseen, open_file

_BLOCK = 1 << 20
_MATRIX, _COMPRESSED = 14, 15
_FLAGS, _NAME, _LENGTHS = (6,), (1, 2, 16), (5, 6)
"""Types of the elements that a matrix begins with."""
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""Types of elements of numbers."""
_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 16: "function"}
_OPAQUE, _NUMBERS, _COMPLEX = 17, range(6, 16), 0x800
_LONGEST_NAME = 64
_MOST_DIMENSIONS = 32


def read_mat(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return variables of a file, each an array of real numbers of the type that it is stored in.

    Args:
        path: File.
        names: Names of the variables.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A damaged file, one of another version, a variable that is missing or holds
            something else, or more than the limit; by name.

    Example:
        >>> import tempfile
        >>> from scipy.io import savemat
        >>> path = Path(tempfile.mkdtemp()) / "a.mat"
        >>> savemat(path, {"fts": [[1.5, 2.0]], "labels": [[1]]})
        >>> read_mat(path, ["fts"])
        {'fts': array([[1.5, 2. ]])}
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with open_file(path) as file, memory_foreseen(path):
        stored = os.fstat(file.fileno()).st_size
        head = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(head[126:], "")
        version = struct.unpack(f"{order}H", head[124:126])[0] if order else None
        if version == 0x0200:
            raise ValueError(f"{path} is of MATLAB's version 7.3: save it with '-v7'.")
        found, there = {}, []
        try:
            if version != 0x0100:
                raise _DamagedError("it is of none of the versions 5 to 7.2")
            while file.tell() < stored:
                outer = _Elements(path, file, order, left=stored - file.tell())
                kind, size, _ = outer.tag()
                if size > outer.left:
                    raise _DamagedError("it ends inside a variable")
                end = file.tell() + size
                variable = _variable(outer, kind, size)
                there.append(variable.name)
                if variable.name in names:
                    found[variable.name] = variable.numbers()
                file.seek(end)
        except (_DamagedError, zlib.error) as error:
            raise ValueError(f"{path} is no complete MATLAB file: {error}.") from None
    for name in names:
        if name not in found:
            raise ValueError(f"{path} has no variable {name!r}; it has {', '.join(there)}.")
    return found


class _DamagedError(ValueError):
    """What a file announces and does not hold."""


class _Inflated(io.RawIOBase):
    """Unpacks bytes of a file as they are read.

    Args:
        file: File, at their beginning.
        size: Number of packed bytes.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.left = size
        self.stream = zlib.decompressobj()

    def readinto(self, buffer: Any) -> int:
        while not self.stream.eof:
            packed = self.stream.unconsumed_tail
            if not packed:
                packed = self.file.read(min(self.left, _BLOCK))
                self.left -= len(packed)
            block = self.stream.decompress(packed, len(buffer))
            if block or not packed:
                buffer[: len(block)] = block
                return len(block)
        return 0


@dataclass
class _Elements:
    """Reads elements, each a tag and its content, and nothing behind what is left.

    Args:
        path: File, for messages.
        stream: What is read.
        order: Order of bytes.
        left: Bytes that are left.
        packed: Whether they are unpacked as they are read.
    """

    path: Path
    stream: Any
    order: str
    left: int
    packed: bool = False

    def tag(self) -> tuple[int, int, bool]:
        """Return type and size of an element, and whether its content lies in its tag."""
        (first,) = struct.unpack(f"{self.order}I", self._take(4))
        if first >> 16:
            return first & 0xFFFF, first >> 16, True
        return first, struct.unpack(f"{self.order}I", self._take(4))[0], False

    def content(self, types: Container[int]) -> tuple[int, bytearray]:
        """Return type and content of an element of one of some types."""
        kind, size, is_small = self.tag()
        if kind not in types or (is_small and size > 4):
            raise _DamagedError(f"an element of type {kind} and {size:,} bytes is in a wrong place")
        found = self._take(size)
        self._take(min(4 - size if is_small else -size % 8, self.left))
        return kind, found

    def _take(self, size: int) -> bytearray:
        if size > self.left:
            raise _DamagedError(f"{size:,} bytes are announced where {self.left:,} are left")
        if self.packed:
            check_size(self.path, size, "a variable")
        self.left -= size
        found = bytearray(size)
        view, there = memoryview(found), 0
        while there < size:
            count = self.stream.readinto(view[there : there + _BLOCK])
            if not count:
                raise _DamagedError("it ends inside a variable")
            there += count
        return found


@dataclass
class _Variable:
    """A variable whose numbers are not read yet."""

    name: str
    flags: int
    shape: tuple[int, ...]
    elements: _Elements

    def numbers(self) -> np.ndarray:
        """Return the numbers, of the type that they are stored in."""
        path, number = self.elements.path, self.flags & 0xFF
        kind = "complex" if self.flags & _COMPLEX else _CLASSES.get(number, "object")
        if number not in _NUMBERS or self.flags & _COMPLEX:
            raise ValueError(f"{path}, {self.name} must be an array of real numbers, not {kind}.")
        count = math.prod(self.shape)
        # beside the numbers of the file those of single precision
        size = path.stat().st_size
        check_size(path, 12 * count, f"{self.name} of shape {self.shape}", stored=size)
        stored, content = self.elements.content(_TYPES)
        dtype = np.dtype(self.elements.order + _TYPES[stored])
        if count * dtype.itemsize != len(content):
            raise _DamagedError(f"{self.name} has {len(content):,} bytes for shape {self.shape}")
        return np.frombuffer(content, dtype).reshape(self.shape, order="F")


def _variable(outer: _Elements, kind: int, size: int) -> _Variable:
    """Read the beginning of a variable, whose own tag may be packed, too."""
    elements = outer
    if kind == _COMPRESSED:
        stream = _Inflated(outer.stream, size)
        elements = _Elements(outer.path, stream, outer.order, MAX_GZIP * size, packed=True)
        kind, size, _ = elements.tag()
    if kind != _MATRIX or size > elements.left:
        raise _DamagedError(f"an element of type {kind} and {size:,} bytes is no variable")
    elements.left = size
    flags = elements.content(_FLAGS)[1]
    if len(flags) != 8:
        raise _DamagedError("a variable has no flags")
    (number,) = struct.unpack(f"{outer.order}I", flags[:4])
    lengths = b"" if number & 0xFF == _OPAQUE else elements.content(_LENGTHS)[1]
    shape = tuple(np.frombuffer(lengths[: len(lengths) // 4 * 4], f"{outer.order}i4").tolist())
    name = elements.content(_NAME)[1].decode("latin-1").rstrip("\0")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise _DamagedError("a variable has no name")
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise _DamagedError(f"{name} has no shape")
    return _Variable(name, number, shape, elements)
