"""Arrays of numbers in NumPy's files, whose sizes are checked before they are read."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy

from framework.utilities.error_reason import reason_of
from framework.utilities.limits import (
    MAX_GZIP,
    FileTooLargeError,
    check_size,
    memory_foreseen,
    open_file,
)

_LONGEST_HEADER = 10_000
"""Bytes of a header, as NumPy limits it, but before it is read."""


def read_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds less than its header announces, Python objects or no array.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npy"
        >>> np.save(path, np.arange(3))
        >>> read_npy(path)
        array([0, 1, 2])
    """
    with _reading(path), open_file(path) as file:
        return _read(file, os.fstat(file.fileno()).st_size)


def map_npy(path: Path, mode: Literal["r", "c"]) -> np.ndarray:
    """Return the array of a ``.npy`` file mapped into memory, by a mode of ``np.memmap``."""
    with _reading(path):
        with open_file(path) as file:
            _check_header(file, os.fstat(file.fileno()).st_size)
        return np.load(path, mmap_mode=mode, allow_pickle=False)


def read_arrays(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Return the arrays of a ``.npz`` file by name, or that of a ``.npy`` file by the file's name.

    Args:
        path: The file.
        wanted: Whether the array of a name is read; others of a ``.npz`` file may hold anything.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: See ``read_npy``, or the arrays take more memory than the limit.
    """
    with _reading(path), open_file(path) as file:
        stored = os.fstat(file.fileno()).st_size
        if file.read(2) != b"PK":
            file.seek(0)
            return {path.stem: _read(file, stored)}
        with zipfile.ZipFile(file) as archive:
            names = {entry: entry.filename.removesuffix(".npy") for entry in archive.infolist()}
            entries = [entry for entry, name in names.items() if wanted(name)]
            check_size(path, sum(entry.file_size for entry in entries), "its arrays", stored)
            if sum(entry.compress_size for entry in entries) > stored:
                raise ValueError("its arrays lie in the same bytes")
            arrays = {}
            for entry in entries:
                if entry.file_size > MAX_GZIP * entry.compress_size:
                    raise ValueError(f"{entry.filename} cannot unpack to {entry.file_size:,} bytes")
                with archive.open(entry) as member:
                    arrays[names[entry]] = _read(member, entry.file_size)
            return arrays


def _read(file: IO[bytes], size: int) -> np.ndarray:
    _check_header(file, size)
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise unless a file of ``size`` bytes can hold the array of its header."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} is of arrays with named fields")
    if version == (2, 0) and int.from_bytes(file.read(4), "little") > _LONGEST_HEADER:
        raise ValueError("its header is too long")
    file.seek(npy.MAGIC_LEN)
    shape, _, dtype = readers[version](file)
    if dtype.hasobject or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"it holds {dtype} of shape {shape}, no numbers")
    there = size - file.tell()
    if math.prod(shape) * dtype.itemsize > there:
        raise ValueError(f"{dtype} of shape {shape} does not fit into the {there:,} bytes there")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise a ``ValueError`` that names the file where NumPy raises anything."""
    try:
        with memory_foreseen(path):
            yield
    except (FileNotFoundError, FileTooLargeError):
        raise
    except Exception as error:  # of many kinds, by which byte is damaged
        raise ValueError(
            f"{path} is no complete file of numbers by NumPy: {reason_of(error)}."
        ) from None
