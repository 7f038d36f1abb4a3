"""Data sets of HDF5 files, read only where all of their values are stored in the file itself."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framework.utilities.limits import MAX_GZIP, check_size, memory_foreseen
from framework.utilities.packages import require_package

_CHECKSUM = 4
"""Bytes that the filter fletcher32 adds to a chunk."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file of ``h5py`` for reading, inside the block.

    Raises:
        ImportError: ``h5py`` is missing.
        ValueError: The file is none, or the block raises what ``h5py`` does of a damaged one.
    """
    require_package("h5py", extra="hdf5", purpose=str(path))
    import h5py

    try:
        with memory_foreseen(path), h5py.File(path, "r") as file:
            yield file
    # h5py's and those of gzip, by which byte is damaged
    except (OSError, RuntimeError, TypeError, ValueError, KeyError, zlib.error) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is no complete HDF5 file: {error}") from None


def find_dataset(file: Any, name: str) -> Any:
    """Return a data set of an open file that reading takes no more than the limit, or None.

    Links to other places, values in other files, and filters other than gzip, shuffle and
    checksums, which plugins of HDF5 may be, are refused.

    Args:
        file: File of ``h5py``.
        name: Path of the data set in it.

    Raises:
        ValueError: One of these, values that are not stored, or more than the limit.
    """
    import h5py

    place = f"{file.filename}, {name}"
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise ValueError(f"{place} is a link to another place, which is not followed.")
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        return None
    layout = found.id.get_create_plist()
    codes = [layout.get_filter(k)[0] for k in range(layout.get_nfilters())]
    known = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    if found.is_virtual or found.external:
        raise ValueError(f"{place} has its values in other files, which are not read.")
    if not known.issuperset(codes) or len({*codes}) < len(codes):
        raise ValueError(f"{place} must be stored plain or by gzip, not by the filters {codes}.")
    item = found.id.get_type().get_size()
    shape = found.shape if found.chunks is None else found.chunks
    one = math.prod(shape) * item  # a chunk is stored whole at the borders, too
    sides = zip(found.shape, shape, strict=True)
    number = math.prod(-(-length // side) if side else 0 for length, side in sides)
    stored = found.id.get_storage_size()
    packed = h5py.h5z.FILTER_DEFLATE in codes
    check_size(place, one * number, "its values", 0 if packed else stored)
    if one * number > (MAX_GZIP * stored if packed else stored):
        raise ValueError(f"{place}: {one * number:,} bytes are announced, and {stored:,} stored.")
    if packed:
        _check_chunks(found, place, one, codes.index(h5py.h5z.FILTER_DEFLATE))
    return found


def _check_chunks(dataset: Any, place: str, size: int, gzip: int) -> None:
    """Raise if a chunk unpacks to more than its size, as HDF5 would take all of it."""
    end = dataset.file.id.get_filesize()
    for region in dataset.iter_chunks():
        start = tuple(part.start for part in region)
        chunk = dataset.id.get_chunk_info_by_coord(start)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > end:
            raise ValueError(f"{place}: a chunk of {chunk.size:,} bytes is not stored in the file.")
        mask, stored = dataset.id.read_direct_chunk(start)
        if mask >> gzip & 1:
            continue
        stream = zlib.decompressobj()
        stream.decompress(stored, size + _CHECKSUM + 1)
        if not stream.eof:
            raise ValueError(f"{place}: a chunk unpacks to more than its {size:,} bytes.")
